"""Any OpenAI-compatible endpoint as a LanguageModel: retries with backoff, and rate limits that all requests keep together.

Retried: broken or timed-out connections, bodies that are cut or not a chat completion, 408, 409, 425, 429 and 5xx.
Ends the run (EndpointError): a wrong key, address or model, an empty account, and a wait longer than `longest_wait`.
Changed, and tried again at once: parameters that the server does not know or takes one value of only (`max_tokens` is renamed;
`temperature` and `response_format` are left out). `changed` says which.
Every other refusal fails that request alone.

The `openai` client's own retries are off. It retries each request for itself, so that many requests at once would run into the
same rate limit again; it ignores a `Retry-After` of more than a minute, retries an empty account, accepts a body that is
not a chat completion, and does not report what it repeated.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from distilledprag.errors import ConfigError, EndpointError
from distilledprag.synthesis.llm import Reply, Request, RequestFailed

RETRIED = frozenset({408, 409, 425, 429})
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds; doubled from try to try, with jitter of one half
LONGEST_PAUSE = 60.0  # seconds; a server that wants a longer pause says so with a 429
_UNSUPPORTED = re.compile(r"unsupported|unrecognized|unknown|not (support|allow|permit)|only|deprecated", re.IGNORECASE)
_PART = re.compile(r"([0-9.]+)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass
class EndpointSettings:
    """timeout: seconds for one try; retries: tries after the first; longest_wait: seconds a `Retry-After` may ask for;
    response_format: `text`, `json_object` or `json_schema`, where the server knows it; extra: further fields of the body."""

    base_url: str
    model: str
    api_key: str = "none"
    timeout: float = 600.0
    retries: int = 8
    longest_wait: float = 900.0
    response_format: str = "text"
    extra: dict[str, Any] = field(default_factory=dict)


class Gate:
    """Holds all requests back until a moment. `clock` and `sleep` count seconds; tests give their own."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self.sleep = sleep
        self._until = -math.inf

    def hold(self, seconds: float) -> None:
        """Close the gate for all requests for this long, unless it is closed for longer already."""
        self._until = max(self._until, self._clock() + seconds)

    async def wait(self) -> None:
        """Return when the gate is open."""
        while (left := self._until - self._clock()) > 0:
            await self.sleep(left)


class _Retry(Exception):
    """A try to be repeated. wait: seconds that the server asks for; everyone: holds for all requests."""

    def __init__(self, reason: str, wait: float | None = None, everyone: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.everyone = wait, everyone


class _Changed(Exception):
    """The server does not take a parameter as it was sent; the next try has another form."""


class Endpoint:
    """Sends requests through the `openai` client. `retried` counts the tries that were repeated, by reason; `changed`: what is
    sent otherwise than was asked for, and why."""

    def __init__(self, settings: EndpointSettings, gate: Gate | None = None, seed: int = 0) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError("--base-url needs the openai client: pip install 'distilledprag[synthesize]'") from error
        if not settings.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url {settings.base_url!r} is not a web address; give one like http://localhost:8000/v1")
        self.name = settings.model
        self.settings = settings
        self.gate = gate or Gate()
        self.retried: Counter[str] = Counter()
        self.changed: list[str] = []
        self._limit_name = "max_tokens"
        self._left_out: set[str] = set()
        self._jitter = random.Random(seed)
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url, api_key=settings.api_key, timeout=settings.timeout, max_retries=0
        )

    async def close(self) -> None:
        await self._client.close()

    async def reply(self, request: Request) -> Reply:
        """The endpoint's reply, after as many tries as the settings allow. Raises RequestFailed or EndpointError."""
        tries = 0
        while True:
            await self.gate.wait()
            try:
                return await self._try(request)
            except _Changed as change:  # at most once a parameter, so it is not counted among the tries
                self.retried[str(change)] += 1
            except _Retry as failure:
                reason = str(failure)
                if tries == self.settings.retries:
                    raise RequestFailed(f"{reason}, {tries + 1} times") from failure
                self.retried[reason] += 1
                await self._back_off(failure, tries)
                tries += 1

    async def _back_off(self, failure: _Retry, tries: int) -> None:
        """Hold this request, or all of them, as long as the server asks for; without that, longer from try to try."""
        backoff = min(LONGEST_DELAY, FIRST_DELAY * 2**tries) * (0.5 + self._jitter.random() / 2)
        wait = backoff if failure.wait is None else failure.wait
        if wait > self.settings.longest_wait:
            raise EndpointError(f"{failure}: {self.settings.base_url} asks to wait {wait:.0f} seconds; run again after that time")
        if failure.everyone:
            self.gate.hold(wait)
        else:
            await self.gate.sleep(wait)

    async def _try(self, request: Request) -> Reply:
        body = self._body(request)
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**body)
        except self._openai.APIStatusError as error:
            self._refused(error.status_code, error.response.headers, error, body)
        except self._openai.APITimeoutError as error:
            raise _Retry("timed out") from error
        except self._openai.APIConnectionError as error:
            raise _Retry(f"connection failed ({type(error.__cause__ or error).__name__})") from error
        reply = _read(raw.content)
        self.gate.hold(pause_after(raw.headers, (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)))
        return reply

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "messages": request.messages, self._limit_name: request.max_tokens}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.purpose == "write" and self.settings.response_format != "text":
            body["response_format"] = RESPONSE_FORMATS[self.settings.response_format]
        if self.settings.extra:
            body["extra_body"] = self.settings.extra
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _change(self, status: int, error: Any, said: str, body: Mapping[str, Any]) -> None:
        """Raise _Changed when the refusal is about a parameter that can be sent otherwise."""
        if status not in (400, 422):
            return
        if "max_tokens" in body and "max_completion_tokens" in said:
            self._limit_name = "max_completion_tokens"  # newer models of OpenAI know only this name
            raise _Changed("max_tokens renamed") from error
        for name in ("temperature", "response_format"):
            if name in body and (error.param == name or name in said) and _UNSUPPORTED.search(f"{error.code} {said}"):
                if name not in self._left_out:
                    self._left_out.add(name)
                    self.changed.append(f"{name} is left out, so the server's own counts (HTTP {status}: {said})")
                raise _Changed(f"{name} left out") from error

    def _refused(self, status: int, headers: Mapping[str, str], error: Any, body: Mapping[str, Any]) -> NoReturn:
        """Raise the exception for a status that is not 2xx. error: an `openai.APIStatusError`; body: what was sent."""
        said = " ".join(str(error.message).split())[:300]
        where = self.settings.base_url
        if status in (401, 403):
            raise EndpointError(f"{where} refused the API key (HTTP {status}): {said}; see --api-key-file") from error
        if status == 402 or error.code == "insufficient_quota":
            raise EndpointError(f"the account at {where} is used up (HTTP {status}): {said}; fill it and run again") from error
        if status == 404:
            raise EndpointError(
                f"{where} has no such path or model (HTTP 404): {said}; check --base-url (it often ends in /v1) and "
                f"--model {self.name}"
            ) from error
        if status in RETRIED or status >= 500:
            wait = retry_after(headers)
            raise _Retry(f"HTTP {status}", wait, everyone=status == 429 or wait is not None) from error
        self._change(status, error, said, body)
        raise RequestFailed(f"refused (HTTP {status}): {said}") from error


def _read(content: bytes) -> Reply:
    """The first choice of a chat completion; nothing about its form is taken for granted. Null content is an empty text: a model
    that spent all its tokens on reasoning sends it with the finish reason `length`."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text = message["content"]
        if isinstance(text, list):  # parts, as some servers send them
            text = "".join(part.get("text") or "" for part in text)
        usage = body.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        prompt, completion = (count if isinstance(count, int) and count >= 0 else None for count in counts)
        finish = "refusal" if message.get("refusal") and not text else str(choice.get("finish_reason") or "")
        return Reply(str(text or ""), prompt, completion, finish)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Retry("the body was not a chat completion") from error


_TEXT = {"type": "string"}
_FIELDS = ["question", "answer", "full_answer"]
_PAIR = {"type": "object", "properties": dict.fromkeys(_FIELDS, _TEXT), "required": _FIELDS, "additionalProperties": False}
_SCHEMA = {
    "type": "object",
    "properties": {"pairs": {"type": "array", "items": _PAIR}},
    "required": ["pairs"],
    "additionalProperties": False,
}
RESPONSE_FORMATS: dict[str, dict[str, Any]] = {
    "json_object": {"type": "json_object"},
    "json_schema": {"type": "json_schema", "json_schema": {"name": "pairs", "strict": True, "schema": _SCHEMA}},
}


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
    """Seconds to hold further requests back after an answered one, by its `x-ratelimit-*` headers.

    tokens: how many the answered request used; with fewer left, the next one would be refused.
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
