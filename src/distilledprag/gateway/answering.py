"""One question, from passages to answer.

question -> quotes? -> passages -> adapter -> masked prompt -> engine (through the guard) -> answer, piece by piece
                                                                 adapter gone (404)? upload it again, once
                                                                 no answer, or busy? the next engine
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from distilledprag.base.llm import MAX_ANSWER_TOKENS
from distilledprag.documents import Passage
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import StoreError
from distilledprag.gateway.adapter_cache import Adapter, AdapterCache
from distilledprag.gateway.engine_client import AdapterGoneError, EngineClient, SentRequest
from distilledprag.gateway.guard.protected import Protected
from distilledprag.gateway.guard.rules import AnswerSettings, EgressReference, EgressRule, Masks, PlainTextRule, PromptRule
from distilledprag.gateway.quotes import QuotePolicy
from distilledprag.gateway.replicas import EngineReplicas
from distilledprag.http import telemetry
from distilledprag.http.answers import Piece
from distilledprag.http.errors import ForbiddenError
from distilledprag.pipeline import DistilledPRAG
from distilledprag.prompts import PromptBuilder
from distilledprag.retrieval.bm25 import Finder, StoreRetriever
from distilledprag.retrieval.selection import best_of, repeat_notes
from distilledprag.words import titled

Mode = Literal["parametric", "closed_book", "rag"]
MODES: tuple[Mode, ...] = ("parametric", "closed_book", "rag")
NOTHING_FOUND = "no passage of the store shares a word with the question, so it was asked without documents"
_NO_LIMIT = 10**9
_logger = logging.getLogger("distilledprag.gateway")
Found = list[tuple[Passage, float, str]]  # passage, score, id of its document


@dataclass(frozen=True)
class Asked:
    """What is asked. history: earlier messages `{"role", "content"}`; max_tokens: of the answer, None for the default; logprobs:
    likely tokens to tell beside each written one (None: no probabilities); response_format: what the answer must be, as OpenAI
    writes it."""

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
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    response_format: dict[str, Any] | None = None

    @property
    def wanted_tokens(self) -> int:
        return self.max_tokens or MAX_ANSWER_TOKENS

    @property
    def own_settings(self) -> list[str]:
        """The user's own words outside the messages, as they are sent."""
        return [*self.stop, *([] if self.response_format is None else [json.dumps(self.response_format, ensure_ascii=False)])]


@dataclass
class Report:
    """What an answer rests on and what was sent for it. texts: of the passages, as they are encoded (all, or the sentences that
    were chosen); seconds: by step; requests: everything that left, in order."""

    mode: str
    passages: Found = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    requests: list[SentRequest] = field(default_factory=list)
    prompt: str = ""
    prompt_tokens: int = 0
    masked_tokens: int = 0
    adapter: Adapter | None = None
    adapter_was_made: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The field `distilledprag` of an answer."""
        adapter = self.adapter
        return {
            "mode": self.mode,
            "passages": [passage_record(*found) for found in self.passages],
            "sent": {
                "prompt": self.prompt,
                "prompt_tokens": self.prompt_tokens,
                "masked_tokens": self.masked_tokens,
                "adapter_bytes": len(adapter.data) if adapter else 0,
                "adapter": adapter.summary if adapter else None,
                "adapter_uploaded": any(request.path == "/v1/adapters" for request in self.requests),
                "bytes_total": sum(request.bytes for request in self.requests),
                "requests": [vars(request) for request in self.requests],
            },
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "warnings": self.warnings,
        }


@dataclass
class Reply:
    """An answer that the engine has begun. Iterate `pieces`; the last timings follow. texts: of each choice, as far as its pieces
    have come."""

    report: Report
    pieces: AsyncGenerator[Piece, None]
    texts: list[str]


class Answering:
    """Make it before the first document is read. allow_plaintext: documents may be sent in the open when a request asks for that.
    rows: a share up to 1 or a number of rows to choose from the passages for each question; None: all. round_to: as for
    `PromptBuilder.context`. finder: what finds the
    passages of a collection; None: BM25."""

    def __init__(
        self,
        prag: DistilledPRAG,
        store: DocumentStore,
        engines: EngineReplicas,
        adapters: AdapterCache,
        quotes: QuotePolicy,
        *,
        allow_plaintext: bool = False,
        rows: float | None = None,
        round_to: int = 1,
        finder: Callable[[str], Finder] | None = None,
    ) -> None:
        self._prag, self._store, self._engines = prag, store, engines
        self._finder = finder or (lambda collection: StoreRetriever(store.database, collection))
        self._adapters, self._quotes, self._rows, self._round_to = adapters, quotes, rows, round_to
        self._reference = EgressReference(prag.prompts, prag.base.tokenizer, round_to)
        self.allow_plaintext = allow_plaintext
        self._choice = prag.choice  # loaded before the first question

    @property
    def prompts(self) -> PromptBuilder:
        return self._prag.prompts

    @contextlib.asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Reply]:
        """Inside the block the engine has accepted the request. Raises InputError, RequestError."""
        if asked.mode == "rag" and not self.allow_plaintext:
            raise ForbiddenError("plain RAG is switched off; the operator of this gateway can allow it with --allow-plaintext")
        clock = _Clock()
        report = Report(asked.mode, seconds=clock.seconds)
        report.warnings = await asyncio.to_thread(self._quotes.check, asked.question, asked.history, asked.own_settings)
        if asked.mode != "closed_book":
            report.passages, repeated = await asyncio.to_thread(self._found, asked)
            report.warnings += repeat_notes([passage for passage, *_ in repeated])
            if not report.passages:
                report.mode = "closed_book"
                report.warnings.append(NOTHING_FOUND)
        report.texts = [titled(passage.title, passage.text) for passage, _, _ in report.passages]
        if self._rows is not None and report.mode == "parametric":
            whole = report.texts
            report.texts = await asyncio.to_thread(self._choice.chosen, asked.question, whole, self._rows)
            self._note_left_out(report, whole, "as the gateway's --rows says")
        clock.lap("retrieve")
        await self._engines.base_name(self._prag.base.id)  # and with it the engines' bounds
        prompts = await self._build(asked, report)
        async with contextlib.AsyncExitStack() as stack:
            pieces = await self._open(stack, asked, report, prompts, clock)
            texts = [""] * asked.choices
            yield Reply(report, self._read(pieces, texts, clock), texts)

    def _found(self, asked: Asked) -> tuple[Found, Found]:
        """The passages for a question, and those that were passed over because they repeat one of them."""
        finder = self._finder(asked.collection)
        kept, repeated, _ = best_of(lambda count: finder.find(asked.question, count), asked.top_k)
        return kept, repeated

    async def _build(self, asked: Asked, report: Report) -> Prompts:
        """The prompt that is sent, and the one without documents that it is compared with.

        Where the model has no room for all passages, the sentences that the question seems to need are sent; where it has none
        for an answer as long as was asked for, a shorter one is asked for. The report's warnings say both."""
        bounds, own = self._engines.bounds, self._prag.base.context_length
        context = min(own, bounds.context or own)
        most = min(asked.wanted_tokens, bounds.answer or asked.wanted_tokens)
        room = max(1, context - min(most, MAX_ANSWER_TOKENS))
        frame = self.prompts.build(asked.question, [""] * len(report.texts), asked.history, max_tokens=room)
        place = room - len(frame)
        if report.mode == "parametric" and bounds.rows:
            place = min(place, bounds.rows)
        round_to = self._round_to if report.mode == "parametric" else 1
        place = max(1, place - (round_to - 1) * len(report.texts))
        whole = report.texts
        report.texts = await asyncio.to_thread(self._choice.fitting, asked.question, whole, place)
        self._note_left_out(report, whole, f"since the model has room for {place} of them")
        prompt = self.prompts.build(asked.question, report.texts, asked.history, max_tokens=room, round_to=round_to)
        ids = prompt.open_ids if report.mode == "rag" else prompt.masked_ids
        longest = min(most, context - len(ids))
        if longest < asked.wanted_tokens and asked.max_tokens:
            why = (
                f"the engine writes {bounds.answer} at most" if longest == bounds.answer else f"the model reads {context} in all"
            )
            report.warnings.append(f"max_tokens was lowered from {asked.max_tokens} to {longest}: {why}")
        report.prompt = self._prag.base.tokenizer.decode(ids, skip_special_tokens=False)
        report.prompt_tokens = len(ids)
        report.masked_tokens = sum(prompt.is_document) if report.mode == "parametric" else 0
        return Prompts(ids, frame.open_ids, longest, bounds.answer or _NO_LIMIT, context)

    def _note_left_out(self, report: Report, whole: list[str], why: str) -> None:
        """Say in the report, and by numbers alone in the log, when tokens of the passages are not sent."""
        if report.texts == whole:
            return
        total, kept = (sum(map(self.prompts.document_length, texts)) for texts in (whole, report.texts))
        if kept < total:
            gone = sum(bool(before.strip()) and not after for before, after in zip(whole, report.texts, strict=True))
            passages = f", {gone} of the {len(whole)} passages whole" if gone else ""
            report.warnings.append(
                f"{total - kept} of the passages' {total} tokens were left out{passages}, {why}; the answer may be among them"
            )
            _logger.warning("%d of %d passage tokens were left out of a prompt, %s", total - kept, total, why)

    async def _open(
        self, stack: contextlib.AsyncExitStack, asked: Asked, report: Report, prompts: Prompts, clock: _Clock
    ) -> AsyncGenerator[Piece, None]:
        """The answer of the first engine that gives one, begun."""
        passages = [passage for passage, _, _ in report.passages]
        messages = [*(message["content"] for message in asked.history), asked.question, *asked.own_settings]
        protected = await asyncio.to_thread(self._reference.protected, passages, messages)
        if report.mode == "parametric":
            documents = [id for _, _, id in report.passages]
            report.adapter, report.adapter_was_made = await self._adapters.get(
                report.texts, [titled(passage.title, passage.text) for passage in passages], documents
            )
            clock.lap("encode")
        masks = self._reference.masks(report.texts)
        return await self._engines.first(
            report.adapter.key if report.adapter else None,
            lambda engine: self._open_at(engine, stack, asked, report, prompts, protected, masks, clock),
        )

    async def _open_at(
        self,
        engine: EngineClient,
        stack: contextlib.AsyncExitStack,
        asked: Asked,
        report: Report,
        prompts: Prompts,
        protected: Protected,
        masks: Masks,
        clock: _Clock,
    ) -> AsyncGenerator[Piece, None]:
        """An engine's answer, begun; among several engines, with its first piece. An adapter that it no longer has is uploaded
        again, once."""
        for attempt in (1, 2):
            model = base = await engine.base_name(self._prag.base.id)
            upload_id = ""
            if report.adapter is not None:
                upload_id = await self._adapters.uploaded(report.adapter, engine, sum(masks.lengths), protected, report.requests)
                model = f"{base}:{upload_id}"
                clock.lap("upload")
            fields = request_fields(asked, prompts, model)
            rule = self._rule(asked, report, prompts, protected, masks, model)
            try:
                async with contextlib.AsyncExitStack() as opened:
                    pieces = await opened.enter_async_context(engine.complete(fields, rule, report.requests))
                    if len(self._engines) > 1:  # until something was read another engine may still answer in its place
                        pieces = _with_first(await anext(pieces, None), pieces)
                    stack.push_async_exit(opened.pop_all())
                    return pieces
            except AdapterGoneError:
                engine.forget_base_name()
                if attempt == 2:
                    raise
                if report.adapter is not None:
                    self._adapters.lost(report.adapter, engine, upload_id)
        raise AssertionError("the loop returns or raises")

    def _rule(self, asked: Asked, report: Report, prompts: Prompts, protected: Protected, masks: Masks, model: str) -> EgressRule:
        settings = AnswerSettings(
            min(asked.wanted_tokens, prompts.context),
            asked.temperature,
            asked.stream,
            asked.top_p,
            asked.seed,
            asked.stop,
            asked.choices,
            asked.logprobs,
            asked.response_format,
            most=prompts.most,
            context=prompts.context,
        )
        if report.mode == "rag":
            return PlainTextRule(prompts.ids, model, settings)
        return PromptRule(protected, prompts.reference, masks, model, settings, self._reference.decode)

    async def _read(self, pieces: AsyncGenerator[Piece, None], given: list[str], clock: _Clock) -> AsyncGenerator[Piece, None]:
        """The answer's pieces without the space before and after each choice; a whole choice may come back as history.

        given: "" for each choice; what is given out of it is added."""
        held = [""] * len(given)  # space that is given out when more follows
        unfinished = len(given)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if piece.choice >= len(given):
                    continue
                text = held[piece.choice] + piece.text
                text = text if given[piece.choice] else text.lstrip()
                held[piece.choice] = text[len(text.rstrip()) :]
                text = text.rstrip()
                if text and not any(given):
                    clock.note("first_token")
                given[piece.choice] += text
                unfinished -= piece.finish is not None
                if not unfinished:  # the last event tells the timings
                    clock.lap("answer")
                    clock.note("total")
                    with contextlib.suppress(StoreError):  # a full disk costs the answer its way back as history, nothing more
                        for answer in filter(None, given):
                            await asyncio.to_thread(self._store.remember_answer, self._engines.name, answer)
                yield replace(piece, text=text)


@dataclass(frozen=True)
class Prompts:
    """What is sent for a question, and what it is compared with. ids: to be sent; reference: the same without any passage;
    longest: tokens of the answer; most: that the engine writes; context: that it reads, answer included."""

    ids: list[int]
    reference: list[int]
    longest: int
    most: int
    context: int


class _Clock:
    """Seconds by step (`lap`) and since the beginning (`note`)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = self._last = time.perf_counter()

    def lap(self, name: telemetry.Step) -> None:
        now = time.perf_counter()
        telemetry.step(name, now - self._last)
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def note(self, name: str) -> None:
        self.seconds[name] = time.perf_counter() - self._begin


async def _with_first(first: Piece | None, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    """The pieces, of which one was read already."""
    async with contextlib.aclosing(pieces):
        if first is not None:
            yield first
        async for piece in pieces:
            yield piece


def request_fields(asked: Asked, prompts: Prompts, model: str) -> dict[str, Any]:
    """The request to the engine."""
    fields: dict[str, Any] = {"model": model, "prompt": prompts.ids, "max_tokens": prompts.longest}
    fields |= {"temperature": asked.temperature, "stream": asked.stream}
    if asked.top_p is not None:
        fields["top_p"] = asked.top_p
    if asked.seed is not None:
        fields["seed"] = asked.seed
    if asked.stop:
        fields["stop"] = list(asked.stop)
    if asked.choices > 1:
        fields["n"] = asked.choices
    if asked.logprobs is not None:
        fields["logprobs"] = asked.logprobs
    if asked.response_format is not None:
        fields["response_format"] = asked.response_format
    return fields


def passage_record(passage: Passage, score: float, document: str) -> dict[str, Any]:
    """document: its id; place: the passage's place in the `text` of GET /v1/documents/{id}, from 0."""
    return {
        "document": document,
        "source": passage.source,
        "place": passage.index,
        "title": passage.title,
        "text": passage.text,
        "score": round(score, 4),
    }
