"""Request bodies from strangers, bounded in bytes (one body, all of one key, all together) and in time, and in memory only.

Also what follows on a body: `while_there` gives its work up when the client leaves, and `PerKeyExecutor` runs CPU work in other
threads, one piece of each key at a time. And what /openapi.json says about bodies, since routes read them with `BodyReader` and
not through FastAPI.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from distilledprag.http.errors import BusyError, RequestError, SlowBodyError, TooLargeError

READING_SECONDS = 60.0  # for a whole body
MAX_FILES = 100  # in one multipart form
AT_ONCE = 2048  # size of work (characters to tokenize) that is done sooner than another thread begins
_COMPONENTS = "#/components/schemas/"

Result = TypeVar("Result")


class BodyReader:
    """memory: bytes that all bodies may have together that are being read or are still in use; memory_per_key: those of one key
    (None: as many). seconds: for one whole body to arrive. Belongs to one event loop."""

    def __init__(self, memory: int, memory_per_key: int | None = None, seconds: float = READING_SECONDS) -> None:
        self._memory, self._seconds = memory, seconds
        self._memory_per_key = memory if memory_per_key is None else memory_per_key
        self._held: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def held(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The whole body, of at most `limit` bytes; it counts until the block ends, so bodies that wait for their turn count too.

        What counts is the bytes that arrive, whatever was announced; announcing too many is refused at once. Raises
        TooLargeError, BusyError when too much is held, SlowBodyError, and RequestError when the client leaves.
        """
        with self._counted(request) as count:
            yield b"".join([chunk async for chunk in self._chunks(request, limit, count)])

    @contextlib.asynccontextmanager
    async def held_json(self, request: Request, limit: int) -> AsyncIterator[Any]:
        """The body as JSON, counted as `held` does. Raises RequestError also for what is not JSON."""
        async with self.held(request, limit) as body:
            try:
                fields = json.loads(body)
            except (ValueError, RecursionError):
                raise RequestError("the body is not JSON; send a JSON object in UTF-8", code="malformed_json") from None
            yield fields

    @contextlib.asynccontextmanager
    async def held_form(self, request: Request, limit: int) -> AsyncIterator[FormData]:
        """A multipart form whose files stay in memory, counted as `held` does. Raises RequestError also when it is malformed."""
        with self._counted(request) as count:
            chunks = self._chunks(request, limit, count)
            parser = MultiPartParser(request.headers, chunks, max_files=MAX_FILES, max_fields=10)
            parser.spool_max_size = limit + 1  # no part is ever written to a temporary file
            try:
                form = await parser.parse()
            except (MultiPartException, KeyError) as error:
                reason = error.message if isinstance(error, MultiPartException) else "it has no boundary"
                raise RequestError(f"the upload is not a usable multipart form: {reason}") from None
            try:
                yield form
            finally:
                await form.close()

    @contextlib.contextmanager
    def _counted(self, request: Request) -> Iterator[Callable[[int], None]]:
        """A function that counts bytes as held until the block ends. It raises BusyError when there is no room for them."""
        tenant, own = request.state.tenant, 0

        def count(size: int) -> None:
            nonlocal own
            if self._held[tenant] + size > self._memory_per_key:
                message = "this key has too many bodies under way at once; let some end first"
                raise BusyError(message, code="too_many_bodies_of_key", retry_after=1)
            if self._held.total() + size > self._memory:
                raise BusyError("the server reads too many bodies at once; try again in a moment", retry_after=1)
            self._held[tenant] += size
            own += size

        try:
            yield count
        finally:
            self._held[tenant] -= own
            if not self._held[tenant]:
                del self._held[tenant]

    async def _chunks(self, request: Request, limit: int, count: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise _too_large(limit)
        deadline, length, more = time.monotonic() + self._seconds, 0, True
        while more:
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise SlowBodyError(f"the body did not arrive within {self._seconds:g} seconds; send it faster") from None
            if message["type"] == "http.disconnect":
                raise RequestError("the client left before its body was complete", code="incomplete_body")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            length += len(chunk)
            if length > limit:
                raise _too_large(limit)
            count(len(chunk))
            yield chunk


async def while_there(
    request: Request,
    work: Awaitable[Result],
    message: str = "the client left before its answer was finished",
    status: int = 499,
) -> Result:
    """What `work` returns; it is cancelled when the client leaves. Raises RequestError then. The body has been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError(message, status=status, code="client_left")
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class PerKeyExecutor:
    """Runs long work in other threads, one piece of each key at a time, so that the event loop serves others meanwhile.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, tenant: str, size: int, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises; work of a small `size` is done at once."""
        if size <= AT_ONCE:
            return work()
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            return await asyncio.to_thread(work)


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra`: its body is a JSON object of this kind."""
    return body_of_type({"application/json": {"$ref": _COMPONENTS + kind.__name__}})


def body_of_type(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For a route's `openapi_extra`: media type -> schema of its body."""
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"content": content, "required": True}}


def describe_bodies(app: FastAPI, *kinds: type[BaseModel]) -> None:
    """Add the schemas that `json_body` refers to, each time the description of `app` is asked for."""
    of_routes = app.openapi

    @cache
    def of_bodies() -> dict[str, Any]:
        wanted: list[Any] = [(kind, "validation") for kind in kinds]
        return models_json_schema(wanted, ref_template=_COMPONENTS + "{model}")[1]["$defs"]

    def openapi() -> dict[str, Any]:
        description = of_routes()
        description.setdefault("components", {}).setdefault("schemas", {}).update(of_bodies())
        return description

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than the {limit:,} bytes that are accepted here")
