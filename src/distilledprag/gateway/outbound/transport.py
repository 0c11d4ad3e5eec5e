"""Sends a request when its clearance agrees. The last code that sees a request before it becomes bytes on a socket.

Fails closed: a request without a clearance, with a header that is not one of ours, or whose check raises is not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from distilledprag.gateway.failures import WireGuardError
from distilledprag.gateway.guard import Clearance

CLEARANCE, LEDGER = "distilledprag.clearance", "distilledprag.ledger"  # keys of a request's extensions
_TYPES = ("application/json", "application/octet-stream")


@dataclass(frozen=True)
class SentRequest:
    """One request that left. bytes: request line, headers and body as HTTP/1.1 writes them (without TLS)."""

    method: str
    path: str
    bytes: int


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Wraps the transport that has the sockets. `headers`: the only ones, by lower-case name, that a request may have besides
    those that describe its body."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, headers: Mapping[str, str]) -> None:
        self._inner = inner
        self._headers = dict(headers)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        path = request.url.raw_path.decode("ascii")
        clearance: Clearance | None = request.extensions.get(CLEARANCE)
        if clearance is None:
            raise WireGuardError("a request to the engine had no clearance; nothing was sent")
        try:
            self._check_headers(request, body)
            await asyncio.to_thread(clearance.check, request.method, path, body)
        except WireGuardError:
            raise
        except Exception as error:
            raise WireGuardError(f"the guard failed ({type(error).__name__}), so nothing was sent; please report it") from None
        size = len(f"{request.method} {path} HTTP/1.1\r\n\r\n") + len(body)
        size += sum(len(name) + len(value) + 4 for name, value in request.headers.raw)
        ledger: list[SentRequest] | None = request.extensions.get(LEDGER)
        if ledger is not None:
            ledger.append(SentRequest(request.method, path, size))
        return await self._inner.handle_async_request(request)

    def _check_headers(self, request: httpx2.Request, body: bytes) -> None:
        for name, value in request.headers.items():
            if name == "content-length":
                right = value == str(len(body))
            elif name == "content-type":
                right = value in _TYPES
            else:
                right = self._headers.get(name) == value
            if not right:
                raise WireGuardError("a request to the engine has a header that it should not have; nothing was sent")

    async def aclose(self) -> None:
        await self._inner.aclose()
