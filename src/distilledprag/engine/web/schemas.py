"""OpenAI's requests, as far as they are served. What would change an answer and is not served is refused, not ignored.

Knows nothing of tokenizers or models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from distilledprag.engine.failures import RequestError

# Settings of OpenAI's that are not served, and the values under which they do nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
}
_IGNORED = ("user", "metadata", "parallel_tool_calls", "service_tier", "safety_identifier", "prompt_cache_key")

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: StrictBool | None = None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
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


class CompletionRequest(_Request):
    """`prompt`: a text or token ids, or a list of exactly one of these."""

    prompt: StrictStr | list[StrictInt] | list[StrictStr] | list[list[StrictInt]]

    @property
    def one_prompt(self) -> str | list[int]:
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise RequestError("one request answers one prompt; send the others in requests of their own", param="prompt")
            prompt = prompt[0]
        return prompt


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: StrictStr


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part]
    name: StrictStr | None = None

    @field_validator("content")
    @classmethod
    def _joined(cls, content: str | list[Part]) -> str:
        return content if isinstance(content, str) else "".join(part.text for part in content)


class ChatRequest(_Request):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None

    @property
    def conversation(self) -> list[dict[str, str]]:
        return [{"role": message.role, "content": str(message.content)} for message in self.messages]


Kind = TypeVar("Kind", bound=_Request)


def parse_request(kind: type[Kind], fields: Any) -> Kind:
    """Raises RequestError that names the field. Values are not repeated."""
    if not isinstance(fields, dict):
        raise RequestError("the request's body must be a JSON object")
    kept = {}
    for name, value in fields.items():
        if name in _WITHOUT_EFFECT and name not in kind.model_fields:
            if value is not None and not any(
                type(value) in (type(allowed), float) and value == allowed for allowed in _WITHOUT_EFFECT[name]
            ):
                raise RequestError(f"{name} is not served here; leave it out", code="unsupported_parameter", param=name)
        elif name not in _IGNORED:
            kept[name] = value
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])[:120]
        raise RequestError(f"{place or 'the request'}: {first['msg'][:200]}", param=place or None) from None
