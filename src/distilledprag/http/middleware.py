"""Around every request to a server of ours, before any route sees it.

    request -> id -> host name, origin -> API key -> the application -> security headers, errors in OpenAI's shape -> answer

A page in a user's browser could reach a server on the loopback interface under another name that resolves to it (DNS rebinding,
stopped by the Host check) or with a form that it posts (stopped by the Origin check). Faults are logged as their type and place,
never with a message, which could hold a prompt or a document.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distilledprag import __version__
from distilledprag.errors import ConfigError
from distilledprag.http import telemetry
from distilledprag.http.errors import Explain, ForbiddenError, KeyRefusedError, RequestError, error_record

PROTECTED = "/v1/"  # paths below it need a key
UNKNOWN = "unknown"  # the route of an address that does not exist
SHORTEST_KEY = 16  # characters
OPEN_TENANT = "everyone"  # the one tenant of a server without keys
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
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

# Told about every request that has ended: its id, method, route, status, seconds and tenant.
Observe = Callable[[str, str, str, int, float, str | None], None]


class ApiKeys:
    """The API keys of a server, as SHA-256 hashes compared in constant time. A plain hash is enough for random keys, and short
    ones are refused. Without any keys everyone is one tenant."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """keys: plain or as `sha256:HEX`."""
        self._hashes = [_read(key) for key in keys]

    @classmethod
    def from_file(cls, file: Path | None) -> ApiKeys:
        """One key a line, plain or as `sha256:HEX`; blank lines and lines that begin with # do not count.

        Raises ConfigError for a file that cannot be read, has no key or has a short one.
        """
        if file is None:
            return cls()
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"the key file {file} cannot be read ({reason}); check the path") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys or not all(map(_is_long_and_plain, keys)):
            raise ConfigError(
                f"the key file {file} needs one key a line, each of at least {SHORTEST_KEY} characters without spaces, or its "
                "hash as sha256:HEX; make a key with `openssl rand -hex 24`"
            )
        return cls(keys)

    @property
    def required(self) -> bool:
        return bool(self._hashes)

    def tenant(self, authorization: str) -> str | None:
        """Who sent the header `Authorization: Bearer KEY`: a name made from the key's hash, or None without a valid key."""
        if not self.required:
            return OPEN_TENANT
        scheme, _, key = authorization.partition(" ")
        given = _hash(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._hashes]  # all are compared, whatever matches
        if scheme.lower() != "bearer" or not any(matches):
            return None
        return hashlib.sha256(b"tenant:" + given).hexdigest()[:16]


class AllowedHosts:
    """The host names that a server with a web page answers to: its own, the loopback names, and those that the operator adds."""

    def __init__(self, host: str, more: Iterable[str] = ()) -> None:
        own = () if host in ("0.0.0.0", "::", "") else (f"[{host}]" if ":" in host else host,)
        self._names = {name.lower() for name in (*_LOCAL_NAMES, *own, *more)}

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise ForbiddenError for a foreign Host, and for a request that a page of another origin makes."""
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._names:
            raise ForbiddenError("this server does not answer to that host name; the operator can add it: --allowed-host NAME")
        origin = headers.get("origin", "").lower()
        if origin and origin.partition("://")[2] != host:
            raise ForbiddenError("pages of other origins may not use this server")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ForbiddenError("pages of other sites may not use this server")


class Middleware:
    """ASGI middleware around a whole application; afterwards `request.state` has `request_id` and `tenant`.

    server: "engine" or "gateway", for messages and the log. explain: the server's own errors as RequestErrors. hosts: None for a
    server without web pages, which then refuses every request that a page makes.
    """

    def __init__(
        self,
        inner: ASGIApp,
        server: str,
        keys: ApiKeys,
        explain: Explain,
        hosts: AllowedHosts | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._inner, self._server, self._keys, self._explain = inner, server, keys, explain
        self._hosts, self._observe = hosts, observe
        self._log = logging.getLogger(f"distilledprag.{server}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began, status, request_id = time.perf_counter(), 0, secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"], state["tenant"] = request_id, None

        async def send_secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers.setdefault("cache-control", "no-store")
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        with telemetry.request(scope["method"]) as tell:
            try:
                self._admit(scope, state)
                await self._inner(scope, receive, send_secured)
            except Exception as error:
                if not isinstance(error, RequestError) and self._explain(error) is None:
                    self._log_fault(error, request_id)
                if not status:
                    await error_response(error, self._explain)(scope, receive, send_secured)
            finally:
                route = getattr(scope.get("route"), "path", UNKNOWN)
                tell(route, status or 499)
                if self._observe is not None:
                    seconds = time.perf_counter() - began
                    self._observe(request_id, scope["method"], route, status or 499, seconds, state["tenant"])

    def _admit(self, scope: Scope, state: dict[str, Any]) -> None:
        headers = Headers(scope=scope)
        if self._hosts is not None:
            self._hosts.check(headers)
        elif "origin" in headers:
            raise ForbiddenError(f"the {self._server} answers programs, not web pages; use the gateway's page")
        if scope["path"].startswith(PROTECTED):
            state["tenant"] = self._keys.tenant(headers.get("authorization", ""))
            if state["tenant"] is None:
                message = f"the {self._server} needs a valid API key; send it as the header `Authorization: Bearer KEY`"
                raise KeyRefusedError(message)

    def _log_fault(self, error: Exception, request_id: str) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename.rpartition('distilledprag')[2]}:{frames[-1].lineno}" if frames else "?"
        self._log.error("request %s failed: %s at %s", request_id, type(error).__name__, place)


def new_application(server: str, explain: Explain, lifespan: Any) -> FastAPI:
    """A FastAPI application whose errors have OpenAI's shape, without pages that would load scripts from other hosts."""
    app = FastAPI(title=f"DistilledPRAG {server}", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.exception_handler(Exception)  # it is raised again afterwards, so that the middleware can log a fault
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return error_response(error, explain)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()[:5]
        places = [".".join(str(part) for part in problem["loc"][1:]) or "the body" for problem in problems]
        said = "; ".join(f"{place}: {problem['msg']}" for place, problem in zip(places, problems, strict=True))
        return error_response(RequestError(f"the request cannot be used: {said}"), explain)

    @app.exception_handler(HTTPException)
    async def no_such_route(_: Request, error: HTTPException) -> JSONResponse:
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        message = f"{error.detail}; docs/{server}.md lists the addresses of this server"
        response = error_response(RequestError(message, status=error.status_code, code=code), explain)
        response.headers.update(error.headers or {})
        return response

    return app


def error_response(error: Exception, explain: Explain) -> JSONResponse:
    """`error_record` as an answer."""
    status, record, headers = error_record(error, explain)
    return JSONResponse(record, status, headers=headers)


def _is_long_and_plain(key: str) -> bool:
    return len(key) >= SHORTEST_KEY and key.isascii() and key.isprintable() and " " not in key


def _read(key: str) -> bytes:
    hashed = _HASHED.fullmatch(key)
    return bytes.fromhex(hashed[1]) if hashed else _hash(key)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
