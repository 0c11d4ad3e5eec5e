"""Around every request: an id, the key, no pages of other origins, errors in OpenAI's shape, observation.

Knows nothing of what is asked.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilledprag.engine.failures import ForbiddenError, InternalError, KeyRefusedError, RequestError, TooLargeError
from distilledprag.engine.web.observing import Metrics
from distilledprag.errors import AdapterError, IncompatibleBaseError, Rejection
from distilledprag.http.keys import ApiKeys

log = logging.getLogger(__name__)

PROTECTED = "/v1/"
UNKNOWN = "unknown"


class Shell:
    """ASGI middleware around the whole application. `scope["state"]["owner"]` tells it who asks."""

    def __init__(self, inner: ASGIApp, keys: ApiKeys, metrics: Metrics) -> None:
        self._inner, self._keys, self._metrics = inner, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began, status, request_id = time.perf_counter(), 0, secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"], state["owner"] = request_id, None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._admit(scope, state)
            await self._inner(scope, receive, send_named)
        except Exception as error:
            if not isinstance(error, RequestError):
                _log_fault(error, request_id)
            if not status:
                await error_response(error)(scope, receive, send_named)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN)
            seconds = time.perf_counter() - began
            self._metrics.observe(request_id, scope["method"], route, status or 499, seconds, state["owner"])

    def _admit(self, scope: Scope, state: dict[str, Any]) -> None:
        headers = Headers(scope=scope)
        if "origin" in headers:
            raise ForbiddenError("the engine answers programs, not web pages; use the gateway's page")
        if scope["path"].startswith(PROTECTED):
            state["owner"] = self._keys.owner(headers.get("authorization", ""))
            if state["owner"] is None:
                raise KeyRefusedError("the engine needs a valid API key; send it as the header `Authorization: Bearer KEY`")


def error_record(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, OpenAI's error object, headers) of an error. Nothing is told about what is not a client's fault."""
    headers: dict[str, str] = {}
    if isinstance(error, RequestError):
        known = error
    elif isinstance(error, IncompatibleBaseError):
        known = RequestError(str(error), status=409, code="wrong_base")
    elif isinstance(error, AdapterError):
        too_long = error.code == Rejection.HEADER_TOO_LONG
        kind = TooLargeError if too_long else RequestError
        known = kind(str(error), status=413 if too_long else 422, code=str(error.code))
    else:
        known = InternalError("the engine failed; the request's id is in its log")
    if known.retry_after is not None:
        headers["retry-after"] = str(known.retry_after)
    if known.status == 401:
        headers["www-authenticate"] = "Bearer"
    fields = {"message": str(known), "type": known.kind, "param": known.param, "code": known.code}
    return known.status, {"error": fields}, headers


def error_response(error: Exception) -> JSONResponse:
    status, record, headers = error_record(error)
    return JSONResponse(record, status, headers=headers)


def _log_fault(error: Exception, request_id: str) -> None:
    """Type and place only: a message could hold a prompt."""
    if isinstance(error, AdapterError | IncompatibleBaseError):
        return
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rpartition('distilledprag')[2]}:{frames[-1].lineno}" if frames else "?"
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, place)
