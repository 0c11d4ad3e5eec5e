"""/v1/models and /v1/chat/completions, in OpenAI's form, with one more field: `distilledprag`.

Knows OpenAI's shapes and server-sent events; nothing of how answers are made.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.responses import Response

from distilledprag.errors import DistilledPRAGError, InputError
from distilledprag.gateway.answering import Answering, Reply
from distilledprag.gateway.conversation import MODEL, Asked, ChatRequest, asked_in, model_of
from distilledprag.gateway.web.body import Bodies, explained, json_body
from distilledprag.gateway.web.shell import error_record

MAX_CHAT = 2 * 2**20  # bytes of one conversation: far more than a model reads


def chat_routes(answering: Answering, count_tokens: Any, bodies: Bodies, accept_any_model: bool) -> APIRouter:
    """`count_tokens`: text -> number of tokens."""
    router = APIRouter()
    started = int(time.time())

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [MODEL, f"{MODEL}:closed_book", *([f"{MODEL}:rag"] if answering.allow_rag else [])]
        entries = [{"id": name, "object": "model", "created": started, "owned_by": "distilledprag"} for name in names]
        return {"object": "list", "data": entries}

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=json_body(ChatRequest))
    async def chat(sent: Request) -> Response:
        async with bodies.read(sent, MAX_CHAT) as body:
            try:
                request = ChatRequest.model_validate_json(body)
            except ValidationError as error:
                raise InputError(f"the request cannot be used: {explained(error)}") from None
        asked = asked_in(request, accept_any_model)
        if not asked.stream:
            async with answering.ask(asked) as reply:
                text = "".join([piece async for piece in reply.texts]).rstrip()
            return JSONResponse(_whole(request, asked, reply, text, count_tokens(text)))
        # The engine is asked before the answer begins, so that its refusals have their own status.
        stack = contextlib.AsyncExitStack()
        reply = await stack.enter_async_context(answering.ask(asked))
        return StreamingResponse(_events(request, asked, reply, stack, count_tokens), media_type="text/event-stream")

    return router


def _usage(reply: Reply, completion_tokens: int) -> dict[str, int]:
    prompt = reply.report.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion_tokens, "total_tokens": prompt + completion_tokens}


def _whole(request: ChatRequest, asked: Asked, reply: Reply, text: str, tokens: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    finish = reply.completion.finish_reason or "stop"
    record = _frame(asked, "chat.completion") | {
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": _usage(reply, tokens),
    }
    return record | ({"distilledprag": reply.report.as_record()} if request.distilledprag.details else {})


async def _events(
    request: ChatRequest, asked: Asked, reply: Reply, stack: contextlib.AsyncExitStack, count_tokens: Any
) -> AsyncIterator[bytes]:
    """The first event tells passages and what was sent, the last one the timings."""
    frame = _frame(asked, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None, details: bool = False) -> bytes:
        record = frame | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        if details and request.distilledprag.details:
            record["distilledprag"] = reply.report.as_record()
        return _event(record)

    async with stack:
        try:
            yield chunk({"role": "assistant", "content": ""}, details=True)
            pieces = []
            async for text in reply.texts:
                pieces.append(text)
                yield chunk({"content": text})
            yield chunk({}, reply.completion.finish_reason or "stop", details=True)
            if request.stream_options is not None and request.stream_options.include_usage:
                yield _event(frame | {"choices": [], "usage": _usage(reply, count_tokens("".join(pieces)))})
            yield b"data: [DONE]\n\n"
        except DistilledPRAGError as error:
            yield _event(error_record(error)[1])


def _frame(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model_of(asked)}


def _event(record: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
