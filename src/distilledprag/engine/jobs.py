"""Jobs and their queue. A job is one answer to be written: the prompt, how to write it, for whom, and where its tokens go.

A job is made for a request, waits in the queue, and is served by the backend's thread, which alone calls `token` and `end`;
`cancel` may come from any thread. The queue is bounded, and fair between keys: the next job is taken from the tenant with the
fewest running jobs; of several such, from the one served longest ago. Within a tenant the first comes first.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distilledprag.engine.tokenization import Grammar
from distilledprag.http.errors import BusyError, RequestError, StoppingError, TimedOutError

RETRY_AFTER = 1  # seconds


@dataclass(frozen=True)
class Sampling:
    """temperature 0: always the likeliest token. seed: for the same draws again; None draws anew."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Token:
    """One token of the answer. logprob: its log probability, before temperature and grammar; top: the likeliest (id, log
    probability) at its place. Both only where the job asks for them."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """The answer's end. reason: "stop" (the model ended it) or "length"; None with an error or when it was cancelled."""

    reason: str | None = None
    error: RequestError | None = None


Event = Token | End


@dataclass(eq=False)
class Job:
    """adapter: what the backend's `prepare` made of an accepted adapter, or None for the bare base model.
    deadline: on the clock of `time.monotonic`. listener: is given every event; must not block. alternatives: how many likely
    tokens to tell beside each written one (None: no probabilities). grammar: what the answer must be, or None for any text.
    taken: when it left the queue (`time.perf_counter`)."""

    tenant: str
    prompt: list[int]
    max_tokens: int
    adapter: Any
    sampling: Sampling
    deadline: float
    listener: Callable[[Event], None]
    alternatives: int | None = None
    grammar: Grammar | None = None
    produced: int = 0
    taken: float | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _ended: bool = False

    @property
    def longest(self) -> int:
        """Tokens that prompt and answer can have together."""
        return len(self.prompt) + self.max_tokens

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Nobody waits for the answer any more; the backend drops it before its next step."""
        self._cancelled.set()

    def token(self, id: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> None:
        """Give out the answer's next token; see `Token`."""
        self.produced += 1
        self.listener(Token(id, logprob, top))

    def end(self, reason: str | None = None, error: RequestError | None = None) -> None:
        """Say that the answer has ended; only the first call counts."""
        if not self._ended:
            self._ended = True
            self.listener(End(reason, error))

    def dropped(self) -> bool:
        """Whether it must not be served further; ends it when its time is over or nobody waits."""
        if self.cancelled:
            self.end()
        elif time.monotonic() >= self.deadline:
            self.end(
                error=TimedOutError("the answer was not finished in the time that a request may take; ask for less, or later")
            )
        return self._ended


class FairQueue:
    """limit: waiting jobs of all tenants. tenant_limit: waiting jobs of one."""

    def __init__(self, limit: int, tenant_limit: int) -> None:
        self._limit, self._tenant_limit = limit, tenant_limit
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # the tenant served longest ago comes first
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
            own = self._waiting.setdefault(job.tenant, deque())
            if len(own) >= self._tenant_limit:
                message = f"{self._tenant_limit} requests of this key wait already; let some end first"
                raise BusyError(message, code="too_many_requests_of_key", retry_after=RETRY_AFTER)
            own.append(job)
            self._changed.notify_all()

    def take(self, fits: Callable[[Job], bool]) -> Job | None:
        """The next job, now running; None when none waits or the one whose turn it is does not fit yet.

        A job that does not fit holds the others back, so that a large one is not passed over for ever.
        """
        with self._changed:
            self._forget_cancelled()
            tenants = [tenant for tenant, jobs in self._waiting.items() if jobs]
            if not tenants:
                return None
            tenant = min(tenants, key=lambda tenant: self._running[tenant])  # the first of equals: served longest ago
            if not fits(self._waiting[tenant][0]):
                return None
            job = self._waiting[tenant].popleft()
            job.taken = time.perf_counter()
            self._running[tenant] += 1
            self._waiting.move_to_end(tenant)
            return job

    def ended(self, job: Job) -> None:
        """A job that was taken is served no longer."""
        with self._changed:
            self._running[job.tenant] -= 1
            if not self._running[job.tenant]:
                del self._running[job.tenant]
                if not self._waiting.get(job.tenant):
                    self._waiting.pop(job.tenant, None)

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
        for tenant, jobs in list(self._waiting.items()):
            kept = deque(job for job in jobs if not job.dropped())
            if kept or self._running[tenant]:
                self._waiting[tenant] = kept
            else:
                del self._waiting[tenant]
