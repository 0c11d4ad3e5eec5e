"""Accepted adapters: in memory only, bound to the key that sent them, each with a lifetime and all under quotas.

Ids are made here, cannot be guessed and are never used again. Lifetimes run on the monotonic clock, so setting the machine's
clock neither ends nor prolongs one. Safe to use from several threads.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distilledprag.http.errors import BusyError, NotFoundError


@dataclass(frozen=True)
class Quotas:
    """ttl: seconds that an adapter lives. per_tenant: adapters of one key. bytes_per_tenant, bytes: of one key, of all, as they
    lie in memory."""

    ttl: float = 3600.0
    per_tenant: int = 64
    bytes_per_tenant: int = 512 * 2**20
    bytes: int = 2048 * 2**20


@dataclass(frozen=True, eq=False)
class StoredAdapter:
    """handle: what the backend's `prepare` made. expires: on the monotonic clock. rank, nbytes: for the tenant to see.
    masks: that a prompt must have; None where it may have any number. numbers: whether the prompt's masks are numbered for it."""

    id: str
    tenant: str
    handle: Any
    rank: int
    nbytes: int
    expires: float
    masks: int | None = None
    numbers: bool = False


class AdapterStore:
    """`release` is told each adapter's handle when it leaves; clock: seconds that only grow."""

    def __init__(self, quotas: Quotas, release: Callable[[Any], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas, self._release, self._clock = quotas, release, clock
        self._adapters: dict[str, StoredAdapter] = {}
        self._lock = threading.Lock()

    def require_room(self, tenant: str, nbytes: int) -> None:
        """Raise BusyError unless `tenant` may store an adapter of `nbytes` bytes now."""
        self.sweep()
        with self._lock:
            self._require_room(tenant, nbytes)

    def add(
        self, tenant: str, handle: Any, rank: int, nbytes: int, masks: int | None = None, numbers: bool = False
    ) -> StoredAdapter:
        """Raises BusyError when a quota is full."""
        self.sweep()
        with self._lock:
            self._require_room(tenant, nbytes)
            id = "adapter-" + secrets.token_hex(16)
            stored = StoredAdapter(id, tenant, handle, rank, nbytes, self._clock() + self._quotas.ttl, masks, numbers)
            self._adapters[id] = stored
            return stored

    def get(self, tenant: str, id: str) -> StoredAdapter:
        """Raises NotFoundError, the same for an id of another tenant's, of an ended adapter and of none."""
        self.sweep()
        with self._lock:
            return self._own(tenant, id)

    def remove(self, tenant: str, id: str) -> None:
        """No further request can name it; requests under way finish with it. Raises NotFoundError as `get` does."""
        self.sweep()
        with self._lock:
            stored = self._adapters.pop(self._own(tenant, id).id)
        self._release(stored.handle)

    def of(self, tenant: str) -> list[StoredAdapter]:
        """The tenant's adapters, oldest first."""
        self.sweep()
        with self._lock:
            return [stored for stored in self._adapters.values() if stored.tenant == tenant]

    def sweep(self) -> None:
        """Drop what has ended."""
        with self._lock:
            now = self._clock()
            ended = [stored for stored in self._adapters.values() if stored.expires <= now]
            for stored in ended:
                del self._adapters[stored.id]
        for stored in ended:
            self._release(stored.handle)

    def seconds_left(self, stored: StoredAdapter) -> float:
        return max(0.0, stored.expires - self._clock())

    @property
    def count(self) -> int:
        with self._lock:
            return len(self._adapters)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(stored.nbytes for stored in self._adapters.values())

    def _own(self, tenant: str, id: str) -> StoredAdapter:
        stored = self._adapters.get(id)
        if stored is None or stored.tenant != tenant:
            raise NotFoundError("there is no such adapter; it may have ended: send it again", code="adapter_not_found")
        return stored

    def _require_room(self, tenant: str, nbytes: int) -> None:
        own = [stored for stored in self._adapters.values() if stored.tenant == tenant]
        if len(own) >= self._quotas.per_tenant:
            self._refuse("adapter_quota", f"this key has {len(own)} adapters, as many as it may", own)
        if sum(stored.nbytes for stored in own) + nbytes > self._quotas.bytes_per_tenant:
            self._refuse(
                "adapter_bytes_quota", f"this key's adapters would have more than {self._quotas.bytes_per_tenant} bytes", own
            )
        if sum(stored.nbytes for stored in self._adapters.values()) + nbytes > self._quotas.bytes:
            self._refuse("adapter_memory_full", "the engine's memory for adapters is full", list(self._adapters.values()))

    def _refuse(self, code: str, reason: str, stored: list[StoredAdapter]) -> None:
        seconds = min((self.seconds_left(adapter) for adapter in stored), default=1.0)
        message = f"{reason}; delete one, or wait until one ends"
        raise BusyError(message, code=code, retry_after=max(1, math.ceil(seconds)))
