"""How long a server wants us to wait: its headers in seconds, and a gate that all requests pass."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping

LONGEST_PAUSE = 60.0  # seconds held back on our own account; a server that wants more says so with a 429
_PART = re.compile(r"([0-9.]+)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def retry_after(headers: Mapping[str, str], now: datetime.datetime | None = None) -> float | None:
    """Seconds that `Retry-After-Ms` or `Retry-After` (seconds or HTTP date) asks for; None without a usable header."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds())


def pause_after(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds to hold back further requests after an answered one, by the `x-ratelimit-*` headers.

    tokens: what the answered request used; if fewer are left, the next would be refused.
    """
    pause = 0.0
    for what, needed in (("requests", 1), ("tokens", max(1, tokens))):
        remaining = _number(headers.get(f"x-ratelimit-remaining-{what}"))
        reset = duration(headers.get(f"x-ratelimit-reset-{what}"))
        if remaining is not None and remaining < needed and reset is not None:
            pause = max(pause, min(reset, LONGEST_PAUSE))
    return pause


def duration(text: str | None) -> float | None:
    """`6m0s`, `1.5s`, `20ms` or a bare number of seconds, in seconds; None for anything else."""
    text = (text or "").strip()
    if (seconds := _number(text)) is not None:
        return seconds
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum((_number(number) or 0.0) * _SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


class Gate:
    """Open, or closed until a moment. `clock` and `sleep` are seconds; tests give their own."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self.sleep = sleep
        self._until = -math.inf

    def hold(self, seconds: float) -> None:
        """Close the gate for all for so long from now, if it is not closed for longer."""
        self._until = max(self._until, self._clock() + seconds)

    async def wait(self) -> None:
        """Return when the gate is open."""
        while (left := self._until - self._clock()) > 0:
            await self.sleep(left)
