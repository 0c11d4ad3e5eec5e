"""`dprag engine`: serve a base LLM and adapters that strangers send, OpenAI-compatible. Options are named as vLLM names them."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from distilledprag.errors import ConfigError

if TYPE_CHECKING:
    from distilledprag.engine.service import Settings

_DTYPES = ("float32", "bfloat16", "float16")
_SHARE_OF_A_KEY = 4  # one key may take a fourth of what all may, unless it is said otherwise


@dataclass(frozen=True)
class EngineOptions:
    """The command's options. adapter_memory: MiB of adapters; adapter_ttl, request_timeout: seconds; max_num_seqs: requests
    decoded together; max_queue: waiting requests. max_queue_per_key, adapter_memory_per_key: what one key may take of these, a
    fourth where it is None."""

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
    max_lora_rank: int
    max_answer_tokens: int
    dtype: str
    max_queue_per_key: int | None = None
    adapter_memory_per_key: int | None = None


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
        max_lora_rank=options.max_lora_rank,
    )


def _share(name: str, asked: int | None, whole: int) -> int:
    if asked is not None and asked > whole:
        raise ConfigError(
            f"--{name}-per-key is larger than --{name}, which is for all keys together; lower it or raise the other"
        )
    return asked if asked is not None else max(1, whole // _SHARE_OF_A_KEY)


def run(options: EngineOptions) -> None:
    """Serve until stopped. Raises ConfigError for options that cannot be; most are checked before torch is imported."""
    require_packages()
    from distilledprag.http import telemetry
    from distilledprag.http.listening import Tls, address_of, bind, check_exposure, serve
    from distilledprag.http.middleware import ApiKeys

    console = Console(stderr=True, highlight=False)
    keys, metrics_keys = ApiKeys.from_file(options.api_key_file), ApiKeys.from_file(options.metrics_key_file)
    check_exposure("an engine", options.host, keys.required)
    if options.dtype not in ("auto", *_DTYPES):
        raise ConfigError(f"--dtype is {options.dtype!r}; use auto or one of {', '.join(_DTYPES)}")
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise ConfigError("TLS needs both --tls-certificate and --tls-key")
    tls = Tls(options.tls_certificate, options.tls_key) if options.tls_certificate and options.tls_key else None
    settings = settings_of(options)
    listener = bind(options.host, options.port)
    try:
        import torch

        from distilledprag.base.default import default_base
        from distilledprag.base.llm import load_base
        from distilledprag.device import chosen_device
        from distilledprag.engine.application import build_application
        from distilledprag.engine.metrics import Metrics
        from distilledprag.engine.service import Engine

        device = chosen_device()
        # The default base is stored in half precision, which processors compute slowly.
        usual = torch.float32 if options.model is None and device == "cpu" else None
        dtype = usual if options.dtype == "auto" else getattr(torch, options.dtype)
        base = load_base(options.model or default_base(), device=device, dtype=dtype)
        metrics = Metrics()
        engine = Engine(base, settings, on_step=metrics.rows.observe)
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


def require_packages() -> None:
    """Raise ConfigError when the packages of the extra are not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
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
