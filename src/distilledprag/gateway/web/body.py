"""Request bodies with a limit, in memory only: documents never reach a temporary folder outside the vault.

Knows nothing of what the bodies hold.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from distilledprag.errors import InputError
from distilledprag.gateway.failures import TooLargeError

MAX_FILES = 100  # in one upload


async def limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks; raises TooLargeError as soon as more than `limit` bytes came, whatever was announced."""
    announced = request.headers.get("content-length", "")
    received = int(announced) if announced.isdecimal() else 0
    if received > limit:
        raise _too_large(limit)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        yield chunk


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes."""
    return b"".join([chunk async for chunk in limited(request, limit)])


async def read_form(request: Request, limit: int) -> FormData:
    """A multipart form whose files stay in memory. Raises InputError when it is malformed."""
    parser = MultiPartParser(request.headers, limited(request, limit), max_files=MAX_FILES, max_fields=10)
    parser.spool_max_size = limit + 1
    try:
        return await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it has no boundary"
        raise InputError(f"the upload is not a usable multipart form: {reason}") from None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than the {limit:,} bytes allowed; send less at a time")
