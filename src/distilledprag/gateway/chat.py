"""/v1/models, /v1/chat/completions and /v1/responses, in OpenAI's form, with one more field: `distilledprag`.

body -> ChatRequest -> Asked: question, earlier messages, mode, settings -> answering -> one record, or events of a stream
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.responses import Response

from distilledprag.documents.store import DEFAULT_COLLECTION
from distilledprag.errors import InputError
from distilledprag.gateway.answering import MODES, Answering, Asked, Mode, Reply
from distilledprag.gateway.guard.rules import MOST_PASSAGES
from distilledprag.http import openai
from distilledprag.http.answers import CHAT, Generation, model_record, stream, whole_record
from distilledprag.http.bodies import BodyReader, json_body, while_there
from distilledprag.http.errors import Explain, NotFoundError, RequestError
from distilledprag.http.responses import BODY, chat_fields, named_as_sent, response_events, response_record

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
    """A message of an application written for OpenAI: fields that carry no text are ignored."""

    model_config = ConfigDict(extra="ignore")


class ChatRequest(openai.ChatRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]  # type: ignore[assignment]
    top_p: Annotated[openai.Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)] | None = None
    distilledprag: Settings = Field(default_factory=Settings)


def chat_routes(
    answering: Answering, count_tokens: Callable[[str], int], bodies: BodyReader, explain: Explain, accept_any_model: bool
) -> APIRouter:
    router = APIRouter()
    started = int(time.time())

    names = [MODEL, f"{MODEL}:closed_book", *([f"{MODEL}:rag"] if answering.allow_plaintext else [])]

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_record(name, started) for name in names]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in names:
            raise NotFoundError(
                f"there is no such model; the models are {', '.join(names)}", code="model_not_found", param="model"
            )
        return model_record(name, started)

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=json_body(ChatRequest))
    async def chat(sent: Request) -> Response:
        async with bodies.held_json(sent, MAX_CHAT) as fields:
            request = openai.parse_request(ChatRequest, fields, ignore_unknown=True)
        async with _begun(request) as (made, stack):
            if request.stream:
                return _streaming(stream(made, CHAT, request.wants_usage, explain), stack)
            return JSONResponse(await while_there(sent, whole_record(made, CHAT)))

    @router.post("/v1/responses", response_model=None, openapi_extra=BODY)
    async def responses(sent: Request) -> Response:
        async with bodies.held_json(sent, MAX_CHAT) as fields:
            try:
                request = openai.parse_request(ChatRequest, chat_fields(fields), ignore_unknown=True)
            except RequestError as error:
                raise named_as_sent(error) from None
        try:
            async with _begun(request) as (made, stack):
                if request.stream:
                    return _streaming(response_events(made, fields, explain), stack)
                return JSONResponse(await while_there(sent, response_record(made, fields)))
        except RequestError as error:
            raise named_as_sent(error) from None

    @contextlib.asynccontextmanager
    async def _begun(request: ChatRequest) -> AsyncIterator[tuple[Generation, contextlib.AsyncExitStack]]:
        """The answer, begun: the engine is asked before the answer begins, so that its refusals have their own status. What is
        kept open for it is in the stack, which a stream takes over."""
        asked = asked_in(request, accept_any_model)
        async with contextlib.AsyncExitStack() as stack:
            reply = await stack.enter_async_context(answering.ask(asked))
            yield _generation(request, asked, reply, count_tokens), stack

    return router


def _streaming(events: AsyncIterator[bytes], stack: contextlib.AsyncExitStack) -> StreamingResponse:
    kept = stack.pop_all()

    async def sent() -> AsyncIterator[bytes]:
        async with kept:
            async for event in events:
                yield event

    return StreamingResponse(sent(), media_type="text/event-stream")


def _generation(request: ChatRequest, asked: Asked, reply: Reply, count_tokens: Callable[[str], int]) -> Generation:
    def usage() -> tuple[int, int]:
        return reply.report.prompt_tokens, sum(map(count_tokens, reply.texts))

    def details() -> dict[str, Any]:
        return {"distilledprag": reply.report.as_record()} if request.distilledprag.details else {}

    return Generation(_model_of(asked), reply.pieces, usage, asked.choices, asked.logprobs is not None, details)


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
        stop=tuple(filter(None, request.stops)),
        choices=request.choices,
        logprobs=request.alternatives,
        response_format=_format_of(request),
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


def _format_of(request: ChatRequest) -> dict[str, Any] | None:
    """The format of the answer in the one way in which it is sent on; None for any text."""
    wanted = request.response_format
    if wanted is None or wanted.schema_of_answer is None:
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.schema_of_answer}}
