"""`dprag engine`: serve a base LLM and adapters that strangers send, OpenAI-compatible."""

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


_SHARE_OF_A_KEY = 4  # one key may take a fourth of what all may, unless it is said otherwise


@dataclass(frozen=True)
class EngineOptions:
    """memory: MiB of adapters; lifetime: seconds; rows: that decode together; waiting: requests. waiting_per_key, memory_per_key:
    of these what one key may take, a fourth where it is None."""

    host: str
    port: int
    model: str | None
    name: str
    api_key_file: Path | None
    metrics_key_file: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    rows: int
    waiting: int
    memory: int
    adapters_per_key: int
    lifetime: float
    request_seconds: float
    maximum_rank: int
    dtype: str
    waiting_per_key: int | None = None
    memory_per_key: int | None = None


def settings_of(options: EngineOptions) -> Settings:
    """The engine's settings; raises ConfigError for a key's share that is larger than the whole."""
    from distilledprag.engine.adapters import Quotas
    from distilledprag.engine.embedded import Limits
    from distilledprag.engine.service import Settings

    memory = options.memory * 2**20
    return Settings(
        name=options.name,
        limits=Limits(rows=options.rows, adapter_bytes=memory),
        quotas=Quotas(
            lifetime=options.lifetime,
            per_owner=options.adapters_per_key,
            bytes_per_owner=_share("memory", options.memory_per_key and options.memory_per_key * 2**20, memory),
            bytes=memory,
        ),
        waiting=options.waiting,
        waiting_per_owner=_share("waiting", options.waiting_per_key, options.waiting),
        request_seconds=options.request_seconds,
        maximum_rank=options.maximum_rank,
    )


def _share(name: str, asked: int | None, whole: int) -> int:
    if asked is not None and asked > whole:
        raise ConfigError(
            f"--{name}-per-key is larger than --{name}, which is for all keys together; lower it or raise the other"
        )
    return asked if asked is not None else max(1, whole // _SHARE_OF_A_KEY)


def run(options: EngineOptions) -> None:
    require_packages()
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    from distilledprag.engine.service import Engine
    from distilledprag.engine.web.application import build_application
    from distilledprag.engine.web.observing import Metrics
    from distilledprag.http.keys import ApiKeys
    from distilledprag.http.listening import Tls, address_of, bind, check_exposure, serve

    console = Console(stderr=True, highlight=False)
    keys, metrics_keys = ApiKeys.from_file(options.api_key_file), ApiKeys.from_file(options.metrics_key_file)
    check_exposure("an engine", options.host, keys.required)
    if options.dtype not in ("auto", *dtypes):
        raise ConfigError(f"--dtype is {options.dtype!r}; use auto or one of {', '.join(dtypes)}")
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise ConfigError("TLS needs both --tls-certificate and --tls-key")
    tls = Tls(options.tls_certificate, options.tls_key) if options.tls_certificate and options.tls_key else None
    settings = settings_of(options)
    listener = bind(options.host, options.port)
    try:
        from distilledprag.base.default import default_base
        from distilledprag.base.llm import load_base

        device = "cuda" if torch.cuda.is_available() else "cpu"
        # The default base is stored in half precision, which processors compute slowly.
        usual = torch.float32 if options.model is None and device == "cpu" else None
        dtype = usual if options.dtype == "auto" else dtypes[options.dtype]
        base = load_base(options.model or default_base(), device=device, dtype=dtype)
        metrics = Metrics()
        engine = Engine(base, settings, on_step=metrics.rows.observe)
        if not keys.required:
            console.print("no --api-key-file: every program of this machine may use the engine, and all share their adapters")
        _log_as_json()
        scheme = "https" if tls else "http"
        application = build_application(engine, keys, metrics, metrics_keys)
        serve(application, listener, lambda: print(f"engine on {address_of(listener, scheme)}", flush=True), tls)
    finally:
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
