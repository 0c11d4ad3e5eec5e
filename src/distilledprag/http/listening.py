"""Listening: binds first, says where, serves until told to stop. Knows nothing of what is served."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from distilledprag.errors import ConfigError
from distilledprag.http.connections import Connection

CONNECTIONS = 2000  # at once
REQUEST_SECONDS = 20.0  # for the head of a connection's first request, and of the next one after an answer
DRAIN = 10  # seconds that answers under way may take when the server is told to stop


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
    """Calls `on_ready` when requests are answered."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def serve(app: ASGIApp, listener: socket.socket, on_ready: Callable[[], None], tls: Tls | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is called when requests are answered. Requests are not logged here.

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
    Server(config, on_ready).run(sockets=[listener])


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
