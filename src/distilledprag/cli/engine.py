"""`dprag engine`: serve a base LLM and adapters that strangers send, OpenAI-compatible. Options are named as vLLM names them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from distilledprag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from distilledprag.engine.service import Engine, Settings

_DTYPES = ("float32", "bfloat16", "float16")
_BACKENDS = ("embedded", "vllm")
_RANKS = {"embedded": 256, "vllm": 512}  # of LoRA adapters, unless it is said otherwise
_SHARE_OF_A_KEY = 4  # one key may take a fourth of what all may, unless it is said otherwise


@dataclass(frozen=True)
class EngineOptions:
    """The command's options. adapter_memory: MiB of adapters; adapter_ttl, request_timeout: seconds; max_num_seqs: requests
    decoded together; max_queue: waiting requests. max_queue_per_key, adapter_memory_per_key: what one key may take of these, a
    fourth where it is None. vllm_python, vllm_url: of the backend vllm, the Python that starts it or where it is."""

    host: str
    port: int
    model: str | None
    served_model_name: str
    api_key_file: Path | None
    metrics_key_file: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    max_num_seqs: int
    max_queue: int
    adapter_memory: int
    adapters_per_key: int
    adapter_ttl: float
    request_timeout: float
    max_lora_rank: int | None
    max_answer_tokens: int
    dtype: str
    max_queue_per_key: int | None = None
    adapter_memory_per_key: int | None = None
    backend: str = "embedded"
    vllm_python: str | None = None
    vllm_url: str | None = None
    vllm_args: str = ""
    max_loras: int = 8
    max_cpu_loras: int = 64


def settings_of(options: EngineOptions) -> Settings:
    """The engine's settings; raises ConfigError for a key's share that is larger than the whole."""
    from distilledprag.engine.adapter_store import Quotas
    from distilledprag.engine.backend import Limits
    from distilledprag.engine.service import Settings

    memory, memory_per_key = options.adapter_memory * 2**20, options.adapter_memory_per_key
    return Settings(
        served_model_name=options.served_model_name,
        limits=Limits(max_num_seqs=options.max_num_seqs, adapter_bytes=memory),
        quotas=Quotas(
            ttl=options.adapter_ttl,
            per_tenant=options.adapters_per_key,
            bytes_per_tenant=_share("adapter-memory", memory_per_key and memory_per_key * 2**20, memory),
            bytes=memory,
        ),
        max_queue=options.max_queue,
        max_queue_per_tenant=_share("max-queue", options.max_queue_per_key, options.max_queue),
        request_timeout=options.request_timeout,
        max_answer_tokens=options.max_answer_tokens,
        max_lora_rank=options.max_lora_rank or _RANKS[options.backend],
    )


def _share(name: str, asked: int | None, whole: int) -> int:
    if asked is not None and asked > whole:
        raise ConfigError(
            f"--{name}-per-key is larger than --{name}, which is for all keys together; lower it or raise the other"
        )
    return asked if asked is not None else max(1, whole // _SHARE_OF_A_KEY)


def run(options: EngineOptions) -> None:
    """Serve until stopped. Raises ConfigError for options that cannot be; most are checked before torch is imported."""
    require_packages(options.backend)
    from distilledprag.http import telemetry
    from distilledprag.http.listening import Tls, address_of, bind, check_exposure, serve
    from distilledprag.http.middleware import ApiKeys

    console = Console(stderr=True, highlight=False)
    keys, metrics_keys = ApiKeys.from_file(options.api_key_file), ApiKeys.from_file(options.metrics_key_file)
    check_exposure("an engine", options.host, keys.required)
    if options.backend not in _BACKENDS:
        raise ConfigError(f"--backend is {options.backend!r}; use one of {', '.join(_BACKENDS)}")
    if options.dtype not in ("auto", *_DTYPES):
        raise ConfigError(f"--dtype is {options.dtype!r}; use auto or one of {', '.join(_DTYPES)}")
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise ConfigError("TLS needs both --tls-certificate and --tls-key")
    tls = Tls(options.tls_certificate, options.tls_key) if options.tls_certificate and options.tls_key else None
    settings = settings_of(options)
    listener = bind(options.host, options.port)
    try:
        from distilledprag.engine.application import Metrics, build_application

        metrics = Metrics()
        made = _on_vllm if options.backend == "vllm" else _embedded
        with made(options, settings, metrics.rows.observe) as engine:
            if not keys.required:
                console.print("no --api-key-file: every program of this machine may use the engine, and all share their adapters")
            _log_as_json()
            telemetry.start("dprag-engine", console.print)
            scheme = "https" if tls else "http"
            application = build_application(engine, keys, metrics, metrics_keys)
            serve(application, listener, lambda: print(f"engine on {address_of(listener, scheme)}", flush=True), tls)
    finally:
        telemetry.stop()
        listener.close()


@contextlib.contextmanager
def _embedded(options: EngineOptions, settings: Settings, on_step: Callable[[int], None]) -> Iterator[Engine]:
    """An engine whose model runs in this process."""
    import torch

    from distilledprag.base.default import default_base
    from distilledprag.base.llm import chosen_device, load_base
    from distilledprag.base.prepared import RECORD, prepared_record
    from distilledprag.engine.service import Engine

    device = chosen_device()
    # The default base is stored in half precision, which processors compute slowly.
    usual = torch.float32 if options.model is None and device == "cpu" else None
    dtype = usual if options.dtype == "auto" else getattr(torch, options.dtype)
    folder = options.model or default_base()
    base = load_base(folder, device=device, dtype=dtype)
    prepared = (Path(folder).expanduser() / RECORD).is_file()
    yield Engine(base, settings, on_step=on_step, numbered=prepared_record(folder).numbered if prepared else range(0))


@contextlib.contextmanager
def _on_vllm(options: EngineOptions, settings: Settings, _: Callable[[int], None]) -> Iterator[Engine]:
    """An engine before a vLLM that it starts, or that listens at `vllm_url`; at the end nothing of it is left."""
    from distilledprag.base.architecture import module_key, module_shapes
    from distilledprag.base.default import default_base
    from distilledprag.base.llm import chosen_device, describe_base
    from distilledprag.base.prepared import prepared_record
    from distilledprag.engine.backend import suppressed_tokens
    from distilledprag.engine.service import Engine
    from distilledprag.engine.tokenization import Tokenization
    from distilledprag.engine.vllm_adapters import PrivateFolder
    from distilledprag.engine.vllm_backend import VllmBackend
    from distilledprag.engine.vllm_plugin import ARCHITECTURE
    from distilledprag.engine.vllm_server import (
        KEY_VARIABLE,
        PYTHON_VARIABLE,
        VllmClient,
        VllmOptions,
        VllmProcess,
        has_plugin,
        split_arguments,
    )
    from distilledprag.lora.validation import AdapterSpec

    folder = Path(options.model or default_base()).expanduser()
    base, record = describe_base(folder), prepared_record(folder)
    python = options.vllm_python or os.environ.get(PYTHON_VARIABLE)
    if not options.vllm_url and not python:
        raise ConfigError(
            "--backend vllm needs an environment that has vLLM: name its Python with --vllm-python (or the variable "
            f"{PYTHON_VARIABLE}), or a vLLM that runs on this machine with --vllm-url"
        )
    if options.vllm_url and options.vllm_args:
        raise ConfigError("--vllm-args is for a vLLM that the engine starts; leave it out with --vllm-url")
    # Adapters change one module each. A vLLM whose other modules take adapters too is much slower.
    shapes = module_shapes(base.model.config, ("down_proj",))
    plain, exact = module_key(record.plain_layer, "down_proj"), module_key(record.layer, "down_proj")
    spec = AdapterSpec({plain: shapes[plain]}, identity=base.identity, maximum_rank=settings.max_lora_rank)
    usual = "float32" if chosen_device() == "cpu" else str(base.model.config.dtype).removeprefix("torch.")
    dtype = usual if options.dtype == "auto" else options.dtype
    # Half precision has no number as small as the plugin's mark.
    plugged = not options.vllm_url and base.model.config.model_type == "llama" and dtype != "float16" and has_plugin(str(python))
    command = VllmOptions(
        python or "",
        folder.resolve(),
        (plain, exact) if plugged and exact != plain else (plain,),
        options.max_loras,
        options.max_cpu_loras,
        settings.max_lora_rank,
        options.max_num_seqs,
        ARCHITECTURE if plugged else None,
        dtype,
        tuple(split_arguments(options.vllm_args)),
    )
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(PrivateFolder())
        process = None if options.vllm_url else stack.enter_context(VllmProcess(command, private.path))
        if process is not None:
            client = VllmClient(socket=process.socket)
            process.wait_ready(client)
        else:
            client = VllmClient(url=str(options.vllm_url), key=os.environ.get(KEY_VARIABLE) or None)
        backend = VllmBackend(
            client,
            process,
            private.path,
            spec,
            Tokenization(base).stop_ids,
            suppressed_tokens(base),
            most=options.max_num_seqs,
            most_adapters=options.max_cpu_loras,
            states={exact: shapes[exact]} if plugged else None,
        )
        length, numbered = backend.context_length, record.numbered
        yield Engine(base, settings, backend=backend, context_length=length, numbered=numbered, spec=spec)


def require_packages(backend: str = "embedded") -> None:
    """Raise ConfigError when the packages of the extra are not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401

        if backend == "vllm":
            import httpx2  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"the engine needs more packages ({error.name}); pip install 'distilledprag[engine]'") from error


class _JsonLines(logging.Formatter):
    """One JSON object a line; a request's record is one already. Tracebacks are shortened to their type: they may hold text."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if message.startswith("{"):
            return message
        fields = {"time": round(record.created, 3), "level": record.levelname, "logger": record.name, "message": message}
        if record.exc_info and record.exc_info[0]:
            fields["error"] = record.exc_info[0].__name__
        return json.dumps(fields)


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("distilledprag.engine").setLevel(logging.INFO)
