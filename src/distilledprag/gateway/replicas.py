"""Engines that serve the same base: which of them a question goes to.

    adapter's key --rendezvous hashing--> order of the engines; those that did not answer a moment ago come last

The first in this order is asked. So questions about the same passages meet the engine that has their adapter already, and when
an engine comes or goes only its share of the adapters moves. Where one cannot be reached, or has too much to do, the question
goes to the next, where the adapter is uploaded again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from distilledprag.errors import ConfigError
from distilledprag.gateway.engine_client import Bounds, EngineBusyError, EngineClient, EngineUnreachableError

T = TypeVar("T")
ELSEWHERE = (EngineUnreachableError, EngineBusyError)  # after these another engine may still answer
_REST = 5.0  # seconds for which an engine that did not answer comes last


class EngineReplicas:
    """Use within one event loop. Raises ConfigError for no engine, or one that is named twice."""

    def __init__(self, engines: Sequence[EngineClient]) -> None:
        self._engines = {engine.url: engine for engine in engines}
        if not engines or len(self._engines) < len(engines):
            raise ConfigError("give the address of an engine; several of them must differ (--engine)")
        self._resting: dict[str, float] = {}
        self._turn = 0
        self.bounds = Bounds()  # of the engine that was asked last; all should be started with the same options

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def name(self) -> str:
        """All their addresses, in one order."""
        return " ".join(sorted(self._engines))

    def at(self, url: str) -> EngineClient:
        """The engine at an address."""
        return self._engines[url]

    def order(self, key: str | None) -> list[EngineClient]:
        """In which order to ask. key: of the adapter; None: none, and the engines take turns."""
        if key is None:
            self._turn += 1
            urls = list(self._engines)
            urls = urls[self._turn % len(urls) :] + urls[: self._turn % len(urls)]
        else:
            urls = sorted(self._engines, key=lambda url: hashlib.sha256(f"{key} {url}".encode()).digest())
        now = time.monotonic()
        return [self._engines[url] for url in sorted(urls, key=lambda url: self._resting.get(url, 0.0) > now)]

    def failed(self, engine: EngineClient, error: Exception) -> None:
        """An engine raised one of ELSEWHERE. It rests when it could not be reached: a host that is down says nothing slowly."""
        if isinstance(error, EngineUnreachableError):
            self._resting[engine.url] = time.monotonic() + _REST
            engine.forget_base_name()  # what starts there next may be another one

    async def first(self, key: str | None, ask: Callable[[EngineClient], Awaitable[T]]) -> T:
        """What `ask` gives for the first engine that gives it, in the order for `key`.

        Raises what it raises, of ELSEWHERE only when all engines do: that one has too much to do rather than that one is gone.
        """
        failures: list[Exception] = []
        for engine in self.order(key):
            try:
                return await ask(engine)
            except ELSEWHERE as error:
                self.failed(engine, error)
                failures.append(error)
        raise next((error for error in failures if isinstance(error, EngineBusyError)), failures[-1])

    async def base_name(self, preferred: str) -> str:
        """As `EngineClient.base_name`, of the first engine that answers; `bounds` are its own then. Raises EngineError."""

        async def ask(engine: EngineClient) -> str:
            name = await engine.base_name(preferred)
            self.bounds = engine.bounds
            return name

        return await self.first(preferred, ask)  # by a key, so that it takes no question's turn

    async def healthy(self) -> int:
        """How many say that they are ready."""
        return sum(await asyncio.gather(*(engine.healthy() for engine in self._engines.values())))

    async def aclose(self) -> None:
        await asyncio.gather(*(engine.aclose() for engine in self._engines.values()))
