"""Request bodies with a limit, a deadline and a bound for all of them together, in memory only: documents never reach a
temporary folder outside the store.

Knows nothing of what the bodies hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from distilledprag.errors import InputError
from distilledprag.gateway.failures import CrowdedError, SlowBodyError, TooLargeError

MAX_FILES = 100  # in one upload
MEMORY = 256 * 2**20  # bytes of all bodies that are being read or used
SECONDS = 120.0  # for a whole body to arrive
_COMPONENTS = "#/components/schemas/"


class Bodies:
    """`memory`: bytes that all bodies in use may have together; `seconds`: that one may take to arrive."""

    def __init__(self, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self._memory, self._seconds = memory, seconds
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The whole body, of at most `limit` bytes; it counts as in use until the block ends.

        Raises TooLargeError, SlowBodyError, CrowdedError, and InputError when the client leaves.
        """
        with self._counted() as held:
            yield b"".join([chunk async for chunk in self._chunks(request, limit, held)])

    @contextlib.asynccontextmanager
    async def form(self, request: Request, limit: int) -> AsyncIterator[FormData]:
        """A multipart form whose files stay in memory, else as `read`. Raises InputError when it is malformed."""
        with self._counted() as held:
            chunks = self._chunks(request, limit, held)
            parser = MultiPartParser(request.headers, chunks, max_files=MAX_FILES, max_fields=10)
            parser.spool_max_size = limit + 1
            try:
                form = await parser.parse()
            except (MultiPartException, KeyError) as error:
                reason = error.message if isinstance(error, MultiPartException) else "it has no boundary"
                raise InputError(f"the upload is not a usable multipart form: {reason}") from None
            try:
                yield form
            finally:
                await form.close()

    @contextlib.contextmanager
    def _counted(self) -> Any:
        """A list of sizes that count as held until the block ends."""
        held: list[int] = []
        try:
            yield held
        finally:
            self._held -= sum(held)

    async def _chunks(self, request: Request, limit: int, held: list[int]) -> AsyncGenerator[bytes, None]:
        """The body as it comes. What counts is what arrives, whatever was announced; announcing too much is refused at once."""
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise _too_large(limit)
        deadline, more = time.monotonic() + self._seconds, True
        while more:
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise SlowBodyError(f"the body did not arrive within {self._seconds:g} seconds; send it faster") from None
            if message["type"] == "http.disconnect":
                raise InputError("the client left before its body was complete")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if sum(held) + len(chunk) > limit:
                raise _too_large(limit)
            if self._held + len(chunk) > self._memory:
                raise CrowdedError("the gateway is reading too many bodies at once; try again in a moment", retry_after=1)
            held.append(len(chunk))
            self._held += len(chunk)
            yield chunk


def explained(error: ValidationError) -> str:
    """What is wrong with a request, field by field, without the values that were sent."""
    parts = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False)[:5]:
        place = ".".join(str(part) for part in problem["loc"]) or "the body"
        parts.append(f"{place}: {problem['msg']}")
    return "; ".join(parts)


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra` when it reads its body itself: a JSON object of this kind."""
    schema = {"$ref": _COMPONENTS + kind.__name__}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def describe_body(app: FastAPI, kind: type[BaseModel]) -> None:
    """Add the kind that `json_body` names; call it when `app` has all its routes."""
    described = models_json_schema([(kind, "validation")], ref_template=_COMPONENTS + "{model}")[1]
    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(described["$defs"])


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than the {limit:,} bytes allowed; send less at a time")
