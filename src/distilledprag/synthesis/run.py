"""From items to checked pairs: what is asked, what is kept, when to ask again and when to stop.

Every reply goes to the journal first, and what is in the journal is not asked again. The same items, settings and replies give
the same pairs, in the order of the items.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distilledprag.errors import ConfigError, EndpointError
from distilledprag.synthesis.llm import REFUSED, LanguageModel, Replies, Reply, Request, RequestFailed
from distilledprag.synthesis.pairs import (
    Message,
    QuestionAnswer,
    answer_from_documents,
    answer_from_memory,
    parse_pairs,
    question_key,
    rejection_reason,
    same_answer,
    write_pairs,
)
from distilledprag.synthesis.sources import Item

GRACE = 30.0  # seconds that requests under way get to be answered and journaled when the run must stop
VERIFY_TEMPERATURE = 0.0


class QaSettings(BaseModel):
    """How many pairs (defaults: the paper's) and how to ask for them.

    attempts: how often the same documents are asked about while pairs are missing; prices: US dollars per million tokens;
    budget: US dollars, over all runs of the journal; give_up_after: failed requests in a row that end the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    single_min: int = Field(2, ge=1)
    single_max: int = Field(5, ge=1)
    cross_min: int = Field(5, ge=1)
    attempts: int = Field(2, ge=1)
    temperature: float | None = Field(0.7, ge=0)
    max_tokens: int = Field(2048, ge=1)
    verify: bool = False
    concurrency: int = Field(8, ge=1)
    prompt_price: float | None = Field(None, ge=0)
    completion_price: float | None = Field(None, ge=0)
    budget: float | None = Field(None, gt=0)
    give_up_after: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> QaSettings:
        if self.single_max < self.single_min:
            raise ValueError(f"at most {self.single_max} and at least {self.single_min} questions per document contradict")
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("give both prices, of prompt and of completion tokens, or none")
        if self.budget is not None and self.prompt_price is None:
            raise ValueError("a budget needs the prices of prompt and completion tokens")
        return self


@dataclass
class Rejection:
    """A pair (or, as `found`, what stood where pairs should) that was not kept, and why: a key of `pairs.REASONS`."""

    reason: str
    question: str = ""
    answer: str = ""
    found: str = ""


@dataclass
class Outcome:
    """What one item gave. unfinished: why a request of it has no answer yet, or None; sent: this run asked something."""

    item: Item
    pairs: list[QuestionAnswer] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    unfinished: str | None = None
    sent: bool = False


@dataclass
class Usage:
    """Tokens of answered requests, as the endpoint counts them. uncounted: replies that came without a count."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, reply: Reply) -> None:
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        self.uncounted += reply.prompt_tokens is None or reply.completion_tokens is None

    def cost(self, settings: QaSettings) -> float | None:
        """US dollars, or None without prices."""
        if settings.prompt_price is None or settings.completion_price is None:
            return None
        return (self.prompt_tokens * settings.prompt_price + self.completion_tokens * settings.completion_price) / 1e6


class _Stopped(Exception):
    """No further request is to be sent in this run."""


class Synthesis:
    """One run over `items`. `usage` counts all replies in the journal, `usage_now` those of this run.

    Raises ConfigError when the package's extra `synthesize` is not installed.
    """

    def __init__(self, items: Sequence[Item], model: LanguageModel, replies: Replies, settings: QaSettings) -> None:
        if importlib.util.find_spec("json_repair") is None:
            raise ConfigError("reading an LLM's replies needs json-repair: pip install 'distilledprag[synthesize]'")
        self.items = items
        self.model = model
        self.replies = replies
        self.settings = settings
        self.usage, self.usage_now = Usage(), Usage()
        for reply in replies:
            self.usage.add(reply)
        self.pairs = self.pairs_now = 0
        self._stop: str | None = None
        self._under_way: dict[str, asyncio.Event] = {}
        self._failed_in_a_row = 0

    async def run(self, on_item: Callable[[], None] = lambda: None) -> list[Outcome]:
        """All outcomes, in the order of the items; `on_item` is called after each.

        Raises EndpointError when no request can succeed; replies that were under way are journaled before.
        """
        outcomes = [Outcome(item) for item in self.items]
        waiting = iter(outcomes)
        tasks = [asyncio.create_task(self._worker(waiting, on_item)) for _ in range(self.settings.concurrency)]
        try:
            _, under_way = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if under_way:
                self._stop = "stopped"
                await asyncio.wait(under_way, timeout=GRACE)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                raise error
        _remove_duplicates(outcomes)
        return outcomes

    async def _worker(self, waiting: Iterator[Outcome], on_item: Callable[[], None]) -> None:
        for outcome in waiting:
            try:
                await self._finish(outcome)
            except (RequestFailed, _Stopped) as reason:
                outcome.unfinished = str(reason)
            self.pairs += len(outcome.pairs)
            self.pairs_now += len(outcome.pairs) if outcome.sent else 0
            on_item()

    async def _finish(self, outcome: Outcome) -> None:
        """Ask about the item's documents until there are enough pairs or no attempts left."""
        single = outcome.item.kind == "single"
        minimum = self.settings.single_min if single else self.settings.cross_min
        for attempt in range(self.settings.attempts):
            missing = minimum - len(outcome.pairs)
            if missing <= 0:
                return
            num_questions = f"{minimum} to {self.settings.single_max}" if single and not attempt else f"at least {missing}"
            taken = [pair.question for pair in outcome.pairs] + [r.question for r in outcome.rejected if r.question]
            messages = write_pairs(outcome.item.texts, num_questions, list(dict.fromkeys(taken)) if attempt else [])
            reply = await self._ask(outcome, "write", messages, self.settings.temperature, attempt)
            await self._keep_good_pairs(outcome, reply)

    async def _keep_good_pairs(self, outcome: Outcome, reply: Reply) -> None:
        parsed = parse_pairs(reply.text)
        outcome.rejected += [Rejection("malformed_pair", found=what) for what in parsed.malformed]
        if not parsed.pairs and not parsed.malformed:
            outcome.rejected.append(Rejection(_why_no_pair(reply), found=reply.text[:200]))
        most = self.settings.single_max if outcome.item.kind == "single" else None
        asked = {question_key(known.question) for known in outcome.pairs}
        for pair in parsed.pairs:
            same = question_key(pair.question)
            reason = rejection_reason(pair, outcome.item.documents)
            if reason is None and same in asked:
                reason = "duplicate"
            if reason is None and most is not None and len(outcome.pairs) >= most:
                reason = "beyond_maximum"
            if reason is None and self.settings.verify:
                reason = await self._verify(outcome, pair)
            if reason is None:
                outcome.pairs.append(pair)
                asked.add(same)
            else:
                outcome.rejected.append(Rejection(reason, pair.question, pair.answer))

    async def _verify(self, outcome: Outcome, pair: QuestionAnswer) -> str | None:
        """The LLM must give the answer with the documents in context, and must not give it without them."""
        messages = answer_from_documents(pair.question, outcome.item.texts)
        opened = await self._ask(outcome, "verify_open", messages, VERIFY_TEMPERATURE)
        if not same_answer(opened.text, pair.answer):
            return "wrong_with_document"
        messages = answer_from_memory(pair.question)
        closed = await self._ask(outcome, "verify_closed", messages, VERIFY_TEMPERATURE)
        return "known_without_document" if same_answer(closed.text, pair.answer) else None

    async def _ask(
        self, outcome: Outcome, purpose: str, messages: list[Message], temperature: float | None, attempt: int = 0
    ) -> Reply:
        """The journal's reply, or a new one of the model. The same request never goes out twice at the same time."""
        if self.settings.temperature is None:
            temperature = None
        request = Request(purpose, messages, temperature, self.settings.max_tokens, attempt)
        key = request.key(self.model.name)
        while key in self._under_way:
            await self._under_way[key].wait()
        if key not in self.replies:
            answered = self._under_way[key] = asyncio.Event()
            try:
                await self._send(request, key)
                outcome.sent = True
            finally:
                del self._under_way[key]
                answered.set()
        return self.replies[key]

    async def _send(self, request: Request, key: str) -> None:
        self._stop_at_the_budget()
        if self._stop:
            raise _Stopped(self._stop)
        try:
            reply = await self.model.reply(request)
        except RequestFailed as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self.settings.give_up_after:
                raise EndpointError(
                    f"{self._failed_in_a_row} requests in a row failed, the last one because: {error}; what was answered is "
                    f"kept in {self.replies.path}: mend the cause and run the same command again"
                ) from error
            raise
        self._failed_in_a_row = 0
        self.replies.add(key, request.purpose, reply)
        self.usage.add(reply)
        self.usage_now.add(reply)

    def _stop_at_the_budget(self) -> None:
        budget, spent = self.settings.budget, self.usage.cost(self.settings)
        if budget is None or spent is None:
            return
        if self.usage.uncounted:
            raise EndpointError("replies came without token counts (`usage`), so a budget cannot be kept; leave out --budget")
        if spent >= budget:
            self._stop = f"the budget of ${budget:g} is used up"


def _why_no_pair(reply: Reply) -> str:
    """A key of `pairs.REASONS` for a reply that holds nothing like a pair."""
    if reply.finish in REFUSED:
        return "refused_reply"
    if reply.finish == "length":
        return "cut_off"
    return "unreadable_reply" if reply.text.strip() else "empty_reply"


def _remove_duplicates(outcomes: list[Outcome]) -> None:
    """Of a question that was asked about several documents, and so does not say which it means, the first stays."""
    asked: set[str] = set()
    for outcome in outcomes:
        kept: list[QuestionAnswer] = []
        for pair in outcome.pairs:
            same = question_key(pair.question)
            if same in asked:
                outcome.rejected.append(Rejection("duplicate", pair.question, pair.answer))
            else:
                asked.add(same)
                kept.append(pair)
        outcome.pairs = kept
