"""Records of questions -> means with bootstrap intervals, paired comparisons, recall of retrieval. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilledprag.evaluation.records import Record
from distilledprag.evaluation.statistics import bootstrap_interval, paired_comparison

METRICS = ("exact_match", "f1", "precision", "recall", "containment")
TOTAL = "all"


def summarise(records: Sequence[Record], methods: Sequence[str], resamples: int = 10_000) -> dict[str, Any]:
    """`scores`: method -> subtask (and `all`) -> n and each metric's mean, low and high; `costs`: method -> mean seconds and
    tokens; `comparisons`: F1 of every two methods, paired by question."""
    by_method = {method: [record for record in records if record["method"] == method] for method in methods}
    scores: dict[str, Any] = {}
    for method, own in by_method.items():
        groups = {TOTAL: own}
        for record in own:
            groups.setdefault(record["subtask"], []).append(record)
        scores[method] = {name: {"n": len(group), **_means(group, resamples)} for name, group in groups.items()}
    comparisons = []
    for place, first in enumerate(methods):
        for second in methods[place + 1 :]:
            theirs = {record["key"]: record["scores"]["f1"] for record in by_method[second]}
            ours = {record["key"]: record["scores"]["f1"] for record in by_method[first]}
            result = paired_comparison(list(ours.values()), [theirs[key] for key in ours], resamples=resamples)
            comparisons.append({"first": first, "second": second, "metric": "f1", **vars(result)})
    costs = {method: _costs(own) for method, own in by_method.items()}
    return {"scores": scores, "costs": costs, "comparisons": comparisons}


def recall_of(recalls: Sequence[dict[str, float]], k: int) -> dict[str, Any]:
    """Mean of each kind of recall over the questions that have it."""
    names = sorted({name for recall in recalls for name in recall})
    found = {name: [recall[name] for recall in recalls if name in recall] for name in names}
    return {"k": k, **{name: {"mean": sum(values) / len(values), "n": len(values)} for name, values in found.items()}}


def _means(records: Sequence[Record], resamples: int) -> dict[str, Any]:
    return {
        metric: vars(bootstrap_interval([record["scores"][metric] for record in records], resamples=resamples))
        for metric in METRICS
    }


def _costs(records: Sequence[Record]) -> dict[str, float]:
    """Means per question; `offline_seconds`: per document that was fine-tuned in this run (0 where none was)."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    kinds = ("retrieve", "prepare", "answer")
    seconds = {f"{kind}_seconds": mean([record["seconds"][kind] for record in records]) for kind in kinds}
    tokens = {f"{kind}_tokens": mean([record["tokens"][kind] for record in records]) for kind in ("prompt", "answer")}
    offline = [record["offline"] for record in records if record.get("offline")]
    documents = sum(one["documents"] for one in offline)
    per_document = sum(one["seconds"] for one in offline) / documents if documents else 0.0
    return {**seconds, "seconds": sum(seconds.values()), "offline_seconds": per_document, **tokens}
