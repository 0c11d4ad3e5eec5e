"""/v1/completions, /v1/chat/completions and /v1/responses, whole and as server-sent events.

body -> request -> prompt as token ids -> job in the queue -> events of the decoding thread -> text, piece by piece -> answer
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, StrictInt, StrictStr
from starlette.responses import Response

from distilledprag.engine.adapter_store import StoredAdapter
from distilledprag.engine.jobs import End, Event, Job, Sampling, Token
from distilledprag.engine.service import Engine
from distilledprag.http import openai, telemetry
from distilledprag.http.answers import CHAT, TEXT, Form, Generation, Piece, TokenLogprob, stream, whole_record
from distilledprag.http.bodies import AT_ONCE, BodyReader, PerKeyExecutor, json_body, while_there
from distilledprag.http.errors import Explain, NotFoundError, RequestError
from distilledprag.http.responses import BODY, chat_fields, named_as_sent, response_events, response_record

DEFAULT_COMPLETION = 16  # tokens, where a request names none, as at OpenAI
_BYTES_PER_TOKEN = 64  # of a prompt's JSON, generously
_MORE_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",)}
_STREAM = "text/event-stream"

Submit = Callable[[int, Callable[[Event], None]], Job]  # number of the choice, listener


class CompletionRequest(openai.GenerationRequest):
    """The body of POST /v1/completions. `prompt`: a text or token ids, or a list of exactly one of these. It also takes chat's
    `response_format`."""

    without_effect: ClassVar[Mapping[str, tuple[Any, ...]]] = openai.WITHOUT_EFFECT | _MORE_WITHOUT_EFFECT
    prompt: StrictStr | list[StrictInt] | list[StrictStr] | list[list[StrictInt]]
    logprobs: Annotated[StrictInt, Field(ge=0, le=openai.MOST_LOGPROBS)] | None = None

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

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


def completion_routes(engine: Engine, bodies: BodyReader, count: Callable[[int, int], None], explain: Explain) -> APIRouter:
    """count: told the tokens that were read and written, at the end of each answer."""
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
        made = await generation(request, asked, adapter, prompt, asked.max_tokens or DEFAULT_COMPLETION)
        return await respond(request, asked, made, TEXT)

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=json_body(ChatRequest))
    async def chat(request: Request) -> Response:
        async with bodies.held_json(request, limit) as fields:
            asked = openai.parse_request(ChatRequest, fields)
            adapter, prompt = await chat_prompt(request, asked)
        return await respond(request, asked, await generation(request, asked, adapter, prompt, longest(asked, prompt)), CHAT)

    @router.post("/v1/responses", response_model=None, openapi_extra=BODY)
    async def responses(request: Request) -> Response:
        async with bodies.held_json(request, limit) as fields:
            try:
                asked = openai.parse_request(ChatRequest, chat_fields(fields))
                adapter, prompt = await chat_prompt(request, asked)
                made = await generation(request, asked, adapter, prompt, longest(asked, prompt))
            except RequestError as error:
                raise named_as_sent(error) from None
        if asked.stream:
            return StreamingResponse(response_events(made, fields, explain), media_type=_STREAM)
        return JSONResponse(await while_there(request, response_record(made, fields)))

    async def chat_prompt(request: Request, asked: ChatRequest) -> tuple[StoredAdapter | None, list[int]]:
        adapter = _adapter_of(engine, request, asked.model)
        messages = asked.conversation
        size = sum(len(message["content"]) for message in messages)
        return adapter, await executor.run(request.state.tenant, size, lambda: engine.tokenization.chat_prompt(messages))

    def longest(asked: ChatRequest, prompt: list[int]) -> int:
        room = max(1, min(engine.settings.default_answer_tokens, engine.context_length - len(prompt)))
        return asked.answer_tokens or room

    async def generation(
        request: Request,
        asked: CompletionRequest | ChatRequest,
        adapter: StoredAdapter | None,
        prompt: list[int],
        max_tokens: int,
    ) -> Generation:
        """The answer, begun: in the queue. Raises what `Engine.submit` does."""
        temperature = 1.0 if asked.temperature is None else asked.temperature
        top_p = 1.0 if asked.top_p is None else asked.top_p
        tenant, schema, grammar = request.state.tenant, asked.answer_schema, None
        if schema is not None:
            grammar = await executor.run(tenant, AT_ONCE + 1, lambda: engine.tokenization.grammars.of_schema(schema))
        answer = Answer(engine, len(prompt), asked.choices, asked.stops)
        # A stop text ends an answer early.
        answer.at_once = not asked.stream and not asked.stops

        def submit(choice: int, listener: Callable[[Event], None]) -> Job:
            seed = None if asked.seed is None else (asked.seed + choice) % 2**63
            own = None if grammar is None else grammar.fresh()
            sampling = Sampling(temperature, top_p, seed)
            return engine.submit(tenant, prompt, max_tokens, adapter, sampling, listener, asked.alternatives, own)

        began = time.perf_counter()
        answer.start(submit)

        async def pieces() -> AsyncGenerator[Piece, None]:
            try:
                async with contextlib.aclosing(answer.pieces()) as written:
                    async for piece in written:
                        yield piece
            finally:
                count(answer.prompt_tokens, answer.tokens)
                telemetry.count_tokens(answer.prompt_tokens, answer.tokens)
                if (taken := answer.taken) is not None:
                    telemetry.step("wait", taken - began)
                    seconds = time.perf_counter() - taken
                    telemetry.step("decode", seconds, prompt_tokens=answer.prompt_tokens, answer_tokens=answer.tokens)

        usage = lambda: (answer.prompt_tokens, answer.tokens)  # noqa: E731
        return Generation(asked.model, pieces(), usage, asked.choices, asked.alternatives is not None)

    async def respond(request: Request, asked: openai.GenerationRequest, made: Generation, form: Form) -> Response:
        if asked.stream:
            return StreamingResponse(stream(made, form, asked.wants_usage, explain), media_type=_STREAM)
        return JSONResponse(await while_there(request, whole_record(made, form)))

    return router


class Answer:
    """One answer being written, of `choices` choices. Iterate `pieces`; `tokens` counts what was written. at_once: nobody needs a
    piece before the end, so the event loop is woken only then."""

    def __init__(self, engine: Engine, prompt_tokens: int, choices: int = 1, stops: Sequence[str] = ()) -> None:
        self.prompt_tokens, self.tokens, self.at_once = prompt_tokens, 0, False
        self._tokenization = engine.tokenization
        self._writers = [engine.tokenization.writer(stops) for _ in range(choices)]
        self._jobs: list[Job] = []
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    @property
    def taken(self) -> float | None:
        """When the first of its jobs left the queue (`time.perf_counter`); None: none did."""
        return min((job.taken for job in self._jobs if job.taken is not None), default=None)

    def start(self, submit: Submit) -> None:
        """Put its choices into the queue: all or none. Raises what `submit` does."""
        try:
            for choice in range(len(self._writers)):
                self._jobs.append(submit(choice, self._listener(choice)))
        except BaseException:
            for job in self._jobs:
                job.cancel()
            raise

    def _listener(self, choice: int) -> Callable[[Event], None]:
        loop = asyncio.get_running_loop()
        written: list[Event] = []

        def listener(event: Event) -> None:
            if self.at_once:
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
                self._events.put_nowait((choice, event))

        return listener

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """All choices' pieces as they come. Raises the RequestError that a job ended with. Leaving it cancels the jobs."""
        unfinished = set(range(len(self._jobs)))
        try:
            while unfinished:
                choice, event = await self._events.get()
                if choice not in unfinished:  # after a stop text
                    continue
                piece = self._piece(choice, event)
                if piece.finish:
                    unfinished.discard(choice)
                    self._jobs[choice].cancel()
                if piece.text or piece.tokens or piece.finish:
                    yield piece
        finally:
            for job in self._jobs:
                job.cancel()

    def _piece(self, choice: int, event: Event) -> Piece:
        writer = self._writers[choice]
        if isinstance(event, Token):
            self.tokens += 1
            text = writer.add(event.id)
            return Piece(text, choice, self._logprobs(event), "stop" if writer.stopped else None)
        if event.error is not None:
            raise event.error
        text = writer.finish()
        return Piece(text, choice, finish="stop" if writer.stopped else event.reason or "stop")

    def _logprobs(self, token: Token) -> tuple[TokenLogprob, ...]:
        if token.logprob is None:
            return ()
        top = tuple(self._logprob(id, value) for id, value in token.top)
        return (self._logprob(token.id, token.logprob, top),)

    def _logprob(self, id: int, value: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        written = self._tokenization.grammars.bytes_of(id)
        return TokenLogprob(written.decode("utf-8", "replace"), value, tuple(written), top)


def _adapter_of(engine: Engine, request: Request, model: str) -> StoredAdapter | None:
    """The adapter that a model's name `base` or `base:adapter id` names. Raises NotFoundError."""
    if model == engine.name:
        return None
    base, _, id = model.rpartition(":")
    if base != engine.name:
        message = "there is no such model; GET /v1/models lists what there is"
        raise NotFoundError(message, code="model_not_found", param="model")
    return engine.adapters.get(request.state.tenant, id)
