"""Questions over their own passages: every method under one prompt, one token budget and one metric.

    rows {"documents": [{"title", "text"}], "question", "answers", "type"}  ->  answers  ->  F1, EM with intervals

Answers are kept in a JSON-lines file beside the result as they come, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilledprag.decoding import greedy_texts
from distilledprag.distillation.examples import passage_text, read_rows
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.metrics import best_exact_match, best_token_scores, squad_scores
from distilledprag.evaluation.statistics import bootstrap_interval
from distilledprag.files import write_atomically
from distilledprag.generators.choosing import chosen_sentences
from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.states import StateAdapter
from distilledprag.pipeline import DistilledPRAG

METHODS = ("closed_book", "rag", "state", "state_plain", "state_chosen", "shuffled")
CHOSEN_ROWS = 0.4
MAX_NEW_TOKENS = 24
BATCH = 16

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Item:
    """One question with its passages (title first) and accepted answers."""

    passages: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    type: str


@dataclass
class Answered:
    """What a method said to one question, and what it cost. seconds: the batch's time by its questions."""

    method: str
    index: int
    text: str
    adapter_bytes: int
    prompt_tokens: int
    rows: int
    seconds: float


def load_items(path: Path, n: int | None, seed: int, *, longest: Callable[[Sequence[str]], bool]) -> list[Item]:
    """`n` rows drawn with `seed` (None: all) of those with an answer that `longest` allows. Raises InputError for none."""
    items = []
    for row in read_rows(path):
        passages = tuple(passage_text(document) for document in row["documents"])
        answers = tuple(str(answer) for answer in row["answers"] if str(answer).strip())
        if answers and row["question"].strip() and any(text.strip() for text in passages):
            items.append(Item(passages, row["question"].strip(), answers, str(row.get("type") or "unnamed")))
    random.Random(seed).shuffle(items)
    kept = []
    for item in items:
        if n is not None and len(kept) == n:
            break
        if longest(item.passages):
            kept.append(item)
    if not kept:
        raise InputError(f"{path} holds no question with an answer and passages that fit")
    return kept


class ReadingEvaluation:
    """Answers the items by one method after another."""

    def __init__(self, prag: DistilledPRAG, items: list[Item], chosen_rows: float = CHOSEN_ROWS) -> None:
        self._prag, self.items, self._chosen_rows = prag, items, chosen_rows

    def answer(self, method: str, indices: Sequence[int]) -> list[Answered]:
        """One batch. Raises ConfigError for an unknown method."""
        if method not in METHODS:
            raise ConfigError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        prag, begin = self._prag, time.perf_counter()
        prompts, states, loras, sizes, rows = [], [], [], [], []
        for index in indices:
            item = self.items[index]
            passages = list(item.passages)
            if method == "shuffled":
                passages = list(self.items[(index + 1) % len(self.items)].passages)
            if method == "state_chosen":
                passages = chosen_sentences(
                    item.question, passages, self._chosen_rows, lambda text: len(prag.prompts.document_ids(text))
                )
            if method == "closed_book":
                prompts.append(prag.prompts.closed_book(item.question))
            elif method == "rag":
                prompts.append(prag.prompts.build(item.question, passages).open_ids)
            elif method == "state_plain":
                prompts.append(prag.peft_prompt(item.question, passages))
                lora = prag.encode(passages).to(dtype=torch.bfloat16)
                loras.append(lora)
                sizes.append(lora.nbytes)
                rows.append(lora.rank)
            else:
                prompts.append(prag.prompts.build(item.question, passages).masked_ids)
                sent = prag.encode_states(passages).to_bytes()
                states.append(StateAdapter.from_bytes(sent))  # what an engine would read
                sizes.append(len(sent))
                rows.append(states[-1].count)
        texts = greedy_texts(
            prag.base,
            prompts,
            LoraBatch.stack(loras) if loras else None,
            prag.prompts.end_of_turn_id,
            MAX_NEW_TOKENS,
            states=states or None,
        )
        seconds = (time.perf_counter() - begin) / len(indices)
        sizes, rows = sizes or [0] * len(indices), rows or [0] * len(indices)
        return [
            Answered(method, index, text.split("\n")[0].strip(), size, len(prompt), count, round(seconds, 4))
            for index, text, size, prompt, count in zip(indices, texts, sizes, prompts, rows, strict=True)
        ]

    def run(
        self, methods: Sequence[str], journal: Path, identity: dict[str, Any], progress: Progress
    ) -> dict[str, list[Answered]]:
        """Every item by every method; what `journal` holds of the same run is not asked again."""
        done = _read_journal(journal, identity)
        order = sorted(range(len(self.items)), key=lambda index: sum(map(len, self.items[index].passages)))
        with journal.open("a", encoding="utf-8") as file:
            if not journal.stat().st_size:
                file.write(json.dumps(identity, sort_keys=True) + "\n")
            for method in methods:
                waiting = [index for index in order if (method, index) not in done]
                for place in range(0, len(waiting), BATCH):
                    for answered in self.answer(method, waiting[place : place + BATCH]):
                        done[(method, answered.index)] = answered
                        file.write(json.dumps(asdict(answered), ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                    progress(method, len(order) - len(waiting) + min(place + BATCH, len(waiting)), len(order))
        return {method: [done[(method, index)] for index in range(len(self.items))] for method in methods}


def _read_journal(journal: Path, identity: dict[str, Any]) -> dict[tuple[str, int], Answered]:
    """Answers of an earlier, unfinished run; a journal of another run is started anew, a half-written last line dropped."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True) if journal.exists() else []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    if not lines or json.loads(lines[0]) != json.loads(json.dumps(identity)):
        lines = []
    write_atomically(journal, "".join(lines))
    found = [Answered(**json.loads(line)) for line in lines[1:]]
    return {(answered.method, answered.index): answered for answered in found}


def summary(items: Sequence[Item], answers: dict[str, list[Answered]], dataset: str) -> list[dict[str, Any]]:
    """One row a method and type, and one with type `all`; F1 with its 95 % bootstrap interval.

    of_rag: F1 as a share of plain RAG's on the same questions, with a paired bootstrap interval (where `rag` ran).
    """
    scores = {
        method: np.array([_score(item, answered.text) for item, answered in zip(items, found, strict=True)])
        for method, found in answers.items()
    }
    types = sorted({item.type for item in items})
    rows = []
    for method, found in answers.items():
        for kind in ["all", *(types if len(types) > 1 else [])]:
            chosen = np.array([kind in ("all", item.type) for item in items])
            own = [answered for answered, take in zip(found, chosen, strict=True) if take]
            f1, exact = scores[method][chosen].T
            interval = bootstrap_interval(f1.tolist())
            row = {
                "method": method,
                "dataset": dataset,
                "type": kind,
                "documents": round(
                    float(np.mean([len(item.passages) for item, take in zip(items, chosen, strict=True) if take])), 2
                ),
                "n": len(own),
                "exact_match": round(float(exact.mean()), 4),
                "f1": round(interval.mean, 4),
                "f1_low": round(interval.low, 4),
                "f1_high": round(interval.high, 4),
                "adapter_bytes": round(float(np.mean([answered.adapter_bytes for answered in own]))),
                "prompt_tokens": round(float(np.mean([answered.prompt_tokens for answered in own])), 1),
                "rows": round(float(np.mean([answered.rows for answered in own])), 1),
                "seconds": round(float(np.median([answered.seconds for answered in own])), 4),
            }
            if "rag" in scores:
                row |= _share(f1, scores["rag"][chosen][:, 0])
            rows.append(row)
    return rows


def _score(item: Item, text: str) -> tuple[float, float]:
    return best_token_scores(text, item.answers, squad_scores).f1, best_exact_match(text, item.answers)


def _share(f1: np.ndarray, rag: np.ndarray, resamples: int = 2000) -> dict[str, float]:
    if not rag.sum():
        return {}
    draws = np.random.default_rng(0).integers(0, len(f1), (resamples, len(f1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = f1[draws].mean(1) / rag[draws].mean(1)
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return {
        "of_rag": round(float(f1.mean() / rag.mean()), 4),
        "of_rag_low": round(float(low), 4),
        "of_rag_high": round(float(high), 4),
    }


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
