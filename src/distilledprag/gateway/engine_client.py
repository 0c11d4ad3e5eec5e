"""The only door to an engine: its interface as the gateway uses it, and the transport that sends what an egress rule lets pass.

    EngineClient: models, adapters, completions -> request with its rule -> GuardedTransport: rule, headers -> socket

The transport is the last code that sees a request before it becomes bytes on a socket. It fails closed: a request without a rule,
with a header that is not one of ours, or whose check raises is not sent. Errors say what the operator can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from distilledprag.errors import ConfigError
from distilledprag.gateway.guard.protected import WireGuardError
from distilledprag.gateway.guard.rules import ADAPTERS, COMPLETIONS, BareRule, EgressRule, RemovalRule, checked_adapter_id
from distilledprag.http.answers import Piece, TokenLogprob, named_token
from distilledprag.http.errors import RequestError
from distilledprag.http.listening import is_loopback
from distilledprag.http.openai import MOST_CHOICES

KEY_VARIABLE = "DPRAG_ENGINE_API_KEY"
# Refusals of a question that are the client's to mend. Those of keys (401, 403) and of adapters are this gateway's.
_PASSED_ON = (400, 408, 413, 422, 504)
_NAME = re.compile(r"[a-z0-9_.]{1,60}")  # a code or a field that is passed on
_NO_ROOM = ("adapter_quota", "adapter_bytes_quota", "adapter_memory_full")  # the engine's codes
_LONGEST_MESSAGE = 300  # characters of the engine's own error that are passed on
_CONNECT, _SILENCE, _HEALTH = 10.0, 300.0, 3.0  # seconds
RULE, LEDGER = "distilledprag.rule", "distilledprag.ledger"  # keys of a request's extensions
_TYPES = ("application/json", "application/octet-stream")


class EngineError(RequestError):
    """The engine refused, failed, or cannot be reached."""

    status, kind, code = 502, "server_error", "engine"


class EngineUnreachableError(EngineError):
    """No answer came, or half of one: nothing listens there, or the connection ended."""


class EngineBusyError(EngineError):
    """The engine has too much to do."""

    status, kind, code = 429, "rate_limit_error", "engine_busy"


class EngineRefusedError(EngineError):
    """The engine does not serve what the client asked for; status, code and field are its own."""

    kind = "invalid_request_error"


class AdapterQuotaError(EngineBusyError):
    """The engine has no room for one more adapter of this key until one is deleted or expires."""


class AdapterGoneError(EngineError):
    """The engine does not have (or no longer has) the adapter that a request named."""

    code = "adapter_gone"


@dataclass(frozen=True)
class SentRequest:
    """One request that left. bytes: request line, headers and body as HTTP/1.1 writes them (without TLS)."""

    method: str
    path: str
    bytes: int


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Wraps the transport that has the sockets. `headers`: the only ones, by lower-case name, that a request may have besides
    those that describe its body."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, headers: Mapping[str, str]) -> None:
        self._inner = inner
        self._headers = dict(headers)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        path = request.url.raw_path.decode("ascii")
        rule: EgressRule | None = request.extensions.get(RULE)
        if rule is None:
            raise WireGuardError("a request to the engine had no rule; nothing was sent")
        try:
            self._check_headers(request, body)
            await asyncio.to_thread(rule.check, request.method, path, body)
        except WireGuardError:
            raise
        except Exception as error:
            raise WireGuardError(f"the guard failed ({type(error).__name__}), so nothing was sent; please report it") from None
        size = len(f"{request.method} {path} HTTP/1.1\r\n\r\n") + len(body)
        size += sum(len(name) + len(value) + 4 for name, value in request.headers.raw)
        ledger: list[SentRequest] | None = request.extensions.get(LEDGER)
        if ledger is not None:
            ledger.append(SentRequest(request.method, path, size))
        return await self._inner.handle_async_request(request)

    def _check_headers(self, request: httpx2.Request, body: bytes) -> None:
        for name, value in request.headers.items():
            if name == "content-length":
                right = value == str(len(body))
            elif name == "content-type":
                right = value in _TYPES
            else:
                right = self._headers.get(name) == value
            if not right:
                raise WireGuardError("a request to the engine has a header that it should not have; nothing was sent")

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True)
class UploadedAdapter:
    """lifetime: seconds from now that the engine will keep it; None when it does not say, or its clock makes no sense."""

    id: str
    lifetime: float | None


@dataclass(frozen=True)
class Bounds:
    """What the engine says of itself; None where it says nothing. context: tokens that prompt and answer have together;
    answer: of one answer; rows: of an adapter. states: whether it takes state adapters; if not, plain LoRA adapters."""

    context: int | None = None
    answer: int | None = None
    rows: int | None = None
    states: bool = True

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Bounds:
        """From an entry of /v1/models."""
        found = [entry.get(name) for name in ("max_model_len", "max_answer_tokens", "max_rows")]
        context, answer, rows = (value if type(value) is int and value > 0 else None for value in found)
        forms = entry.get("adapter_forms")
        return cls(context, answer, rows, not isinstance(forms, list) or "state" in forms)


class EngineClient:
    """`url`: where the engine is; `key`: for it, or None; `authority`: PEM file of the certificates to trust, instead of the
    system's. Use within one event loop; close with `aclose`. Raises EngineError for a wrong `url`, ConfigError for a wrong file.
    """

    def __init__(self, url: str, key: str | None = None, authority: Path | None = None) -> None:
        parsed = httpx2.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.userinfo:
            raise EngineError(f"{url!r} is not the address of an engine; write one like http://127.0.0.1:8000")
        self.url = str(parsed).rstrip("/").removesuffix("/v1")
        headers = {"accept": "*/*", "accept-encoding": "identity", "connection": "keep-alive", "user-agent": "dprag-gateway"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        host = parsed.netloc.decode("ascii")
        sockets = httpx2.AsyncHTTPTransport(verify=_trusting(authority), trust_env=False, retries=1)
        transport = GuardedTransport(sockets, {**headers, "host": host})
        timeout = httpx2.Timeout(_SILENCE, connect=_CONNECT)
        self._client = httpx2.AsyncClient(
            base_url=self.url, headers=headers, transport=transport, timeout=timeout, trust_env=False, follow_redirects=False
        )
        self._base_name: str | None = None
        self.bounds = Bounds()  # known with the base's name

    @property
    def is_readable_on_the_way(self) -> bool:
        """Whether requests leave this machine without encryption."""
        url = httpx2.URL(self.url)
        return url.scheme == "http" and not is_loopback(url.host)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def healthy(self) -> bool:
        """Whether the engine says that it is ready, within three seconds."""
        try:
            extensions = {RULE: BareRule(), "timeout": httpx2.Timeout(_HEALTH).as_dict()}
            return (await self._client.get("/health", extensions=extensions)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def base_name(self, preferred: str) -> str:
        """The engine's name of its base model: `preferred` if it has that, else its first; `bounds` are that one's then. Raises
        EngineError."""
        if self._base_name is None:
            async with self._send("GET", "/v1/models", BareRule()) as response:
                fields = _json(await response.aread())
            listed = fields.get("data") if isinstance(fields.get("data"), list) else []
            names = [entry.get("id") for entry in listed or [] if isinstance(entry, dict)]
            bases = [name for name in names if isinstance(name, str) and name and ":" not in name]
            if not bases:
                raise EngineError(f"the engine at {self.url} serves no model; start it with --model")
            self._base_name = preferred if preferred in bases else bases[0]
            self.bounds = Bounds.of(next(entry for entry in listed or [] if entry.get("id") == self._base_name))
        return self._base_name

    def forget_base_name(self) -> None:
        """Ask for it again: another engine may answer at the address now."""
        self._base_name = None

    async def upload(self, data: bytes, rule: EgressRule, ledger: list[SentRequest]) -> UploadedAdapter:
        """Raises EngineError when the engine refuses the adapter, WireGuardError when the guard does."""
        sent = self._send("POST", ADAPTERS, rule, ledger, content=data, kind="application/octet-stream")
        async with sent as response:
            fields = _json(await response.aread())
        return UploadedAdapter(checked_adapter_id(fields.get("id", "")), _lifetime(fields.get("expires_at")))

    async def uploaded(self) -> list[str]:
        """The ids of this key's adapters there, oldest first. Raises EngineError."""
        async with self._send("GET", ADAPTERS, BareRule()) as response:
            listed = _json(await response.aread()).get("data")
        found = [entry.get("id") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        return [checked_adapter_id(id) for id in found if isinstance(id, str)]

    async def remove(self, adapter_id: str) -> None:
        """Delete an adapter there; quietly, since it ends by itself too."""
        with contextlib.suppress(EngineError, httpx2.HTTPError):
            async with self._send("DELETE", f"{ADAPTERS}/{adapter_id}", RemovalRule(adapter_id)) as response:
                await response.aread()

    @contextlib.asynccontextmanager
    async def complete(
        self, fields: dict[str, Any], rule: EgressRule, ledger: list[SentRequest]
    ) -> AsyncIterator[AsyncGenerator[Piece, None]]:
        """Ask. Inside the block the request has been accepted and the answer can be read, piece by piece if it streams.

        Raises AdapterGoneError when the engine does not know the model's adapter, EngineBusyError, EngineRefusedError for what
        it does not serve, EngineError.
        """
        body = json.dumps(fields, separators=(",", ":")).encode()
        async with self._send("POST", COMPLETIONS, rule, ledger, content=body, kind="application/json") as response:
            yield self._reading(_streamed(response) if fields.get("stream") else _whole(response))

    async def _reading(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except httpx2.HTTPError as error:
            raise EngineUnreachableError(
                f"the connection to the engine ended in the middle of the answer ({type(error).__name__}); ask again"
            ) from None

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        rule: EgressRule,
        ledger: list[SentRequest] | None = None,
        *,
        content: bytes | None = None,
        kind: str = "",
    ) -> AsyncIterator[httpx2.Response]:
        extensions = {RULE: rule, LEDGER: ledger}
        headers = {"content-type": kind} if kind else {}
        request = self._client.build_request(method, path, content=content, headers=headers)
        request.extensions.update(extensions)
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise EngineError(
                    f"the certificate of the engine at {self.url} is not trusted here; if it is your own, name it or its "
                    "authority: --engine-ca FILE"
                ) from None
            raise EngineUnreachableError(
                f"the engine at {self.url} cannot be reached ({type(error).__name__}); check that `dprag engine` runs there and "
                "that --engine is its address"
            ) from None
        try:
            if response.status_code >= 300:
                raise await self._refusal(response, path)
            yield response
        finally:
            await response.aclose()

    async def _refusal(self, response: httpx2.Response, path: str) -> EngineError:
        """The engine's refusal as our error."""
        with contextlib.suppress(httpx2.HTTPError):
            await response.aread()
        refused = _error(response)
        reason = _said(refused)
        if response.status_code == 404 and path == COMPLETIONS:
            return AdapterGoneError(f"the engine does not know the model or adapter that was asked for{reason}")
        if response.status_code in (401, 403):
            return EngineError(f"the engine at {self.url} does not accept the key; put the right one into {KEY_VARIABLE}{reason}")
        if response.status_code in (429, 503):
            after = response.headers.get("retry-after", "")
            wait = float(after) if after.isdecimal() else None
            if _named(refused, "code") in _NO_ROOM:
                return AdapterQuotaError(f"the engine has no room for a further adapter{reason}", retry_after=wait)
            status = response.status_code
            return EngineBusyError(f"the engine is busy; try again in a moment{reason}", retry_after=wait, status=status)
        if response.status_code in _PASSED_ON and path == COMPLETIONS:
            said = reason.removeprefix(": ") or f"the engine refused the request with status {response.status_code}"
            code, field = _named(refused, "code"), _named(refused, "param")
            return EngineRefusedError(said, status=response.status_code, code=code, param=field)
        return EngineError(f"the engine at {self.url} answered with status {response.status_code}{reason}")


def _trusting(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:  # also what the ssl module raises
        raise ConfigError(f"{authority} holds no certificates that can be used ({error}); give a PEM file") from error


async def _whole(response: httpx2.Response) -> AsyncGenerator[Piece, None]:
    for choice in _choices(_json(await response.aread())):
        yield _piece(choice, choice.get("finish_reason") or "stop")


async def _streamed(response: httpx2.Response) -> AsyncGenerator[Piece, None]:
    ended = False
    finished: set[int] = set()
    begun = {0}
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            ended = True
            break
        fields = _json(data.encode())
        if "error" in fields:
            raise EngineError("the engine failed in the middle of the answer" + _said(fields["error"]))
        if fields.get("choices") == []:  # a chunk that tells the usage only
            continue
        for choice in _choices(fields):
            piece = _piece(choice, choice.get("finish_reason"))
            begun.add(piece.choice)
            if piece.finish:
                finished.add(piece.choice)
            if piece.text or piece.tokens or piece.finish:
                yield piece
    unfinished = sorted(begun - finished)
    if unfinished and not ended:
        raise EngineUnreachableError("the engine ended the answer in the middle; ask again")
    for number in unfinished:
        yield Piece("", number, finish="stop")


def _choices(fields: dict[str, Any]) -> list[dict[str, Any]]:
    choices = fields.get("choices")
    if isinstance(choices, list) and choices and all(_is_choice(choice) for choice in choices):
        return choices
    raise EngineError("the engine's answer has a form that this gateway does not know; check that --engine is a `dprag engine`")


def _is_choice(choice: Any) -> bool:
    if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
        return False
    return choice.get("index", 0) in range(MOST_CHOICES) and isinstance(choice.get("finish_reason"), (str, type(None)))


def _piece(choice: dict[str, Any], finish: str | None) -> Piece:
    return Piece(choice["text"], choice.get("index", 0), _tokens(choice.get("logprobs")), finish)


def _tokens(logprobs: Any) -> tuple[TokenLogprob, ...]:
    """What the engine tells of probabilities, as `text_completion` writes it; nothing when it has another form."""
    if not isinstance(logprobs, dict):
        return ()
    columns = [logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    if not all(isinstance(column, list) for column in columns):
        return ()
    told = []
    for token, value, top in zip(*columns, strict=False):
        if isinstance(token, str) and isinstance(value, (int, float)) and isinstance(top, dict):
            others = ((name, number) for name, number in top.items() if isinstance(number, (int, float)))
            told.append(named_token(token, value, tuple(named_token(*other) for other in others)))
    return tuple(told)


def _json(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise EngineError("the engine's answer is not JSON; check that --engine is the address of a `dprag engine`")
    return fields


def _lifetime(expires_at: Any) -> float | None:
    """Seconds until `expires_at` (Unix seconds or ISO 8601) by this machine's clock; None when that lies in the past."""
    if isinstance(expires_at, str):
        with contextlib.suppress(ValueError):
            moment = datetime.datetime.fromisoformat(expires_at.replace("Z", "+00:00"))
            expires_at = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if not isinstance(expires_at, (int, float)) or isinstance(expires_at, bool):
        return None
    left = expires_at - time.time()
    return left if left > 0 else None


def _error(response: httpx2.Response) -> Any:
    """The error that a refusal tells of; None when it tells of none."""
    with contextlib.suppress(EngineError, httpx2.HTTPError, httpx2.StreamError):
        return _json(response.content).get("error")
    return None


def _named(error: Any, field: str) -> str | None:
    """`code` or `param` of the engine's error; None unless it is a plain name."""
    value = error.get(field) if isinstance(error, dict) else None
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _said(error: Any) -> str:
    """What the engine said, shortened; "" when it said nothing."""
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) or not message.strip():
        return ""
    return f": {''.join(c if c.isprintable() else ' ' for c in message)[:_LONGEST_MESSAGE]}"
