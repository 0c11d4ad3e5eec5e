"""Waiting jobs: bounded, and fair between the keys that sent them.

The next job is taken from the owner with the fewest running jobs; of several such, from the one served longest ago. Within an
owner the first comes first. Knows nothing of models or HTTP; safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from distilledprag.engine.failures import BusyError, StoppingError
from distilledprag.engine.job import Job

RETRY_AFTER = 1  # seconds


class FairQueue:
    """limit: waiting jobs of all owners. owner_limit: waiting jobs of one."""

    def __init__(self, limit: int, owner_limit: int) -> None:
        self._limit, self._owner_limit = limit, owner_limit
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # the owner served longest ago comes first
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        """Raises BusyError when a bound is reached, StoppingError after `close`."""
        with self._changed:
            if self._closed:
                raise StoppingError("the engine is shutting down; ask again in a moment", retry_after=RETRY_AFTER)
            self._forget_cancelled()
            if sum(map(len, self._waiting.values())) >= self._limit:
                raise BusyError("too many requests wait for the engine; try again in a moment", retry_after=RETRY_AFTER)
            own = self._waiting.setdefault(job.owner, deque())
            if len(own) >= self._owner_limit:
                message = f"{self._owner_limit} requests of this key wait already; let some end first"
                raise BusyError(message, code="too_many_requests_of_key", retry_after=RETRY_AFTER)
            own.append(job)
            self._changed.notify_all()

    def take(self, fits: Callable[[Job], bool]) -> Job | None:
        """The next job, now running; None when none waits or the one whose turn it is does not fit yet.

        A job that does not fit holds the others back, so that a large one is not passed over for ever.
        """
        with self._changed:
            self._forget_cancelled()
            owners = [owner for owner, jobs in self._waiting.items() if jobs]
            if not owners:
                return None
            owner = min(owners, key=lambda owner: self._running[owner])  # the first of equals: served longest ago
            if not fits(self._waiting[owner][0]):
                return None
            job = self._waiting[owner].popleft()
            self._running[owner] += 1
            self._waiting.move_to_end(owner)
            return job

    def ended(self, job: Job) -> None:
        """A job that was taken is served no longer."""
        with self._changed:
            self._running[job.owner] -= 1
            if not self._running[job.owner]:
                del self._running[job.owner]
                if not self._waiting.get(job.owner):
                    self._waiting.pop(job.owner, None)

    def wait(self, timeout: float) -> bool:
        """Sleep until a job waits, at most `timeout` seconds; False when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._waiting.values()), timeout)
            return not self._closed or any(self._waiting.values())

    def close(self) -> None:
        """Take no further jobs; those that wait are still served."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        with self._changed:
            return sum(self._running.values())

    def abandon(self) -> list[Job]:
        """Take everything that waits out of the queue, unserved."""
        with self._changed:
            jobs = [job for own in self._waiting.values() for job in own]
            self._waiting.clear()
            return jobs

    def _forget_cancelled(self) -> None:
        for owner, jobs in list(self._waiting.items()):
            kept = deque(job for job in jobs if not job.dropped())
            if kept or self._running[owner]:
                self._waiting[owner] = kept
            else:
                del self._waiting[owner]
