"""One answer to be written: the prompt, how to write it, for whom, and where its tokens go.

A job is made by the web side, waits in the queue, and is served by the backend's thread, which alone calls `token` and
`end`; `cancel` may come from any thread. Knows nothing of models, text or HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distilledprag.engine.failures import RequestError, TimedOutError


@dataclass(frozen=True)
class Sampling:
    """temperature 0: always the likeliest token. seed: for the same draws again; None draws anew."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Token:
    """One token of the answer."""

    id: int


@dataclass(frozen=True)
class End:
    """The answer's end. reason: "stop" (the model ended it) or "length"; None with an error or when it was cancelled."""

    reason: str | None = None
    error: RequestError | None = None


Event = Token | End


@dataclass(eq=False)
class Job:
    """adapter: what the backend's `prepare` made of an accepted adapter, or None for the bare base model.
    deadline: on the clock of `time.monotonic`. listener: is given every event; must not block."""

    owner: str
    prompt: list[int]
    max_tokens: int
    adapter: Any
    sampling: Sampling
    deadline: float
    listener: Callable[[Event], None]
    produced: int = 0
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

    def token(self, id: int) -> None:
        self.produced += 1
        self.listener(Token(id))

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
