"""`dprag gateway`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distilledprag.errors import ConfigError


@dataclass(frozen=True)
class GatewayOptions:
    """The command's options, as the command line names them. adapter_memory: MiB."""

    host: str
    port: int
    engine: str
    store: Path
    api_key_file: Path | None
    allowed_hosts: list[str]
    allow_rag: bool
    quotes: str
    adapter_memory: int
    engine_ca: Path | None
    accept_any_model: bool
    base: str | None


def run(options: GatewayOptions) -> None:
    require_packages()
    from distilledprag.gateway.outbound import EngineClient
    from distilledprag.gateway.outbound.engine import KEY_VARIABLE
    from distilledprag.gateway.policy import POLICIES
    from distilledprag.gateway.store import DocumentStore
    from distilledprag.gateway.web.access import Names
    from distilledprag.gateway.web.application import Options, build_application
    from distilledprag.http.keys import ApiKeys
    from distilledprag.http.listening import address_of, bind, check_exposure, serve

    console = Console(stderr=True, highlight=False)
    keys = ApiKeys.from_file(options.api_key_file)
    check_exposure("a gateway", options.host, keys.required)
    policy = next((policy for policy in POLICIES if policy == options.quotes), None)
    if policy is None:
        raise ConfigError(f"--quotes is {options.quotes!r}; use one of {', '.join(POLICIES)}")
    engine = EngineClient(options.engine, os.environ.get(KEY_VARIABLE) or None, options.engine_ca)
    store = DocumentStore(options.store)
    store.clear_readings()
    listener = bind(options.host, options.port)
    try:
        from distilledprag.pipeline import DistilledPRAG

        prag = DistilledPRAG.from_pretrained(options.base, say=console.print)
        settings = Options(
            allow_rag=options.allow_rag,
            quotes=policy,
            adapter_memory=options.adapter_memory * 2**20,
            accept_any_model=options.accept_any_model,
        )
        app = build_application(prag, store, engine, keys, Names(options.host, options.allowed_hosts), settings)
        if not keys.required:
            console.print("no --api-key-file: every program of this machine may use the gateway")
        if engine.is_readable_on_the_way:
            console.print(
                "[yellow]--engine is not https: others on the way read questions, answers, adapters and the engine's key[/yellow]"
            )
        if options.allow_rag:
            console.print("[yellow]--allow-rag: a request may ask for documents to be sent to the engine in plain text[/yellow]")
        serve(app, listener, lambda: print(f"gateway on {address_of(listener)}", flush=True))
    finally:
        listener.close()
        store.close()


def require_packages() -> None:
    """Raise ConfigError when the packages of the extra are not installed."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"the gateway needs more packages ({error.name}); pip install 'distilledprag[gateway]'") from error
