"""Applications on real sockets, in a thread each."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from distilledprag.http.listening import Server, address_of, bind, configuration


@contextlib.contextmanager
def served(app) -> Iterator[str]:
    """The address at which `app` answers while the block runs."""
    listener = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(configuration(app), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        assert ready.wait(30)
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
