"""What a run gave and what it rejected: numbers for `OUT.report.json`, every rejected pair for `OUT.rejected.jsonl`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distilledprag.synthesis.checks import REASONS
from distilledprag.synthesis.run import Outcome, QaSettings, Rejection, Synthesis, Usage
from distilledprag.synthesis.sources import Reading

EXAMPLES = 5  # rejected pairs shown per reason


def make_report(
    synthesis: Synthesis,
    outcomes: Sequence[Outcome],
    reading: Reading,
    *,
    retried: Mapping[str, int],
    seconds: float,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as a JSON object. retried: tries repeated by reason; seconds: of this run; config: whatever else decided."""
    settings = synthesis.settings
    return {
        "config": {**config, "model": synthesis.model.name, **settings.model_dump()},
        "documents": {"read": reading.read, "used": len(reading.documents), "skipped": reading.skipped},
        "kinds": {kind: _kind(kind, outcomes, settings) for kind in ("single", "cross")},
        "pairs": sum(len(outcome.pairs) for outcome in outcomes),
        "rejected": _rejected(outcomes),
        "unfinished": dict(Counter(outcome.unfinished for outcome in outcomes if outcome.unfinished)),
        "requests": {"all_runs": _usage(synthesis.usage, settings), "this_run": _usage(synthesis.usage_now, settings)},
        "retried": dict(retried),
        "seconds": round(seconds, 3),
    }


def _kind(kind: str, outcomes: Sequence[Outcome], settings: QaSettings) -> dict[str, int]:
    own = [outcome for outcome in outcomes if outcome.item.kind == kind]
    minimum = settings.single_min if kind == "single" else settings.cross_min
    return {
        "items": len(own),
        "unfinished": sum(outcome.unfinished is not None for outcome in own),
        "below_minimum": sum(len(outcome.pairs) < minimum for outcome in own if outcome.unfinished is None),
        "pairs": sum(len(outcome.pairs) for outcome in own),
    }


def _usage(usage: Usage, settings: QaSettings) -> dict[str, Any]:
    cost = usage.cost(settings)
    return {
        "answered": usage.requests,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "without_token_counts": usage.uncounted,
        "cost_usd": None if cost is None else round(cost, 6),
    }


def _rejected(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    by_reason: dict[str, list[Rejection]] = {reason: [] for reason in REASONS}
    for outcome in outcomes:
        for rejection in outcome.rejected:
            by_reason[rejection.reason].append(rejection)
    return {
        reason: {"count": len(found), "meaning": REASONS[reason], "examples": [_shown(one) for one in found[:EXAMPLES]]}
        for reason, found in by_reason.items()
        if found
    }


def _shown(rejection: Rejection) -> dict[str, str]:
    return {name: value for name, value in vars(rejection).items() if value and name != "reason"}


def rejected_lines(outcomes: Sequence[Outcome]) -> str:
    """Every rejection with its documents, as JSON lines."""
    return "".join(
        json.dumps(
            {"reason": rejection.reason, **_shown(rejection), "kind": outcome.item.kind, "documents": outcome.item.texts},
            ensure_ascii=False,
        )
        + "\n"
        for outcome in outcomes
        for rejection in outcome.rejected
    )
