"""The outermost layer: checks access, adds security headers, and turns errors into answers that hold no content.

Errors have OpenAI's shape. What the program got wrong is logged as the error's type and place, never its text, which could hold
a document's. Knows nothing of routes, except which are open.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilledprag.errors import DistilledPRAGError
from distilledprag.gateway.failures import GatewayError, KeyRequiredError
from distilledprag.gateway.web.access import Names
from distilledprag.http.keys import ApiKeys

log = logging.getLogger("distilledprag.gateway")

PROTECTED = "/v1/"
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Shell:
    """ASGI middleware around the whole application."""

    def __init__(self, inner: ASGIApp, keys: ApiKeys, names: Names) -> None:
        self._inner, self._keys, self._names = inner, keys, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        started = False
        request_id = secrets.token_hex(8)

        async def send_secured(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                headers["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._names.check(headers)
            if scope["path"].startswith(PROTECTED) and self._keys.owner(headers.get("authorization", "")) is None:
                raise KeyRequiredError("this gateway needs an API key; send it as the header `Authorization: Bearer KEY`")
            await self._inner(scope, receive, send_secured)
        except Exception as error:
            if not isinstance(error, DistilledPRAGError):
                _log_fault(error, request_id)
            if not started:
                await error_response(error)(scope, receive, send_secured)


def _log_fault(error: Exception, request_id: str) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rpartition('distilledprag')[2]}:{frames[-1].lineno}" if frames else "?"
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, place)


def error_record(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body, in OpenAI's shape, for any error; only messages that we wrote are passed on."""
    status, code, message = 500, "internal", "the gateway failed; its log says where"
    if isinstance(error, GatewayError):
        status, code, message = error.status, error.code, str(error)
    elif isinstance(error, DistilledPRAGError):
        status, code, message = 400, "invalid_request", str(error)
    kind = "invalid_request_error" if status < 500 else "api_error"
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    """`error_record` as an answer."""
    status, record = error_record(error)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, GatewayError) and error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return JSONResponse(record, status, headers=headers)
