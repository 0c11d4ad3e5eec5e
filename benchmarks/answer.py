"""Answering: time to the first token and to the last, against plain RAG by the same engine, in one process.

    rag               the passages in plain text
    exact             all rows, the passages encoded when they were indexed
    chosen            the rows of the sentences that the question needs (0.35), encoded likewise; the base's cross-encoder chooses
    chosen_by_words   likewise, but chosen by words, which costs no pass of the encoder
    exact_unencoded, chosen_unencoded   nothing was encoded before
    peft              the chosen rows as a plain PEFT adapter, loaded by PEFT for each question, transformers' `generate`
    prag              the passages' adapters, fine-tuned before, put side by side; the question alone as the prompt
    dyprag            an adapter made of the passages at the question; the question alone as the prompt

Counted is all that happens between question and answer once the passages are found: choosing sentences, building the prompt,
reading or making states or adapters, their way to bytes and back, the engine's prefill and steps. No network. The last two answer
with adapters of no worth (`alternatives`), so their F1 is not told; the others' is that of a few easy questions.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alternatives import ON_THE_WAY, Alternatives, answered_by_peft
from measuring import Asked, Spent, Watch, medians, questions, ratio

from distilledprag.engine.batch import DecodingBatch
from distilledprag.evaluation.metrics import best_token_scores, squad_scores
from distilledprag.generators.kept_states import KeptStates
from distilledprag.generators.sentence_choice import SentenceChoice
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG

ROWS = 0.35
MOST = 16  # tokens of an answer
WAYS = ("rag", "exact", "chosen", "chosen_by_words", "exact_unencoded", "chosen_unencoded")
OTHERS = ("rag", "peft", "prag", "dyprag")
GROWING = ("rag", "exact", "chosen", "prag")
SHORT = 30  # words of a passage, at least: 64 of them are 3,900 rows, and an adapter has at most 4,096
MOST_BYTES = 100  # kB of a passage's adapter


def measure(prag: DistilledPRAG, quick: bool) -> dict[str, Any]:
    """Rows and ratios of our ways over 50 questions (`quick`: 6), of the others over 10, and by number of passages."""
    with tempfile.TemporaryDirectory() as folder:
        prag.states.kept = KeptStates(folder)
        try:
            answering = _Answering(prag, Alternatives(prag, Path(folder) / "prag"))
            answering(questions(1)[0], "rag")
            found = answering.side_by_side(questions(6 if quick else 50), WAYS)
            others = OTHERS if prag.states.plain else tuple(name for name in OTHERS if name != "peft")
            compared = answering.side_by_side(questions(2 if quick else 10), others)
            growth = []
            for count in (1, 4) if quick else (1, 2, 4, 8, 16, 32, 64):
                made = answering.side_by_side(questions(2 if quick or count > 8 else 4, count, SHORT), GROWING)
                growth += [{"passages": count, "way": name, **_row(answers)} for name, answers in made.items()]
        finally:
            prag.states.kept.close()
            prag.states.kept = None
    ratios = _ratios(found) | _ratios(compared)
    for name in ("exact", "chosen"):
        kilobytes = statistics.median(one.sent for one in found[name]) / 3 / 1000
        ratios[f"adapter, a passage, {name}"] = {"kB": round(kilobytes, 1)}
    del compared["rag"]
    at_most: dict[str, float] = {f"adapter, a passage, {name}": MOST_BYTES for name in ("exact", "chosen")}
    for when in ("first token", "whole answer"):
        at_most |= {f"{when}, {way} / rag": 0.7 for way in ("chosen", "chosen_by_words")}
        at_most |= {f"{when}, {way}_unencoded / rag": 1.2 for way in ("exact", "chosen")}
    rows = [{"way": name, **_row(answers), **_quality(name, answers)} for name, answers in (found | compared).items()]
    return {"rows": rows, "growth": growth, "ratios": ratios, "at_most": at_most}


@dataclass(frozen=True)
class Answered:
    """What the first token and the whole answer took, the answer's F1, the prompt's tokens and the adapter's bytes."""

    first: Spent
    total: Spent
    f1: float
    tokens: int
    sent: int


class _Answering:
    """Answers one question at a time, as an engine of ours does (but PEFT's, which PEFT answers)."""

    def __init__(self, prag: DistilledPRAG, others: Alternatives) -> None:
        self._prag, self._others = prag, others
        self._by_words = SentenceChoice(prag.prompts.document_length)
        self._batch = DecodingBatch(prag.base.model, prag.base.mask_token_id)

    def side_by_side(self, asked: Sequence[Asked], ways: Sequence[str]) -> dict[str, list[Answered]]:
        """Every way answers each question, in an order that turns."""
        found: dict[str, list[Answered]] = {name: [] for name in ways}
        for number, one in enumerate(asked):
            for place in range(len(ways)):
                name = ways[(place + number) % len(ways)]
                self._before(one, name)
                found[name].append(self(one, name))
        return found

    def _before(self, one: Asked, way: str) -> None:
        """What was done when the passages were indexed."""
        kept = self._prag.states.kept
        assert kept is not None
        if way.endswith("_unencoded"):
            kept.forget(one.passages)
        elif way == "prag":
            self._others.keep(_fine_tuned_for(one))
        elif way not in ("rag", "dyprag"):
            self._prag.states.keep(one.passages)

    def __call__(self, one: Asked, way: str) -> Answered:
        prompts, watch = self._prag.prompts, Watch()
        if way == "peft":
            texts = self._chosen(one, way)
            prompt = self._prag.peft_prompt(one.question, texts)
            lora = self._prag.encode(texts, one.passages).to(dtype=ON_THE_WAY)
            first, total, ids = answered_by_peft(self._prag, lora, prompt, MOST, watch)
            sent = lora.nbytes
        else:
            prompt, adapter, sent = self._sent(one, way)
            token = int(self._batch.join([prompt], [adapter]).argmax())
            first, ids = watch.spent(), []
            while token != prompts.end_of_turn_id and len(ids) < MOST:
                ids.append(token)
                token = int(self._batch.step([token]).argmax())
            total = watch.spent()
            self._batch.clear()
        text = self._prag.base.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Answered(first, total, best_token_scores(text, one.answers, squad_scores).f1, len(prompt), sent)

    def _chosen(self, one: Asked, way: str) -> list[str]:
        choice = self._by_words if way == "chosen_by_words" else self._prag.choice
        return choice.chosen(one.question, list(one.passages), ROWS)

    def _sent(self, one: Asked, way: str) -> tuple[list[int], StateAdapter | LoraWeights | None, int]:
        """The prompt, the adapter as an engine reads it from its bytes, and how many these are."""
        prompts, passages = self._prag.prompts, list(one.passages)
        if way == "rag":
            return prompts.build(one.question, passages).open_ids, None, 0
        if way in ("prag", "dyprag"):
            made = self._others.translated(passages) if way == "dyprag" else self._others.concatenated(_fine_tuned_for(one))
            data = made.to_bytes()
            return prompts.closed_book(one.question), LoraWeights.from_bytes(data), len(data)
        texts = self._chosen(one, way) if way.startswith("chosen") else passages
        prompt = prompts.build(one.question, texts).masked_ids
        data = self._prag.encode_states(texts, passages).to_bytes()
        return prompt, StateAdapter.from_bytes(data), len(data)


def _fine_tuned_for(one: Asked) -> list[str]:
    """Passages of the same lengths that PRAG's adapters are made of once, three in all: what is measured is the answer."""
    few = questions(1)[0].passages
    return [few[place % len(few)] for place in range(len(one.passages))]


def _row(answers: Sequence[Answered]) -> dict[str, float]:
    row = {f"first_token_{key}": value for key, value in medians([one.first for one in answers]).items() if key != "runs"}
    row |= {f"answer_{key}": value for key, value in medians([one.total for one in answers]).items() if key != "runs"}
    return row | {
        "prompt_tokens": statistics.median(one.tokens for one in answers),
        "adapter_bytes": int(statistics.median(one.sent for one in answers)),
        "questions": len(answers),
    }


def _quality(way: str, answers: Sequence[Answered]) -> dict[str, float | None]:
    return {"f1": None if way in ("prag", "dyprag") else round(statistics.mean(one.f1 for one in answers), 3)}


def _ratios(found: dict[str, list[Answered]]) -> dict[str, dict[str, float]]:
    ratios, rag = {}, found["rag"]
    for name, answers in found.items():
        if name != "rag":
            ratios[f"first token, {name} / rag"] = ratio([one.first for one in answers], [one.first for one in rag])
            ratios[f"whole answer, {name} / rag"] = ratio([one.total for one in answers], [one.total for one in rag])
    return ratios
