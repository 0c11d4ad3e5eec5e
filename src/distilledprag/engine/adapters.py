"""Accepted adapters: in memory only, bound to the key that sent them, each with an end.

Ids are made here, cannot be guessed and are never used again. Lifetimes run on the monotonic clock, so setting the machine's
clock neither ends nor prolongs one. Knows nothing of HTTP or models; safe to use from several threads.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distilledprag.engine.failures import BusyError, NotFoundError


@dataclass(frozen=True)
class Quotas:
    """lifetime: seconds. per_owner: adapters of one key. bytes_per_owner, bytes: of one key, of all, as they lie in memory."""

    lifetime: float = 3600.0
    per_owner: int = 64
    bytes_per_owner: int = 512 * 2**20
    bytes: int = 2048 * 2**20


@dataclass(frozen=True, eq=False)
class StoredAdapter:
    """handle: what the backend's `prepare` made. ends: on the monotonic clock. rank, nbytes: for the owner to see. masks: that a
    prompt must have; None where it may have any number."""

    id: str
    owner: str
    handle: Any
    rank: int
    nbytes: int
    ends: float
    masks: int | None = None


class AdapterStore:
    """`release` is told each adapter's handle when it leaves; clock: seconds that only grow."""

    def __init__(self, quotas: Quotas, release: Callable[[Any], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas, self._release, self._clock = quotas, release, clock
        self._adapters: dict[str, StoredAdapter] = {}
        self._lock = threading.Lock()

    def require_room(self, owner: str, nbytes: int) -> None:
        """Raise BusyError unless `owner` may store an adapter of `nbytes` bytes now."""
        self.sweep()
        with self._lock:
            self._require_room(owner, nbytes)

    def add(self, owner: str, handle: Any, rank: int, nbytes: int, masks: int | None = None) -> StoredAdapter:
        """Raises BusyError when a quota is full."""
        self.sweep()
        with self._lock:
            self._require_room(owner, nbytes)
            id = "adapter-" + secrets.token_hex(16)
            stored = StoredAdapter(id, owner, handle, rank, nbytes, self._clock() + self._quotas.lifetime, masks)
            self._adapters[id] = stored
            return stored

    def get(self, owner: str, id: str) -> StoredAdapter:
        """Raises NotFoundError, the same for an id of another owner's, of an ended adapter and of none."""
        self.sweep()
        with self._lock:
            return self._own(owner, id)

    def remove(self, owner: str, id: str) -> None:
        """No further request can name it; requests under way finish with it. Raises NotFoundError as `get` does."""
        self.sweep()
        with self._lock:
            stored = self._adapters.pop(self._own(owner, id).id)
        self._release(stored.handle)

    def of(self, owner: str) -> list[StoredAdapter]:
        """The owner's adapters, oldest first."""
        self.sweep()
        with self._lock:
            return [stored for stored in self._adapters.values() if stored.owner == owner]

    def sweep(self) -> None:
        """Drop what has ended."""
        with self._lock:
            now = self._clock()
            ended = [stored for stored in self._adapters.values() if stored.ends <= now]
            for stored in ended:
                del self._adapters[stored.id]
        for stored in ended:
            self._release(stored.handle)

    def seconds_left(self, stored: StoredAdapter) -> float:
        return max(0.0, stored.ends - self._clock())

    @property
    def count(self) -> int:
        with self._lock:
            return len(self._adapters)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(stored.nbytes for stored in self._adapters.values())

    def _own(self, owner: str, id: str) -> StoredAdapter:
        stored = self._adapters.get(id)
        if stored is None or stored.owner != owner:
            raise NotFoundError("there is no such adapter; it may have ended: send it again", code="adapter_not_found")
        return stored

    def _require_room(self, owner: str, nbytes: int) -> None:
        own = [stored for stored in self._adapters.values() if stored.owner == owner]
        if len(own) >= self._quotas.per_owner:
            self._refuse("adapter_quota", f"this key has {len(own)} adapters, as many as it may", own)
        if sum(stored.nbytes for stored in own) + nbytes > self._quotas.bytes_per_owner:
            self._refuse(
                "adapter_bytes_quota", f"this key's adapters would have more than {self._quotas.bytes_per_owner} bytes", own
            )
        if sum(stored.nbytes for stored in self._adapters.values()) + nbytes > self._quotas.bytes:
            self._refuse("adapter_memory_full", "the engine's memory for adapters is full", list(self._adapters.values()))

    def _refuse(self, code: str, reason: str, stored: list[StoredAdapter]) -> None:
        seconds = min((self.seconds_left(adapter) for adapter in stored), default=1.0)
        message = f"{reason}; delete one, or wait until one ends"
        raise BusyError(message, code=code, retry_after=max(1, math.ceil(seconds)))
