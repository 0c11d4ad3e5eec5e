"""`dprag serve`: engine and gateway on the loopback interface, as two processes, and the page in a browser."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from distilledprag.cli.store import BY_WORDS, Search
from distilledprag.documents.reading import USUAL, Reading
from distilledprag.errors import ConfigError

_START_SECONDS = 120.0  # for a server to answer
_STOP_SECONDS = 20.0
_STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
_SET_PARENT_DEATH_SIGNAL = 1  # Linux's prctl


class StoppedError(Exception):
    """The user asked to stop."""


def run(
    store: str,
    port: int,
    engine_port: int,
    base: str | None,
    rows: float | None,
    allow_plaintext: bool,
    browser: bool,
    files: Reading = USUAL,
    search: Search = BY_WORDS,
) -> None:
    """Start both servers, and stop both when this process is stopped. Raises ConfigError when one does not start, or ends."""
    from distilledprag.base.default import default_base
    from distilledprag.base.prepared import encoder_folder
    from distilledprag.cli import engine, gateway
    from distilledprag.documents.database import without_password

    engine.require_packages()
    gateway.require_packages()
    console = Console(highlight=False)
    encoder = encoder_folder(base or default_base(console.print))  # all of the base that the trusted side needs
    model_options = ["--model", base] if base else []
    if not (encoder / "config.json").is_file():
        raise ConfigError(
            f"there is no {encoder}, the part of the base that encodes documents; `dprag prepare-base` writes it beside the base"
        )
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, _stop)
    with contextlib.ExitStack() as stack:
        try:
            key = secrets.token_hex(24)
            with tempfile.TemporaryDirectory(prefix="dprag-") as folder, console.status("starting the engine"):
                key_file = Path(folder) / "engine-key"
                key_file.touch(mode=0o600)
                key_file.write_text(f"{key}\n")
                command = ["engine", "--port", str(engine_port), "--api-key-file", str(key_file), *model_options]
                engine_process, engine_url = stack.enter_context(_server(command))  # which has read the key then
            with console.status("starting the gateway"):
                command = ["gateway", "--engine", engine_url, "--store", store, "--port", str(port)]
                command += ["--base", str(encoder)]
                command += ["--allow-plaintext"] if allow_plaintext else []
                command += [] if rows is None else ["--rows", str(rows)]
                command += files.arguments() + search.arguments()
                gateway_process, url = stack.enter_context(_server(command, DPRAG_ENGINE_API_KEY=key))
            print(f"gateway on {url}", flush=True)
            kept = without_password(store)
            console.print(
                f"Open [bold]{url}[/bold], drop documents and ask. They are kept in {kept}; the engine never sees them."
            )
            console.print(f"From an OpenAI client: base_url={url}/v1, model=distilledprag. Ctrl-C stops both.")
            if browser:
                webbrowser.open(url)
            _watch({"engine": engine_process, "gateway": gateway_process})
        except (KeyboardInterrupt, StoppedError):
            for number in _STOPPING:  # a second one must not keep the servers from being stopped
                signal.signal(number, signal.SIG_IGN)
            with contextlib.suppress(OSError):  # a terminal that was closed
                console.print("stopping")


@contextlib.contextmanager
def _server(command: list[str], **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `dprag` server as a process of its own, once it answers, and its address; it is stopped at the end.

    Raises ConfigError when it ends before it answers; what it said is on stderr then.
    """
    environment = {**os.environ, **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "distilledprag", *command],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process only, which then stops both in order
        preexec_fn=_end_with(os.getpid()),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # a server says where it listens when it answers
        if " on http" not in line:
            process.wait(_START_SECONDS)
            raise ConfigError(f"the {command[0]} did not start; its message is above")
        yield process, line.rpartition(" ")[2].strip()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _end_with(parent: int) -> Callable[[], None] | None:
    """What a server does first, so that it ends with this process however that ends; None where the system has no way."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork only calls are safe

    def ask_for_signal() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return ask_for_signal


def _watch(processes: dict[str, subprocess.Popen[str]]) -> None:
    """Return never; raises ConfigError when one of them ends."""
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ConfigError(f"the {name} ended (exit code {process.returncode}); the other one is stopped too")
        time.sleep(0.3)


def _stop(*_: object) -> None:
    raise StoppedError
