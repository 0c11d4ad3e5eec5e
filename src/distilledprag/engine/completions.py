"""/v1/completions and /v1/chat/completions, whole and as server-sent events.

body -> request -> prompt as token ids -> job in the queue -> events of the decoding thread -> text, piece by piece -> answer
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import StrictInt, StrictStr
from starlette.responses import Response

from distilledprag.engine.adapter_store import StoredAdapter
from distilledprag.engine.jobs import End, Event, Job, Sampling, Token
from distilledprag.engine.metrics import Metrics
from distilledprag.engine.service import Engine
from distilledprag.engine.tokenization import TextWriter
from distilledprag.http import openai
from distilledprag.http.bodies import BodyReader, PerKeyExecutor, json_body
from distilledprag.http.errors import Explain, NotFoundError, RequestError, error_record

DEFAULT_COMPLETION = 16  # tokens, where a request names none, as at OpenAI
_BYTES_PER_TOKEN = 64  # of a prompt's JSON, generously
_MORE_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",), "store": (False,)}

Shape = Callable[[str | None, str | None], dict[str, Any]]  # (text or None, finish reason or None) -> a choice
Submit = Callable[[Callable[[Event], None]], Job]


class CompletionRequest(openai.GenerationRequest):
    """The body of POST /v1/completions. `prompt`: a text or token ids, or a list of exactly one of these."""

    without_effect: ClassVar[Mapping[str, tuple[Any, ...]]] = openai.WITHOUT_EFFECT | _MORE_WITHOUT_EFFECT
    prompt: StrictStr | list[StrictInt] | list[StrictStr] | list[list[StrictInt]]

    @property
    def one_prompt(self) -> str | list[int]:
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise RequestError("one request answers one prompt; send the others in requests of their own", param="prompt")
            prompt = prompt[0]
        return prompt


class ChatRequest(openai.ChatRequest):
    """The body of POST /v1/chat/completions."""

    without_effect: ClassVar[Mapping[str, tuple[Any, ...]]] = openai.WITHOUT_EFFECT | _MORE_WITHOUT_EFFECT


def completion_routes(engine: Engine, bodies: BodyReader, metrics: Metrics, explain: Explain) -> APIRouter:
    router = APIRouter()
    limit = max(2**20, _BYTES_PER_TOKEN * engine.context_length)
    executor = PerKeyExecutor()

    @router.post("/v1/completions", response_model=None, openapi_extra=json_body(CompletionRequest))
    async def complete(request: Request) -> Response:
        async with bodies.held_json(request, limit) as fields:
            asked = openai.parse_request(CompletionRequest, fields)
            adapter = _adapter_of(engine, request, asked.model)
            given = asked.one_prompt
            size = len(given) if isinstance(given, str) else 0
            prompt = await executor.run(request.state.tenant, size, lambda: engine.tokenization.completion_prompt(given))
        return await respond(request, asked, adapter, prompt, asked.max_tokens or DEFAULT_COMPLETION, chat=False)

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=json_body(ChatRequest))
    async def chat(request: Request) -> Response:
        async with bodies.held_json(request, limit) as fields:
            asked = openai.parse_request(ChatRequest, fields)
            adapter = _adapter_of(engine, request, asked.model)
            messages = asked.conversation
            size = sum(len(message["content"]) for message in messages)
            prompt = await executor.run(request.state.tenant, size, lambda: engine.tokenization.chat_prompt(messages))
        room = max(1, min(engine.settings.default_answer_tokens, engine.context_length - len(prompt)))
        return await respond(request, asked, adapter, prompt, asked.answer_tokens or room, chat=True)

    async def respond(
        request: Request,
        asked: openai.GenerationRequest,
        adapter: StoredAdapter | None,
        prompt: list[int],
        max_tokens: int,
        chat: bool,
    ) -> Response:
        temperature = 1.0 if asked.temperature is None else asked.temperature
        sampling = Sampling(temperature, 1.0 if asked.top_p is None else asked.top_p, asked.seed)
        answer = Answer(len(prompt), engine.tokenization.writer(asked.stops))
        tenant = request.state.tenant
        at_once = not asked.stream and not asked.stops  # a stop text ends an answer early
        answer.start(lambda listener: engine.submit(tenant, prompt, max_tokens, adapter, sampling, listener), at_once)
        prefix, kind = ("chatcmpl-", "chat.completion") if chat else ("cmpl-", "text_completion")
        if asked.stream:
            frame = openai.frame(prefix, "chat.completion.chunk" if chat else kind, asked.model)
            events = _events(answer, frame, openai.chat_delta if chat else _text_choice, asked.wants_usage, metrics, explain)
            return StreamingResponse(events, media_type="text/event-stream")
        text = await answer.whole(request)
        metrics.count(answer.prompt_tokens, answer.tokens)
        if text is None:
            raise RequestError("the client left before its answer was finished", status=499, code="client_left")
        choice = (openai.chat_choice if chat else _text_choice)(text, answer.finish_reason)
        frame = openai.frame(prefix, kind, asked.model)
        return JSONResponse(frame | {"choices": [choice], "usage": openai.usage(answer.prompt_tokens, answer.tokens)})

    return router


@dataclass
class Answer:
    """One answer being written. Iterate `pieces`; `finish_reason` is known at their end, `tokens` counts what was written."""

    prompt_tokens: int
    writer: TextWriter
    tokens: int = 0
    finish_reason: str = "stop"
    job: Job | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def start(self, submit: Submit, at_once: bool = False) -> None:
        """Put it into the queue. at_once: nobody needs a piece before the end, so the event loop is woken only then.
        Raises what `Engine.submit` does."""
        loop = asyncio.get_running_loop()
        written: list[Event] = []

        def listener(event: Event) -> None:
            if at_once:
                written.append(event)
                if isinstance(event, End):
                    forward(written)
            else:
                forward([event])

        def forward(events: list[Event]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(put, events)

        def put(events: list[Event]) -> None:
            for event in events:
                self._events.put_nowait(event)

        self.job = submit(listener)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Texts that are not empty. Raises the RequestError that the job ended with. Leaving it cancels the job."""
        assert self.job is not None
        try:
            while not isinstance(event := await self._events.get(), End):
                assert isinstance(event, Token)
                self.tokens += 1
                if text := self.writer.add(event.id):
                    yield text
                if self.writer.stopped:
                    return
            if event.error is not None:
                raise event.error
            self.finish_reason = event.reason or "stop"
            if text := self.writer.finish():
                yield text
            if self.writer.stopped:
                self.finish_reason = "stop"
        finally:
            self.job.cancel()

    async def whole(self, request: Request) -> str | None:
        """The whole text; None when the client left before it was finished."""
        writing = asyncio.create_task(self._joined())
        leaving = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            return await writing if writing.done() else None
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _joined(self) -> str:
        async with contextlib.aclosing(self.pieces()) as pieces:
            return "".join([piece async for piece in pieces])


async def _gone(request: Request) -> None:
    """Wait until the client leaves; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _adapter_of(engine: Engine, request: Request, model: str) -> StoredAdapter | None:
    """The adapter that a model's name `base` or `base:adapter id` names. Raises NotFoundError."""
    if model == engine.name:
        return None
    base, _, id = model.rpartition(":")
    if base != engine.name:
        message = "there is no such model; GET /v1/models lists what there is"
        raise NotFoundError(message, code="model_not_found", param="model")
    return engine.adapters.get(request.state.tenant, id)


async def _events(
    answer: Answer, frame: dict[str, Any], shape: Shape, usage: bool, metrics: Metrics, explain: Explain
) -> AsyncIterator[bytes]:
    try:
        async with contextlib.aclosing(answer.pieces()) as pieces:
            if shape is openai.chat_delta:
                yield openai.event(frame | {"choices": [shape("", None)]})
            async for text in pieces:
                yield openai.event(frame | {"choices": [shape(text, None)]})
        yield openai.event(frame | {"choices": [shape(None, answer.finish_reason)]})
        if usage:
            yield openai.event(frame | {"choices": [], "usage": openai.usage(answer.prompt_tokens, answer.tokens)})
        yield openai.DONE
    except RequestError as error:
        yield openai.event(error_record(error, explain)[1])
    finally:
        metrics.count(answer.prompt_tokens, answer.tokens)


def _text_choice(text: str | None, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": finish}
