"""OpenAI's completions as both servers read them: the schema of a request for an answer.

A parameter that would change an answer and is not served is refused, never ignored. A parameter that is null counts as not given.
answers.py has the shapes of answers, responses.py the same for OpenAI's newer interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from distilledprag.http.errors import RequestError

# Parameters of OpenAI's that are not served, and the values under which they do nothing.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # without tools these choose none
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
_IGNORED = (
    "user", "metadata", "parallel_tool_calls", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "store",
)  # fmt: skip
MOST_CHOICES = 8  # answers to one request
MOST_LOGPROBS = 20  # alternatives of a token
LONGEST_SCHEMA = 64 * 1024  # characters of a JSON schema

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: StrictBool | None = None


class JsonSchema(BaseModel):
    """What an answer must be. name, description and strict change nothing: an answer always keeps to the schema."""

    model_config = ConfigDict(extra="ignore")
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("the type json_schema needs the field json_schema with a schema")
        if len(str(self.schema_of_answer)) > LONGEST_SCHEMA:
            raise ValueError(f"the schema is longer than {LONGEST_SCHEMA} characters")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema that an answer must satisfy; None: any text."""
        if self.type == "json_object":
            return {"type": "object"}
        return self.json_schema.json_schema if self.type == "json_schema" and self.json_schema else None


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
    n: Annotated[StrictInt, Field(ge=1, le=MOST_CHOICES)] | None = None
    response_format: ResponseFormat | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        return self.response_format.schema_of_answer if self.response_format else None

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
    """One message; after validation `content` is a string, the parts joined; an assistant's may be null. Fields that say nothing
    (null, an empty list) are left out: clients send an answer back with all of its fields."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part] | None = None
    name: StrictStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, fields: Any) -> Any:
        return {name: value for name, value in fields.items() if value not in (None, [])} if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of the role {self.role} needs content")
        return self

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
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def alternatives(self) -> int | None:
        """How many likely tokens to tell beside each written one; None: no probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

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
        if value is None:
            continue
        if name in kind.without_effect:
            if not any(_equal(value, harmless) for harmless in kind.without_effect[name]):
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


def _equal(value: Any, harmless: Any) -> bool:
    return type(value) in (type(harmless), float) and value == harmless
