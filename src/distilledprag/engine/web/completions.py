"""/v1/completions and /v1/chat/completions, whole and as server-sent events.

Knows OpenAI's shapes; nothing of how answers are made.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.responses import Response

from distilledprag.engine.adapters import StoredAdapter
from distilledprag.engine.failures import NotFoundError, RequestError
from distilledprag.engine.job import Sampling
from distilledprag.engine.service import Engine
from distilledprag.engine.web.answering import Answer
from distilledprag.engine.web.bodies import BodyReader
from distilledprag.engine.web.description import json_body
from distilledprag.engine.web.observing import Metrics
from distilledprag.engine.web.schemas import ChatRequest, CompletionRequest, parse_request
from distilledprag.engine.web.shell import error_record
from distilledprag.engine.web.turns import Turns

USUAL_COMPLETION = 16  # tokens, where a request names none, as at OpenAI
_BYTES_PER_TOKEN = 64  # of a prompt's JSON, generously

Shape = Callable[[str | None, str | None], dict[str, Any]]  # (text or None, finish reason or None) -> a choice


def completion_routes(engine: Engine, bodies: BodyReader, metrics: Metrics) -> APIRouter:
    router = APIRouter()
    limit = max(2**20, _BYTES_PER_TOKEN * engine.context_length)
    turns = Turns()

    @router.post("/v1/completions", response_model=None, openapi_extra=json_body(CompletionRequest))
    async def complete(request: Request) -> Response:
        async with bodies.held_json(request, limit) as fields:
            asked = parse_request(CompletionRequest, fields)
            adapter = _adapter_of(engine, request, asked.model)
            given = asked.one_prompt
            size = len(given) if isinstance(given, str) else 0
            prompt = await turns.run(request.state.owner, size, lambda: engine.text.completion_prompt(given))
        return await respond(request, asked, adapter, prompt, asked.max_tokens or USUAL_COMPLETION, chat=False)

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=json_body(ChatRequest))
    async def chat(request: Request) -> Response:
        async with bodies.held_json(request, limit) as fields:
            asked = parse_request(ChatRequest, fields)
            adapter = _adapter_of(engine, request, asked.model)
            messages = asked.conversation
            size = sum(len(message["content"]) for message in messages)
            prompt = await turns.run(request.state.owner, size, lambda: engine.text.chat_prompt(messages))
        room = max(1, min(engine.settings.usual_answer, engine.context_length - len(prompt)))
        return await respond(request, asked, adapter, prompt, asked.max_completion_tokens or asked.max_tokens or room, chat=True)

    async def respond(
        request: Request,
        asked: CompletionRequest | ChatRequest,
        adapter: StoredAdapter | None,
        prompt: list[int],
        max_tokens: int,
        chat: bool,
    ) -> Response:
        temperature = 1.0 if asked.temperature is None else asked.temperature
        sampling = Sampling(temperature, 1.0 if asked.top_p is None else asked.top_p, asked.seed)
        answer = Answer(len(prompt), engine.text.writer(asked.stops))
        owner = request.state.owner
        at_once = not asked.stream and not asked.stops  # a stop text ends an answer early
        answer.start(lambda listener: engine.submit(owner, prompt, max_tokens, adapter, sampling, listener), at_once)
        kind, prefix = ("chat.completion", "chatcmpl-") if chat else ("text_completion", "cmpl-")
        frame = {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": asked.model}
        if asked.stream:
            usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            if chat:
                frame["object"] = "chat.completion.chunk"
            events = _events(answer, frame, _chat_delta if chat else _text_choice, usage, metrics)
            return StreamingResponse(events, media_type="text/event-stream")
        text = await answer.whole(request)
        _count(metrics, answer)
        if text is None:
            raise RequestError("the client left before its answer was finished", status=499, code="client_left")
        choice = (_chat_choice if chat else _text_choice)(text, answer.finish_reason)
        return JSONResponse(frame | {"choices": [choice], "usage": _usage(answer)})

    return router


def _adapter_of(engine: Engine, request: Request, model: str) -> StoredAdapter | None:
    """The adapter that a model's name `base` or `base:adapter id` names. Raises NotFoundError."""
    if model == engine.name:
        return None
    base, _, id = model.rpartition(":")
    if base != engine.name:
        message = "there is no such model; GET /v1/models lists what there is"
        raise NotFoundError(message, code="model_not_found", param="model")
    return engine.adapters.get(request.state.owner, id)


async def _events(answer: Answer, frame: dict[str, Any], shape: Shape, usage: bool, metrics: Metrics) -> AsyncIterator[bytes]:
    try:
        async with contextlib.aclosing(answer.pieces()) as pieces:
            if shape is _chat_delta:
                yield _event(frame | {"choices": [shape("", None)]})
            async for text in pieces:
                yield _event(frame | {"choices": [shape(text, None)]})
        yield _event(frame | {"choices": [shape(None, answer.finish_reason)]})
        if usage:
            yield _event(frame | {"choices": [], "usage": _usage(answer)})
        yield b"data: [DONE]\n\n"
    except RequestError as error:
        yield _event(error_record(error)[1])
    finally:
        _count(metrics, answer)


def _chat_choice(text: str | None, finish: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}


def _chat_delta(text: str | None, finish: str | None) -> dict[str, Any]:
    delta = {} if text is None else {"role": "assistant", "content": ""} if text == "" else {"content": text}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _text_choice(text: str | None, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": finish}


def _usage(answer: Answer) -> dict[str, int]:
    read, written = answer.prompt_tokens, answer.tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _count(metrics: Metrics, answer: Answer) -> None:
    metrics.tokens.labels("read").inc(answer.prompt_tokens)
    metrics.tokens.labels("written").inc(answer.tokens)


def _event(record: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
