"""Connections that bring no request: they are hung up on, so that they cannot take the place of those that do.

Knows nothing of applications; works with either of uvicorn's HTTP implementations.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_Http: Any = AutoHTTPProtocol


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
