"""A vLLM server that only this engine can reach: its process, and its routes as the engine uses them.

vLLM's own HTTP interface loads adapters from paths that a request names, and answers some routes without a key. So it listens on
a Unix socket in a folder that only this user can enter; no other machine, and no other user, can connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from distilledprag.base.architecture import BACKBONE_PATH
from distilledprag.base.llm import chosen_device
from distilledprag.engine.vllm_adapters import GROUP, SHARED
from distilledprag.errors import ConfigError
from distilledprag.http.listening import is_loopback

PYTHON_VARIABLE = "DPRAG_VLLM_PYTHON"  # the Python in whose environment vLLM is installed
KEY_VARIABLE = "DPRAG_VLLM_API_KEY"  # of a vLLM that somebody else has started
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started with; adapters may have fewer
NAME = "base"
_START_SECONDS = 600.0
_STOP_SECONDS = 15.0
_KEPT_LINES = 40  # of what vLLM says before it is ready
_OWN_OPTIONS = (
    "--model", "--served-model-name", "--host", "--port", "--uds", "--api-key", "--enable-lora", "--no-enable-lora",
    "--max-loras", "--max-cpu-loras", "--max-lora-rank", "--lora-modules", "--lora-target-modules", "--max-num-seqs",
    "--generation-config", "--hf-overrides", "--config", "--grpc", "--enable-log-requests", "--enable-log-outputs",
    "--allowed-origins", "--structured-outputs-config",
)  # fmt: skip


class VllmError(Exception):
    """vLLM answered with an error. status: its HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"vLLM answered with status {status}")
        self.status = status


class VllmGoneError(Exception):
    """vLLM cannot be reached, or ended in the middle of an answer."""


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM is started. python: of the environment that has it. model: the prepared base. max_loras: adapters in one batch;
    max_cpu_loras: that it holds; both without the one that changes nothing. max_lora_rank: of an adapter. modules: that adapters
    change. architecture: of our plugin, None for vLLM's own. dtype: "auto" or a name. arguments: further ones of vLLM's own."""

    python: str
    model: Path
    modules: tuple[str, ...]
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    max_num_seqs: int
    architecture: str | None = None
    dtype: str = "auto"
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_cpu_loras < self.max_loras:
            raise ConfigError("--max-cpu-loras may not be lower than --max-loras: vLLM holds what it runs")
        if not 1 <= self.max_lora_rank <= RANKS[-1]:
            raise ConfigError(f"vLLM serves adapters of rank 1 to {RANKS[-1]}; lower --max-lora-rank")
        for argument in self.arguments:
            if argument.partition("=")[0] in _OWN_OPTIONS:
                raise ConfigError(f"--vllm-args may not have {argument.partition('=')[0]}: the engine itself decides it")

    def command(self, socket: Path, model: Path) -> list[str]:
        rank = next(rank for rank in RANKS if rank >= self.max_lora_rank)
        modules = [f"{BACKBONE_PATH}.{module}" for module in self.modules]
        ours: list[str] = []
        if self.architecture:  # compiled, the model would not see what each step writes
            ours = ["--hf-overrides", json.dumps({"architectures": [self.architecture]}), "--enforce-eager"]
        return [
            self.python, "-m", "vllm.entrypoints.openai.api_server", "--uds", str(socket),
            "--model", str(model), "--served-model-name", NAME, "--dtype", self.dtype, "--generation-config", "vllm",
            "--max-num-seqs", str(self.max_num_seqs), "--enable-lora", "--max-loras", str(self.max_loras + 1),
            "--max-cpu-loras", str(self.max_cpu_loras + 1), "--max-lora-rank", str(rank),
            "--lora-target-modules", *modules, *ours,
            "--structured-outputs-config", '{"backend": "guidance"}',
            "--disable-uvicorn-access-log", "--disable-fastapi-docs", *self.arguments,
        ]  # fmt: skip


class VllmProcess:
    """Starts vLLM, and starts it again when it has ended. Its output is read, and kept only until it is ready: afterwards it
    could tell of requests. folder: a private one (`PrivateFolder`); vLLM's socket is there."""

    def __init__(self, options: VllmOptions, folder: Path) -> None:
        self._options, self._folder = options, folder
        self.socket = folder / "vllm.sock"
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._ready = threading.Event()

    def __enter__(self) -> VllmProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Begin to start it, anew if it has ended. Raises ConfigError when there is no such Python."""
        self.stop()
        self.socket.unlink(missing_ok=True)
        self._said.clear()
        self._ready = threading.Event()
        own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        own |= {"VLLM_TARGET_DEVICE": "cpu"} if chosen_device() == "cpu" else {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_LORA_RESOLVER")}
        try:
            self._process = subprocess.Popen(
                self._options.command(self.socket, self._options.model),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=inherited | own,
                cwd=self._folder,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(
                f"vLLM cannot be started with {self._options.python} ({error.strerror}); name the Python of an environment that "
                f"has it: --vllm-python, or the variable {PYTHON_VARIABLE}"
            ) from error
        (self._folder / GROUP).write_text(str(self._process.pid))  # for the guard
        threading.Thread(target=self._listen, args=(self._process, self._ready), name="vllm-output", daemon=True).start()

    def wait_ready(self, client: VllmClient) -> None:
        """Return when it answers. Raises ConfigError when it ends before, or takes too long, with what it said."""
        deadline = time.monotonic() + _START_SECONDS
        while not client.healthy():
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                said = "\n".join(self._said)
                raise ConfigError(f"vLLM did not start; the last it said:\n{said}")
            time.sleep(0.2)
        self.is_ready()

    def is_ready(self) -> None:
        """It answers requests now: what it says from here on is not kept."""
        self._ready.set()
        self._said.clear()
        if self._process is not None:
            (self._folder / SHARED).write_text("".join(f"{name}\n" for name in _shared_memory(self._process.pid)))

    def stop(self) -> None:
        """End it and all its processes."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (self._folder / GROUP).write_text("")
        shared = self._folder / SHARED
        for name in shared.read_text().splitlines() if shared.exists() else ():
            Path(name).unlink(missing_ok=True)

    def _listen(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not ready.is_set():
                self._said.append(line.rstrip())


class VllmClient:
    """vLLM's routes. socket: of our own vLLM; url: of one that somebody else started, on the loopback interface.

    Use the asynchronous methods within one event loop, and `close` them there.
    """

    def __init__(self, *, socket: Path | None = None, url: str = "http://vllm", key: str | None = None) -> None:
        if socket is None and not is_loopback(httpx2.URL(url).host):
            raise ConfigError(f"{url} is not on this machine; vLLM must listen on the loopback interface only (--host 127.0.0.1)")
        self._common: dict[str, Any] = {
            "base_url": url.rstrip("/").removesuffix("/v1"),
            "headers": {"authorization": f"Bearer {key}"} if key else {},
            "trust_env": False,
        }
        self._socket = None if socket is None else str(socket)
        self._client: httpx2.AsyncClient | None = None

    def healthy(self) -> bool:
        """Whether it answers, within ten seconds."""
        transport = httpx2.HTTPTransport(uds=self._socket, verify=False)
        with httpx2.Client(**self._common, transport=transport, timeout=10) as client:
            try:
                return client.get("/health").status_code == 200
            except httpx2.HTTPError:
                return False

    def model(self) -> dict[str, Any]:
        """Its own entry of the base model. Raises ConfigError when it does not answer as vLLM does."""
        transport = httpx2.HTTPTransport(uds=self._socket, verify=False)
        with httpx2.Client(**self._common, transport=transport, timeout=10) as client:
            try:
                response = client.get("/v1/models")
                entries = response.json()["data"] if response.status_code == 200 else []
                return next(entry for entry in entries if not entry.get("parent"))
            except (httpx2.HTTPError, ValueError, KeyError, TypeError, StopIteration) as error:
                raise ConfigError(
                    f"{self._common['base_url']} does not answer as vLLM does ({type(error).__name__}); check the address, and "
                    f"the key in {KEY_VARIABLE}"
                ) from error

    async def load(self, name: str, folder: Path, *, in_place: bool = False) -> None:
        """Have it load the adapter of `folder`. Raises VllmError, VllmGoneError."""
        await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder), "load_inplace": in_place})

    async def unload(self, name: str) -> None:
        """Errors as in `load`."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def completions(self, fields: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The choices that a streamed completion brings, in order. Leaving it ends the request. Errors as in `load`."""
        try:
            async with self._open.stream("POST", "/v1/completions", json=fields) as response:
                if response.status_code != 200:
                    raise VllmError(response.status_code)
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    event = json.loads(data)
                    if "error" in event:
                        raise VllmError(int(event["error"].get("code") or 500))
                    for choice in event.get("choices", ()):
                        yield choice
        except (httpx2.HTTPError, ValueError) as error:
            raise VllmGoneError from error

    async def answers(self) -> bool:
        """`healthy`, without blocking the loop."""
        return await asyncio.to_thread(self.healthy)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @property
    def _open(self) -> httpx2.AsyncClient:
        if self._client is None:
            transport = httpx2.AsyncHTTPTransport(uds=self._socket, verify=False, limits=httpx2.Limits(max_connections=None))
            timeout = httpx2.Timeout(None, connect=10)
            self._client = httpx2.AsyncClient(**self._common, transport=transport, timeout=timeout)
        return self._client

    async def _post(self, path: str, fields: dict[str, Any]) -> None:
        try:
            response = await self._open.post(path, json=fields)
        except httpx2.HTTPError as error:
            raise VllmGoneError from error
        if response.status_code != 200:
            raise VllmError(response.status_code)


def _shared_memory(group: int) -> set[str]:
    """Shared memory and semaphores that Python's processes of a process group have made, as files."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(maps.parent.name)) == group:
                found |= set(re.findall(r"/dev/shm/(?:psm_|sem\.mp-)\w+$", maps.read_text(), re.MULTILINE))
    return found


def has_plugin(python: str) -> bool:
    """Whether this package is installed beside vLLM, which then loads `vllm_plugin`."""
    code = "import importlib.metadata as m; print(*(one.value for one in m.entry_points(group='vllm.general_plugins')))"
    try:
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return "distilledprag.engine.vllm_plugin:register" in told.split()


def split_arguments(text: str) -> Sequence[str]:
    """`--vllm-args` as a list."""
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--vllm-args cannot be read ({error}); quote it as a shell would") from error
