"""A chat request in OpenAI's form -> what is asked: question, earlier messages, mode, settings.

Fields of OpenAI's that change an answer's meaning and are not supported (`_UNSUPPORTED`) are refused, never ignored. Knows
nothing of documents or the engine.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from distilledprag.errors import InputError
from distilledprag.gateway.expected import MOST_PASSAGES
from distilledprag.gateway.failures import NotFoundError
from distilledprag.gateway.store import DEFAULT_COLLECTION

MODEL = "distilledprag"
Mode = Literal["parametric", "closed_book", "rag"]
MODES: tuple[Mode, ...] = ("parametric", "closed_book", "rag")
_ROLES = ("system", "developer", "user", "assistant")
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {  # field -> values that mean nothing special
    "n": (None, 1),
    "stop": (None, [], ""),
    "tools": (None, []),
    "functions": (None, []),
    "logprobs": (None, False),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "best_of": (None, 1),
    "top_logprobs": (None, 0),
    "tool_choice": (None, "none", "auto"),  # without tools these choose none
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
    "prediction": (None,),
}


class Message(BaseModel):
    """One message. `content`: text, or parts of which each is text."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class Settings(BaseModel):
    """The request's field `distilledprag`. details: whether the answer tells passages, what was sent and timings."""

    model_config = ConfigDict(extra="forbid")
    mode: Mode | None = None
    collection: str = DEFAULT_COLLECTION
    top_k: int = Field(3, ge=1, le=MOST_PASSAGES)
    details: bool = True


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, gt=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    distilledprag: Settings = Field(default_factory=Settings)


class Asked(BaseModel):
    """What is asked. history: earlier messages `{"role", "content"}`; max_tokens: of the answer, None for the default."""

    question: str
    history: list[dict[str, str]]
    mode: Mode
    collection: str
    top_k: int
    max_tokens: int | None
    temperature: float
    top_p: float | None
    seed: int | None
    stream: bool


def asked_in(request: ChatRequest, accept_any_model: bool = True) -> Asked:
    """accept_any_model: the name of a foreign model means ours, so that an application need not change it.

    Raises NotFoundError for an unknown model, InputError for a conversation or a field that cannot be served.
    """
    mode = _mode(request, accept_any_model)
    for name, harmless in _UNSUPPORTED.items():
        if (request.model_extra or {}).get(name) not in harmless:
            raise InputError(f"the field {name!r} is not supported with this value; leave it out")
    turns = [_turn(number, message) for number, message in enumerate(request.messages, start=1)]
    if turns[-1]["role"] != "user":
        raise InputError("the last message must be the user's question; put it last")
    if not turns[-1]["content"].strip():
        raise InputError("the question is empty; write one")
    settings = request.distilledprag
    return Asked(
        question=turns[-1]["content"],
        history=turns[:-1],
        mode=mode,
        collection=settings.collection,
        top_k=settings.top_k,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=request.temperature or 0.0,
        top_p=request.top_p,
        seed=request.seed,
        stream=bool(request.stream),
    )


def model_of(asked: Asked) -> str:
    """The name of the model that answers."""
    return MODEL if asked.mode == "parametric" else f"{MODEL}:{asked.mode}"


def _mode(request: ChatRequest, accept_any_model: bool) -> Mode:
    """The mode that the field or the model's name asks for: `distilledprag:closed_book` for clients without the field."""
    name, _, suffix = request.model.partition(":")
    named: Mode | None = next((mode for mode in MODES if mode == suffix), None)
    foreign = name != MODEL and accept_any_model
    if foreign:
        named = None
    elif name != MODEL or (suffix and named is None):
        names = ", ".join([MODEL, *(f"{MODEL}:{mode}" for mode in MODES)])
        raise NotFoundError(f"there is no such model; the models are {names}")
    wanted = request.distilledprag.mode
    if named is not None and wanted is not None and named != wanted:
        raise InputError(f"the model's name asks for the mode {named}, the field distilledprag for {wanted}; choose one")
    return wanted or named or "parametric"


def _turn(number: int, message: Message) -> dict[str, str]:
    if message.role not in _ROLES:
        raise InputError(f"message {number} has a role that is not supported; use {', '.join(_ROLES)}")
    content = message.content
    if isinstance(content, list):
        if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
            raise InputError(f"message {number} holds something else than text; only text can be asked")
        content = "".join(part["text"] for part in content)
    return {"role": message.role, "content": content or ""}
