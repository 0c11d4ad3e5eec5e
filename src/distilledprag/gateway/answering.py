"""One question, from passages to answer.

question -> quotes? -> passages -> adapter -> masked prompt -> engine (through the guard) -> answer, piece by piece
                                                                 adapter gone (404)? upload it again, once
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from distilledprag.decoding import MAX_ANSWER_TOKENS
from distilledprag.documents import Passage
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import InputError, StoreError
from distilledprag.gateway.adapter_cache import Adapter, AdapterCache
from distilledprag.gateway.engine_client import AdapterGoneError, Completion, EngineClient, SentRequest
from distilledprag.gateway.guard.protected import Protected
from distilledprag.gateway.guard.reference import EgressReference
from distilledprag.gateway.guard.rules import AnswerSettings, EgressRule, Masks, PlainTextRule, PromptRule
from distilledprag.gateway.quotes import QuotePolicy
from distilledprag.generators.choosing import chosen_sentences
from distilledprag.http.errors import ForbiddenError
from distilledprag.pipeline import DistilledPRAG
from distilledprag.prompts import PromptBuilder
from distilledprag.retrieval.selection import best_of, repeat_notes
from distilledprag.retrieval.sqlite import Finder, StoreRetriever

Mode = Literal["parametric", "closed_book", "rag"]
MODES: tuple[Mode, ...] = ("parametric", "closed_book", "rag")
NOTHING_FOUND = "no passage of the store shares a word with the question, so it was asked without documents"
Found = list[tuple[Passage, float, str]]  # passage, score, id of its document


@dataclass(frozen=True)
class Asked:
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
            "passages": [
                {"document": id, "source": p.source, "title": p.title, "text": p.text, "score": round(score, 4)}
                for p, score, id in self.passages
            ],
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
    """An answer that the engine has begun. Iterate `texts`; `completion.finish_reason` and the last timings follow."""

    report: Report
    completion: Completion
    texts: AsyncIterator[str]


class Answering:
    """Make it before the first document is read. allow_plaintext: documents may be sent in the open when a request asks for that.
    rows: a share up to 1 or a number of rows to choose from the passages for each question; None: all. finder: what finds the
    passages of a collection; None: BM25."""

    def __init__(
        self,
        prag: DistilledPRAG,
        store: DocumentStore,
        engine: EngineClient,
        adapters: AdapterCache,
        quotes: QuotePolicy,
        *,
        allow_plaintext: bool = False,
        rows: float | None = None,
        finder: Callable[[str], Finder] | None = None,
    ) -> None:
        self._prag, self._store, self._engine = prag, store, engine
        self._finder = finder or (lambda collection: StoreRetriever(store.database, collection))
        self._adapters, self._quotes, self._rows = adapters, quotes, rows
        self._reference = EgressReference(prag.prompts, prag.base.tokenizer)
        self.allow_plaintext = allow_plaintext

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
        report.warnings = await asyncio.to_thread(self._quotes.check, asked.question, asked.history)
        if asked.mode != "closed_book":
            report.passages, repeated = await asyncio.to_thread(self._found, asked)
            report.warnings += repeat_notes([passage for passage, *_ in repeated])
            if not report.passages:
                report.mode = "closed_book"
                report.warnings.append(NOTHING_FOUND)
        report.texts = [passage.text for passage, _, _ in report.passages]
        if self._rows is not None and report.mode == "parametric":
            report.texts = await asyncio.to_thread(
                chosen_sentences, asked.question, report.texts, self._rows, lambda text: len(self.prompts.document_ids(text))
            )
        clock.lap("retrieve")
        prompts = await self._build(asked, report)
        async with contextlib.AsyncExitStack() as stack:
            completion = await self._open(stack, asked, report, prompts, clock)
            yield Reply(report, completion, self._read(completion, asked, clock))

    def _found(self, asked: Asked) -> tuple[Found, Found]:
        """The passages for a question, and those that were passed over because they repeat one of them."""
        finder = self._finder(asked.collection)
        kept, repeated, _ = best_of(lambda count: finder.find(asked.question, count), asked.top_k)
        return kept, repeated

    async def _build(self, asked: Asked, report: Report) -> Prompts:
        """The prompt that is sent, and the one without documents that it is compared with."""
        longest = asked.max_tokens or MAX_ANSWER_TOKENS
        room = self._prag.base.context_length - longest
        if room < 1:
            raise InputError(
                f"max_tokens {longest} leaves no room for a prompt in the model's {room + longest} tokens; ask for less"
            )
        prompt = self.prompts.build(asked.question, report.texts, asked.history, max_tokens=room)
        reference = self.prompts.build(asked.question, [""] * len(report.texts), asked.history, max_tokens=room).open_ids
        ids = prompt.open_ids if report.mode == "rag" else prompt.masked_ids
        report.prompt = self._prag.base.tokenizer.decode(ids, skip_special_tokens=False)
        report.prompt_tokens = len(ids)
        report.masked_tokens = sum(prompt.is_document) if report.mode == "parametric" else 0
        return Prompts(ids, reference, longest)

    async def _open(
        self, stack: contextlib.AsyncExitStack, asked: Asked, report: Report, prompts: Prompts, clock: _Clock
    ) -> Completion:
        """The engine's answer, begun. An adapter that it no longer has is uploaded again, once."""
        passages = [passage for passage, _, _ in report.passages]
        messages = [*(message["content"] for message in asked.history), asked.question]
        protected = await asyncio.to_thread(self._reference.protected, passages, messages)
        base = await self._engine.base_name(self._prag.base.id)
        if report.mode == "parametric":
            documents = [id for _, _, id in report.passages]
            report.adapter, report.adapter_was_made = await self._adapters.get(report.texts, documents)
            clock.lap("encode")
        masks = self._reference.masks(report.texts)
        for attempt in (1, 2):
            model, upload_id = base, ""
            if report.adapter is not None:
                upload_id = await self._adapters.uploaded(report.adapter, sum(masks.lengths), protected, report.requests)
                model = f"{base}:{upload_id}"
                clock.lap("upload")
            fields = request_fields(asked, prompts, model)
            rule = self._rule(asked, report, prompts, protected, masks, model)
            try:
                return await stack.enter_async_context(self._engine.complete(fields, rule, report.requests))
            except AdapterGoneError:
                self._engine.forget_base_name()
                if attempt == 2:
                    raise
                base = await self._engine.base_name(self._prag.base.id)
                if report.adapter is not None:
                    self._adapters.lost(report.adapter, upload_id)
        raise AssertionError("the loop returns or raises")

    def _rule(self, asked: Asked, report: Report, prompts: Prompts, protected: Protected, masks: Masks, model: str) -> EgressRule:
        settings = AnswerSettings(asked.max_tokens or MAX_ANSWER_TOKENS, asked.temperature, asked.stream, asked.top_p, asked.seed)
        if report.mode == "rag":
            return PlainTextRule(prompts.ids, model, settings)
        return PromptRule(protected, prompts.reference, masks, model, settings, self._reference.decode)

    async def _read(self, completion: Completion, asked: Asked, clock: _Clock) -> AsyncIterator[str]:
        """The answer's pieces without the space before it; when it is whole it may come back as history."""
        pieces: list[str] = []
        async for text in completion.texts:
            text = text if pieces else text.lstrip()
            if text:
                if not pieces:
                    clock.note("first_token")
                pieces.append(text)
                yield text
        clock.lap("answer")
        clock.note("total")
        if pieces:
            with contextlib.suppress(StoreError):  # a full disk costs the answer its way back as history, nothing more
                await asyncio.to_thread(self._store.remember_answer, self._engine.url, "".join(pieces))


@dataclass(frozen=True)
class Prompts:
    """What is sent for a question, and what it is compared with. ids: to be sent; reference: the same without any passage;
    longest: tokens of the answer."""

    ids: list[int]
    reference: list[int]
    longest: int


class _Clock:
    """Seconds by step (`lap`) and since the beginning (`note`)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def note(self, name: str) -> None:
        self.seconds[name] = time.perf_counter() - self._begin


def request_fields(asked: Asked, prompts: Prompts, model: str) -> dict[str, Any]:
    """The request to the engine."""
    fields: dict[str, Any] = {"model": model, "prompt": prompts.ids, "max_tokens": prompts.longest}
    fields |= {"temperature": asked.temperature, "stream": asked.stream}
    if asked.top_p is not None:
        fields["top_p"] = asked.top_p
    if asked.seed is not None:
        fields["seed"] = asked.seed
    return fields
