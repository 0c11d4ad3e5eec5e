"""Reading a body that a stranger sends: bounded in bytes (its own, its key's and all bodies together) and in time.

Knows nothing of what the bodies hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request

from distilledprag.engine.failures import BusyError, RequestError, TooLargeError

READING_SECONDS = 60.0  # for a whole body


class BodyReader:
    """`memory`: bytes that all bodies may have together that are being read, or have been and are still held; `memory_per_owner`:
    those of one key."""

    def __init__(self, memory: int, memory_per_owner: int, seconds: float = READING_SECONDS) -> None:
        self._memory, self._memory_per_owner, self._seconds = memory, memory_per_owner, seconds
        self._held: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def held(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The body; its bytes count until the block ends, so that bodies which wait to be looked at are counted too.

        What counts is the bytes that come, whatever was announced; announcing too many is refused at once. Raises TooLargeError
        over `limit` bytes, BusyError when too much is held, RequestError (408) when it comes too slowly.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise _too_large(limit)
        owner, body = request.state.owner, bytearray()
        try:
            await self._fill(body, request, limit)
            yield bytes(body)
        finally:
            self._held[owner] -= len(body)
            if not self._held[owner]:
                del self._held[owner]

    @contextlib.asynccontextmanager
    async def held_json(self, request: Request, limit: int) -> AsyncIterator[Any]:
        """The body as JSON, counted as `held` does. Raises RequestError also for what is no JSON."""
        async with self.held(request, limit) as body:
            try:
                fields = json.loads(body)
            except (ValueError, RecursionError):
                raise RequestError("the body is not JSON; send a JSON object in UTF-8", code="malformed_json") from None
            yield fields

    async def _fill(self, body: bytearray, request: Request, limit: int) -> None:
        owner = request.state.owner
        try:
            async with asyncio.timeout(self._seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limit:
                        raise _too_large(limit)
                    self._require_room(owner, len(chunk))
                    self._held[owner] += len(chunk)
                    body += chunk
        except TimeoutError:
            message = f"the body did not arrive within {self._seconds:g} seconds; send it faster"
            raise RequestError(message, status=408, code="slow_body") from None
        except ClientDisconnect:
            raise RequestError("the client left before its body was complete", code="incomplete_body") from None

    def _require_room(self, owner: str, size: int) -> None:
        if self._held[owner] + size > self._memory_per_owner:
            message = "this key has too many bodies under way at once; let some end first"
            raise BusyError(message, code="too_many_bodies_of_key", retry_after=1)
        if self._held.total() + size > self._memory:
            raise BusyError("the engine reads too many bodies at once; try again in a moment", retry_after=1)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than the {limit:,} bytes that are accepted here")
