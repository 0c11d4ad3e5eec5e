"""Reading a body that a stranger sends: bounded in bytes (its own, and all bodies being read together) and in time.

Knows nothing of what the bodies hold.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from distilledprag.engine.failures import BusyError, RequestError, TooLargeError

READING_SECONDS = 60.0  # for a whole body


class BodyReader:
    """`memory`: bytes that all bodies being read may have together."""

    def __init__(self, memory: int, seconds: float = READING_SECONDS) -> None:
        self._memory, self._seconds = memory, seconds
        self._held = 0

    async def read(self, request: Request, limit: int) -> bytes:
        """The body. What counts is the bytes that come, whatever was announced; announcing too many is refused at once.

        Raises TooLargeError over `limit` bytes, BusyError when too much is being read, RequestError (408) when it is slow.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limit:
                        raise _too_large(limit)
                    if self._held + len(chunk) > self._memory:
                        raise BusyError("the engine is reading too many bodies at once; try again in a moment", retry_after=1)
                    body += chunk
                    self._held += len(chunk)
        except TimeoutError:
            message = f"the body did not arrive within {self._seconds:g} seconds; send it faster"
            raise RequestError(message, status=408, code="slow_body") from None
        except ClientDisconnect:
            raise RequestError("the client left before its body was complete", code="incomplete_body") from None
        finally:
            self._held -= len(body)
        return bytes(body)

    async def read_json(self, request: Request, limit: int) -> Any:
        """The body as JSON. Raises RequestError also for what is no JSON."""
        body = await self.read(request, limit)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError("the body is not JSON; send a JSON object in UTF-8", code="malformed_json") from None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than the {limit:,} bytes that are accepted here")
