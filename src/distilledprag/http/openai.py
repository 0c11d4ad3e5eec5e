"""OpenAI's chat completions as both servers speak them: the request's schema, and the shapes of answers and stream events.

A parameter that would change an answer and is not served is refused, never ignored.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from distilledprag.http.errors import RequestError

# Parameters of OpenAI's that are not served, and the values under which they do nothing.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # without tools these choose none
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
_IGNORED = ("user", "metadata", "parallel_tool_calls", "service_tier", "safety_identifier", "prompt_cache_key")

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: StrictBool | None = None


class GenerationRequest(BaseModel):
    """What every request for an answer may say. `without_effect`: unserved parameters and the values that are let through."""

    model_config = ConfigDict(extra="forbid")
    without_effect: ClassVar[Mapping[str, tuple[Any, ...]]] = WITHOUT_EFFECT
    model: StrictStr
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    stop: StrictStr | Annotated[list[Annotated[StrictStr, Field(max_length=200)]], Field(max_length=4)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with an event that tells the tokens used."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: StrictStr


class Message(BaseModel):
    """One message; after validation `content` is a string, the parts joined."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part]
    name: StrictStr | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        texts = [part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text" and "text" in part]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise ValueError("only text is read: a string, or parts of the type text")
        return "".join(texts)


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The messages as `{"role", "content"}`."""
        return [{"role": message.role, "content": str(message.content or "")} for message in self.messages]

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer that was asked for; None where the request names none."""
        return self.max_completion_tokens or self.max_tokens


Kind = TypeVar("Kind", bound=GenerationRequest)


def parse_request(kind: type[Kind], fields: Any, *, ignore_unknown: bool = False) -> Kind:
    """A parsed JSON body as a request. ignore_unknown: fields that OpenAI does not have either are left out, else refused.

    Raises RequestError that names the field. Values are not repeated.
    """
    if not isinstance(fields, dict):
        raise RequestError("the request's body must be a JSON object")
    kept = {}
    for name, value in fields.items():
        if name in kind.without_effect:
            if value is not None and not any(_equal(value, harmless) for harmless in kind.without_effect[name]):
                raise RequestError(f"{name!r} is not served here; leave it out", code="unsupported_parameter", param=name)
        elif name in kind.model_fields or not (ignore_unknown or name in _IGNORED):
            kept[name] = value
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        place, message = explained(error)
        raise RequestError(f"{place or 'the request'}: {message}", param=place or None) from None


def explained(error: ValidationError) -> tuple[str, str]:
    """(field, what is wrong) of the first problem, without the value that was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ".".join(str(part)[:40] for part in first["loc"])[:120], first["msg"][:200]


def frame(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What every answer begins with, and every event of a stream. kind: OpenAI's `object`."""
    return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}


def model_record(name: str, created: int) -> dict[str, Any]:
    """An entry of /v1/models. created: Unix seconds."""
    return {"id": name, "object": "model", "created": created, "owned_by": "distilledprag"}


def chat_choice(text: str | None, finish: str | None) -> dict[str, Any]:
    """The choice of a whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}


def chat_delta(text: str | None, finish: str | None = None) -> dict[str, Any]:
    """The choice of a stream's event: "" for the first one, None for the last."""
    delta = {} if text is None else {"role": "assistant", "content": ""} if text == "" else {"content": text}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def usage(read: int, written: int) -> dict[str, int]:
    """Tokens of the prompt and of the answer."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def event(record: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _equal(value: Any, harmless: Any) -> bool:
    return type(value) in (type(harmless), float) and value == harmless
