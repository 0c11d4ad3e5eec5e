"""Answers -> the table's rows, means with bootstrap intervals, paired comparisons, recall of retrieval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distilledprag.evaluation.metrics import (
    TokenScores,
    best_exact_match,
    best_token_scores,
    containment,
    hotpotqa_scores,
    squad_scores,
)
from distilledprag.evaluation.statistics import RESAMPLES, bootstrap_interval, paired_comparison, share_interval

METRICS = ("exact_match", "f1", "precision", "recall", "containment")
TOTAL = "all"
TOKEN_SCORES: dict[str, Callable[[str, str], TokenScores]] = {"hotpotqa": hotpotqa_scores, "squad": squad_scores}


@dataclass(frozen=True)
class Answered:
    """What a method said to one question and what it cost; a line of the journal.

    index: the question's. adapter_bytes, rows: what was sent beside the prompt, 0 without an adapter. seconds: for prompt,
    adapter and answer, a share of the batch's; prepare_seconds: without the answer. asked: a hash of what the answer depends
    on beside the run's identity. prompt: a hash of its token ids; passages: hashes of what was read. documents: passages of
    the question. offline: {documents, seconds} of PRAG's fine-tuning before this batch, on its first line.
    """

    method: str
    index: int
    text: str
    adapter_bytes: int
    prompt_tokens: int
    rows: int
    seconds: float
    id: str = ""
    dataset: str = ""
    type: str = ""
    documents: int = 0
    answer_tokens: int = 0
    prepare_seconds: float = 0.0
    retrieve_seconds: float = 0.0
    asked: str = ""
    prompt: str = ""
    passages: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    offline: dict[str, float] = field(default_factory=dict)


Answers = Mapping[str, Sequence[Answered]]
"""By method; every method's in the order of the questions."""


def scores_of(text: str, answers: Sequence[str], metric: str) -> dict[str, float]:
    """The METRICS of an answer, each the best over the right answers. metric: whose token F1, a key of TOKEN_SCORES."""
    overlap = best_token_scores(text, answers, TOKEN_SCORES[metric])._asdict()
    return {"exact_match": best_exact_match(text, answers), **overlap, "containment": containment(text, answers)}


def table_rows(answers: Answers, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """For each data set and method a row with the type `all` and, where there are several types, one for each.

    F1 has a 95 % bootstrap interval. seconds: the median. of_rag: F1 as a share of plain RAG's on the same questions, with a
    paired bootstrap interval; only where `rag` ran and is right somewhere.
    """
    rows = []
    first = next(iter(answers.values()))
    for dataset in dict.fromkeys(one.dataset for one in first):
        types = sorted({one.type for one in first if one.dataset == dataset})
        for method in answers:
            for kind in [TOTAL, *(types if len(types) > 1 else [])]:

                def chosen(name: str, dataset: str = dataset, kind: str = kind) -> list[Answered]:
                    return [one for one in answers[name] if one.dataset == dataset and kind in (TOTAL, one.type)]

                rows.append(_row(chosen(method), kind, chosen("rag") if "rag" in answers else None, resamples))
    return rows


def _row(own: list[Answered], kind: str, rag: list[Answered] | None, resamples: int) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in own]))

    f1 = [one.scores["f1"] for one in own]
    interval = bootstrap_interval(f1, resamples=resamples)
    share = share_interval(f1, [one.scores["f1"] for one in rag], resamples=resamples) if rag else None
    shares = {"of_rag": share.mean, "of_rag_low": share.low, "of_rag_high": share.high} if share else {}
    return {
        "method": own[0].method,
        "dataset": own[0].dataset,
        "type": kind,
        "documents": round(mean("documents"), 2),
        "n": len(own),
        "exact_match": round(float(np.mean([one.scores["exact_match"] for one in own])), 4),
        "f1": round(interval.mean, 4),
        "f1_low": round(interval.low, 4),
        "f1_high": round(interval.high, 4),
        "adapter_bytes": round(mean("adapter_bytes")),
        "prompt_tokens": round(mean("prompt_tokens"), 1),
        "rows": round(mean("rows"), 1),
        "seconds": round(float(np.median([one.seconds for one in own])), 4),
        **{name: round(value, 4) for name, value in shares.items()},
    }


def summarise(answers: Answers, resamples: int = RESAMPLES) -> dict[str, Any]:
    """`scores`: method -> subtask (and `all`) -> n and each metric's mean, low and high; `costs`: method -> mean seconds and
    tokens; `comparisons`: F1 of every two methods, paired by question; `rows`: see `table_rows`.

    Of several data sets, subtasks are named "data set/type".
    """
    several = len({one.dataset for found in answers.values() for one in found}) > 1
    scores: dict[str, Any] = {}
    for method, own in answers.items():
        groups: dict[str, list[Answered]] = {TOTAL: list(own)}
        for one in own:
            groups.setdefault(f"{one.dataset}/{one.type}" if several else one.type, []).append(one)
        scores[method] = {name: {"n": len(group), **_means(group, resamples)} for name, group in groups.items()}
    comparisons = []
    methods = list(answers)
    for place, first in enumerate(methods):
        for second in methods[place + 1 :]:
            ours, theirs = ([one.scores["f1"] for one in answers[name]] for name in (first, second))
            result = paired_comparison(ours, theirs, resamples=resamples)
            comparisons.append({"first": first, "second": second, "metric": "f1", **vars(result)})
    costs = {method: _costs(own) for method, own in answers.items()}
    return {"scores": scores, "costs": costs, "comparisons": comparisons, "rows": table_rows(answers, resamples)}


def recall_of(recalls: Sequence[dict[str, float]], k: int | None) -> dict[str, Any]:
    """Mean of each kind of recall over the questions that have it."""
    names = sorted({name for recall in recalls for name in recall})
    found = {name: [recall[name] for recall in recalls if name in recall] for name in names}
    return {"k": k, **{name: {"mean": sum(values) / len(values), "n": len(values)} for name, values in found.items()}}


def _means(group: Sequence[Answered], resamples: int) -> dict[str, Any]:
    return {metric: vars(bootstrap_interval([one.scores[metric] for one in group], resamples=resamples)) for metric in METRICS}


def _costs(own: Sequence[Answered]) -> dict[str, float]:
    """Means per question; `offline_seconds`: per document that was fine-tuned (0 where none was)."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in own]))

    seconds = {"retrieve_seconds": mean("retrieve_seconds"), "prepare_seconds": mean("prepare_seconds")}
    seconds["answer_seconds"] = mean("seconds") - seconds["prepare_seconds"]
    documents = sum(one.offline.get("documents", 0) for one in own)
    offline = sum(one.offline.get("seconds", 0.0) for one in own) / documents if documents else 0.0
    tokens = {"prompt_tokens": mean("prompt_tokens"), "answer_tokens": mean("answer_tokens")}
    return {
        **seconds,
        "seconds": sum(seconds.values()),
        "offline_seconds": offline,
        **tokens,
        "adapter_bytes": mean("adapter_bytes"),
    }
