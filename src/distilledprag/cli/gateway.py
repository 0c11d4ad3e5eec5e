"""`dprag gateway`: keep documents on this machine, answer OpenAI clients, ask an engine elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distilledprag.cli.store import Search, drop_others
from distilledprag.documents.reading import Reading
from distilledprag.errors import ConfigError


@dataclass(frozen=True)
class GatewayOptions:
    """The command's options. adapter_memory, states_limit: MiB. rows: a share up to 1 or a number of rows to choose; None: all
    rows."""

    host: str
    port: int
    engines: list[str]
    store: str
    api_key_file: Path | None
    allowed_hosts: list[str]
    allow_plaintext: bool
    rows: float | None
    round_masks_to: int
    quotes: str
    adapter_memory: int
    engine_ca: Path | None
    accept_any_model: bool
    base: str | None
    reading: Reading
    states_limit: int
    search: Search


def run(options: GatewayOptions) -> None:
    """Serve until stopped. Raises ConfigError for options that cannot be."""
    require_packages()
    from distilledprag.gateway.engine_client import KEY_VARIABLE, EngineClient
    from distilledprag.gateway.quotes import POLICIES
    from distilledprag.http import telemetry
    from distilledprag.http.listening import address_of, bind, check_exposure, serve
    from distilledprag.http.middleware import AllowedHosts, ApiKeys

    console = Console(stderr=True, highlight=False)
    keys = ApiKeys.from_file(options.api_key_file)
    check_exposure("a gateway", options.host, keys.required)
    if options.rows is not None and not options.rows > 0:
        raise ConfigError(f"--rows is {options.rows:g}; give a share up to 1, or a number of rows")
    policy = next((policy for policy in POLICIES if policy == options.quotes), None)
    if policy is None:
        raise ConfigError(f"--quotes is {options.quotes!r}; use one of {', '.join(POLICIES)}")
    key = os.environ.get(KEY_VARIABLE) or None
    clients = [EngineClient(url, key, options.engine_ca) for url in options.engines]
    reading = options.reading.pool()
    store = options.search.store(options.store)
    store.clear_readings()
    listener = bind(options.host, options.port)
    try:
        # What needs PyTorch, whose import takes seconds, after all that can be wrong with the options.
        from distilledprag.gateway.application import Options, build_application
        from distilledprag.generators.kept_states import KeptStates
        from distilledprag.pipeline import DistilledPRAG

        drop_others(store)  # of documents that were deleted while no gateway ran, or as one was killed
        prag = DistilledPRAG.from_pretrained(options.base, say=console.print)
        prag.states.kept = KeptStates(store.reading_folder, options.states_limit * 2**20)
        settings = Options(
            allow_plaintext=options.allow_plaintext,
            rows=options.rows,
            round_masks_to=options.round_masks_to,
            quotes=policy,
            adapter_memory=options.adapter_memory * 2**20,
            accept_any_model=options.accept_any_model,
            finder=options.search.finder(store, console.print),
        )
        hosts = AllowedHosts(options.host, options.allowed_hosts)
        app = build_application(prag, store, reading, clients, keys, hosts, settings)
        telemetry.start("dprag-gateway", console.print)
        if not keys.required:
            console.print("no --api-key-file: every program of this machine may use the gateway")
        if any(client.is_readable_on_the_way for client in clients):
            console.print(
                "[yellow]--engine is not https: others on the way read questions, answers, adapters and the engine's key[/yellow]"
            )
        if options.allow_plaintext:
            console.print(
                "[yellow]--allow-plaintext: a request may ask for documents to be sent to the engine as they are[/yellow]"
            )
        serve(app, listener, lambda: print(f"gateway on {address_of(listener)}", flush=True), on_stop=reading.close)
    finally:
        telemetry.stop()
        listener.close()
        reading.close()
        store.close()


def require_packages() -> None:
    """Raise ConfigError when the packages of the extra are not installed."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"the gateway needs more packages ({error.name}); pip install 'distilledprag[gateway]'") from error
