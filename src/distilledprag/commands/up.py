"""`dprag up`: engine and gateway on the loopback interface, as two processes, and the page in a browser."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from distilledprag.errors import ConfigError

_START_SECONDS = 120.0  # for a server to answer
_STOP_SECONDS = 20.0


class StoppedError(Exception):
    """The user asked to stop."""


def run(
    vault: Path, port: int, engine_port: int, base: str | None, generator: str | None, allow_rag: bool, browser: bool
) -> None:
    from distilledprag.commands import engine, gateway

    engine.require_packages()
    gateway.require_packages()
    console = Console(highlight=False)
    model_options = ["--model", base] if base else []
    base_options = ["--base", base] if base else []
    generator_options = ["--generator", generator] if generator else []
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dprag-")))
            key = secrets.token_hex(24)
            key_file = folder / "engine-key"
            key_file.touch(mode=0o600)
            key_file.write_text(f"{key}\n")
            with console.status("starting the engine"):
                command = ["engine", "--port", str(engine_port), "--api-key-file", str(key_file), *model_options]
                engine_process, engine_url = stack.enter_context(_server(command))
            with console.status("starting the gateway"):
                command = ["gateway", "--engine", engine_url, "--vault", str(vault), "--port", str(port), *base_options]
                command += [*generator_options, *(["--allow-rag"] if allow_rag else [])]
                gateway_process, url = stack.enter_context(_server(command, DPRAG_ENGINE_API_KEY=key))
            print(f"gateway on {url}", flush=True)
            console.print(
                f"Open [bold]{url}[/bold], drop documents and ask. They are kept in {vault}; the engine never sees them."
            )
            console.print(f"From an OpenAI client: base_url={url}/v1, model=distilledprag. Ctrl-C stops both.")
            if browser:
                webbrowser.open(url)
            _watch({"engine": engine_process, "gateway": gateway_process})
        except (KeyboardInterrupt, StoppedError):
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


def _watch(processes: dict[str, subprocess.Popen[str]]) -> None:
    """Return never; raises ConfigError when one of them ends."""
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ConfigError(f"the {name} ended (exit code {process.returncode}); the other one is stopped too")
        time.sleep(0.3)


def _stop(*_: object) -> None:
    raise StoppedError
