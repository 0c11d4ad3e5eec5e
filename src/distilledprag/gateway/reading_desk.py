"""Uploads wait here for their turn, in threads of their own, so that chat, /health and the list never wait for a free thread: one
thread for each reading process, and one that stores documents.

What a client that has left wanted read is given up at once, whether it waits or is being read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from distilledprag.documents.reading import ReadingPool
from distilledprag.http.bodies import while_there
from distilledprag.http.errors import BusyError

MOST_WAITING = 64  # uploads at a time, those that are being read included

Result = TypeVar("Result")


class ReadingDesk:
    """Belongs to one event loop; the pool is its owner's to close."""

    def __init__(self, pool: ReadingPool) -> None:
        self.pool = pool
        self._threads = ThreadPoolExecutor(pool.workers, thread_name_prefix="reading")
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self._waiting = 0

    async def run(self, request: Request, work: Callable[[threading.Event], Result]) -> Result:
        """What `work` returns or raises, in a thread of its own; its argument is set when nobody waits for it any more.

        The request's body has been read. Raises BusyError when too many wait, and RequestError when the client leaves.
        """
        if self._waiting >= MOST_WAITING:
            raise BusyError("too many documents wait to be read; try again in a moment", retry_after=5)
        self._waiting += 1
        cancelled = threading.Event()
        reading = asyncio.get_running_loop().run_in_executor(self._threads, work, cancelled)
        try:  # one that has not begun when the client leaves never will
            return await while_there(request, reading, "the client left while its document was being read", status=400)
        finally:
            self._waiting -= 1
            cancelled.set()

    async def store(self, work: Callable[[], Result]) -> Result:
        """What `work`, which writes to the document store, returns or raises; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._storing, work)

    def close(self) -> None:
        """For the end of the event loop, when no request is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._storing.shutdown()
