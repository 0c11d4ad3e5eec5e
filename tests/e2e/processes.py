"""`dprag` servers as processes of their own, and a proxy that records every byte between two of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

COMMAND = [sys.executable, "-m", "distilledprag"]
ENGINE_KEY = "the-engine-key-of-this-test"


@contextlib.contextmanager
def server(*arguments, **variables) -> Iterator[tuple[subprocess.Popen, str]]:
    """A running `dprag` server and its address; killed at the end if it still runs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert " on http" in line, line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def engine(folder, base, *options, port=0):
    """`dprag engine` with one key. base: a folder; None: the default one."""
    keys = folder / "keys"
    keys.write_text(ENGINE_KEY + "\n")
    model = ["--model", base] if base else []
    with server("engine", "--port", port, "--api-key-file", keys, *model, *options) as running:
        yield running


@contextlib.contextmanager
def gateway(folder, engine_url, base, *options):
    """`dprag gateway` over the store `folder/store`. base: as for `engine`."""
    arguments = ["--port", 0, "--engine", engine_url, "--store", folder / "store", *(["--base", base] if base else []), *options]
    with server("gateway", *arguments, DPRAG_ENGINE_API_KEY=ENGINE_KEY) as running:
        yield running


@dataclass
class Recording:
    """Everything that went to the engine, one entry a connection."""

    url: str
    connections: list[bytearray] = field(default_factory=list)

    @property
    def bytes(self) -> bytes:
        return b"\n".join(map(bytes, self.connections))


@contextlib.contextmanager
def recording_proxy(target: str) -> Iterator[Recording]:
    """A TCP proxy before the server at `target`; what clients send is recorded as it is passed on."""
    host, port = target.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    recording = Recording(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def pass_on(source, sink, kept):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if kept is not None:
                    kept += piece
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                behind = socket.create_connection((host, int(port)))
                recording.connections.append(bytearray())
                for ends in ((client, behind, recording.connections[-1]), (behind, client, None)):
                    threading.Thread(target=pass_on, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield recording
    finally:
        listener.close()
