"""Work that takes long runs in another thread, so that the event loop serves others meanwhile; one piece of each key at a time.

Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

AT_ONCE = 2048  # size of work that is done sooner than another thread begins: characters to be made tokens

Result = TypeVar("Result")


class Turns:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, owner: str, size: int, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises."""
        if size <= AT_ONCE:
            return work()
        async with self._locks.setdefault(owner, asyncio.Lock()):
            return await asyncio.to_thread(work)
