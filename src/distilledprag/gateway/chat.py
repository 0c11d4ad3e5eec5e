"""/v1/models and /v1/chat/completions, in OpenAI's form, with one more field: `distilledprag`.

body -> ChatRequest -> Asked: question, earlier messages, mode, settings -> answering -> one record, or events of a stream
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.responses import Response

from distilledprag.documents.store import DEFAULT_COLLECTION
from distilledprag.errors import DistilledPRAGError, InputError
from distilledprag.gateway.answering import MODES, Answering, Asked, Mode, Reply
from distilledprag.gateway.guard.reference import MOST_PASSAGES
from distilledprag.http import openai
from distilledprag.http.bodies import BodyReader, json_body
from distilledprag.http.errors import Explain, NotFoundError, error_record

MODEL = "distilledprag"
MAX_CHAT = 2 * 2**20  # bytes of one conversation: far more than a model reads


class Settings(BaseModel):
    """The request's field `distilledprag`. details: whether the answer tells passages, what was sent and timings."""

    model_config = ConfigDict(extra="forbid")
    mode: Mode | None = None
    collection: str = DEFAULT_COLLECTION
    top_k: int = Field(3, ge=1, le=MOST_PASSAGES)
    details: bool = True


class Message(openai.Message):
    """A message of an application written for OpenAI: fields that carry no text are ignored, content may be missing."""

    model_config = ConfigDict(extra="ignore")
    content: StrictStr | list[openai.Part] | None = None  # type: ignore[assignment]


class ChatRequest(openai.ChatRequest):
    """The body of POST /v1/chat/completions."""

    without_effect: ClassVar[Mapping[str, tuple[Any, ...]]] = openai.WITHOUT_EFFECT | {"stop": ([], "")}
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]  # type: ignore[assignment]
    top_p: Annotated[openai.Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)] | None = None
    distilledprag: Settings = Field(default_factory=Settings)


def chat_routes(
    answering: Answering, count_tokens: Callable[[str], int], bodies: BodyReader, explain: Explain, accept_any_model: bool
) -> APIRouter:
    router = APIRouter()
    started = int(time.time())

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [MODEL, f"{MODEL}:closed_book", *([f"{MODEL}:rag"] if answering.allow_plaintext else [])]
        return {"object": "list", "data": [openai.model_record(name, started) for name in names]}

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=json_body(ChatRequest))
    async def chat(sent: Request) -> Response:
        async with bodies.held_json(sent, MAX_CHAT) as fields:
            request = openai.parse_request(ChatRequest, fields, ignore_unknown=True)
        asked = asked_in(request, accept_any_model)
        if not asked.stream:
            async with answering.ask(asked) as reply:
                text = "".join([piece async for piece in reply.texts]).rstrip()
            return JSONResponse(_whole(request, asked, reply, text, count_tokens(text)))
        # The engine is asked before the answer begins, so that its refusals have their own status.
        stack = contextlib.AsyncExitStack()
        reply = await stack.enter_async_context(answering.ask(asked))
        return StreamingResponse(_events(request, asked, reply, stack, count_tokens, explain), media_type="text/event-stream")

    return router


def asked_in(request: ChatRequest, accept_any_model: bool = True) -> Asked:
    """accept_any_model: the name of a foreign model means ours, so that an application need not change it.

    Raises NotFoundError for an unknown model, InputError for a conversation that cannot be served.
    """
    mode = _mode(request, accept_any_model)
    turns = request.conversation
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
        max_tokens=request.answer_tokens,
        temperature=request.temperature or 0.0,
        top_p=request.top_p,
        seed=request.seed,
        stream=bool(request.stream),
    )


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


def _model_of(asked: Asked) -> str:
    """The name of the model that answers."""
    return MODEL if asked.mode == "parametric" else f"{MODEL}:{asked.mode}"


def _whole(request: ChatRequest, asked: Asked, reply: Reply, text: str, tokens: int) -> dict[str, Any]:
    record = openai.frame("chatcmpl-", "chat.completion", _model_of(asked)) | {
        "choices": [openai.chat_choice(text, reply.completion.finish_reason or "stop")],
        "usage": openai.usage(reply.report.prompt_tokens, tokens),
    }
    return record | ({"distilledprag": reply.report.as_record()} if request.distilledprag.details else {})


async def _events(
    request: ChatRequest,
    asked: Asked,
    reply: Reply,
    stack: contextlib.AsyncExitStack,
    count_tokens: Callable[[str], int],
    explain: Explain,
) -> AsyncIterator[bytes]:
    """The first event tells passages and what was sent, the last one the timings."""
    frame = openai.frame("chatcmpl-", "chat.completion.chunk", _model_of(asked))

    def chunk(text: str | None, finish: str | None = None, details: bool = False) -> bytes:
        record = frame | {"choices": [openai.chat_delta(text, finish)]}
        if details and request.distilledprag.details:
            record["distilledprag"] = reply.report.as_record()
        return openai.event(record)

    async with stack:
        try:
            yield chunk("", details=True)
            pieces = []
            async for text in reply.texts:
                pieces.append(text)
                yield chunk(text)
            yield chunk(None, reply.completion.finish_reason or "stop", details=True)
            if request.wants_usage:
                used = openai.usage(reply.report.prompt_tokens, count_tokens("".join(pieces)))
                yield openai.event(frame | {"choices": [], "usage": used})
            yield openai.DONE
        except DistilledPRAGError as error:
            yield openai.event(error_record(error, explain)[1])
