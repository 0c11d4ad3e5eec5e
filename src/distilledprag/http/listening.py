"""Serving an application: binds first, says where, answers until it is told to stop.

Connections that bring no request are closed, so that they cannot take the place of those that do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from distilledprag.errors import ConfigError

CONNECTIONS = 2000  # at once
REQUEST_SECONDS = 20.0  # for the head of a connection's first request, and of the next one after an answer
DRAIN = 10  # seconds that answers under way may take when the server is told to stop

_Http: Any = AutoHTTPProtocol  # works with either of uvicorn's HTTP implementations


class Connection(_Http):
    """Must bring the head of a request within `timeout_keep_alive` seconds, and of the next one within as many after its answer.

    When there are as many connections as the server may have (`limit_concurrency`), the one that has brought none for the longest
    time makes room for a new one.
    """

    _waits_since: float
    _hanging_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            waiting = [one for one in self.connections if one is not self and one.waits and not one.transport.is_closing()]
            if waiting:
                min(waiting, key=lambda one: one._waits_since).transport.abort()
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        super().connection_lost(exc)

    @property
    def waits(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_request(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        self._waits_since = self.loop.time()
        self._hanging_up = self.loop.call_later(self.timeout_keep_alive, self._hang_up)

    def _hang_up(self) -> None:
        if self.waits:
            self.transport.close()


@dataclass(frozen=True)
class Tls:
    """PEM files."""

    certificate: Path
    key: Path


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "ports go from 0 to 65535"
        raise ConfigError(f"cannot listen on {host} port {port} ({reason}); choose another --port or --host") from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(server: str, host: str, keys_are_required: bool) -> None:
    """Raise ConfigError for a server without keys that other machines could reach; `server`: how messages name it."""
    if not keys_are_required and not is_loopback(host):
        raise ConfigError(f"{server} on {host} can be reached by other machines and needs keys: --api-key-file FILE")


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """`http://host:port` of a listening socket, as a browser on this machine can open it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Server(uvicorn.Server):
    """Calls `on_ready` when requests are answered, and `on_stop` when no more are taken, before those under way have ended."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    listener: socket.socket,
    on_ready: Callable[[], None],
    tls: Tls | None = None,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is called when requests are answered, `on_stop` when no more are taken. Requests
    are not logged here.

    Answers under way may then be finished, for at most `DRAIN` seconds. Raises ConfigError for TLS files that cannot be used.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # uvicorn raises the signal again when it has ended; a server that was told to stop has done what it was asked.
    signal.signal(signal.SIGTERM, lambda *_: None)
    config = configuration(app, tls)
    try:
        config.load()
    except OSError as error:  # also what the ssl module raises
        raise ConfigError(f"the TLS certificate or key cannot be used ({error}); give both as PEM files") from error
    Server(config, on_ready, on_stop).run(sockets=[listener])


def configuration(
    app: ASGIApp, tls: Tls | None = None, *, request_seconds: float = REQUEST_SECONDS, connections: int = CONNECTIONS
) -> uvicorn.Config:
    """How applications are served: nothing is logged about requests, nothing told about the software. Connections that bring no
    request in `request_seconds` are closed, earlier when there are as many as `connections`."""
    return uvicorn.Config(
        app,
        http=Connection,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=DRAIN,
        timeout_keep_alive=request_seconds,  # type: ignore[arg-type]  # any number of seconds will do
        limit_concurrency=connections,
    )
