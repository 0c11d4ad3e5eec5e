"""`dprag` servers as processes of their own, and a proxy that records every byte between two of them.

A process is forked from one that has imported what servers need (the standard library's fork server), once for each process of
pytest: the import takes seconds of CPU time, and the suite starts some thirty processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

ENGINE_KEY = "the-engine-key-of-this-test"

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([
    "pytest", "uvicorn", "transformers.models.llama.modeling_llama", "distilledprag.cli.main", "distilledprag.pipeline",
    "distilledprag.engine.application", "distilledprag.gateway.application",
])  # fmt: skip


class Forked:
    """A process that calls `function`, with `subprocess.Popen`'s `pid`, `stdout`, `poll`, `wait`, `kill` and `send_signal`."""

    def __init__(self, function: Callable[..., object], *arguments: Any, **variables: str) -> None:
        """variables: environment variables, besides this process's own."""
        reader, writer = _FORKS.Pipe(duplex=False)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        self._process = _FORKS.Process(target=_call, args=(writer, environment, function, arguments))
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code (below 0: the signal that ended it); None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int | None:
        self._process.join(seconds)
        return self.poll()

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _call(output: Any, environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """In the new process: as a shell would start it, its standard output being `output`."""
    os.dup2(output.fileno(), 1)
    output.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs and what they start
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    function(*arguments)


def _dprag(arguments: tuple[str, ...], executable: str) -> None:
    from distilledprag.cli.main import main

    sys.argv, sys.executable = ["dprag", *arguments], executable
    main()


@contextlib.contextmanager
def server(*arguments, executable: str = sys.executable, **variables) -> Iterator[tuple[Forked, str]]:
    """A running `dprag` server and its address; killed at the end if it still runs.

    executable: of the servers that `dprag serve` starts. variables: environment variables.
    """
    process = Forked(_dprag, tuple(map(str, arguments)), str(executable), **variables)
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
