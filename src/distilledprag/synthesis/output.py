"""What a run leaves beside the journal: the pairs for `dprag train`, the report, and every rejected pair with its reason."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distilledprag.errors import ConfigError
from distilledprag.files import write_atomically
from distilledprag.synthesis.llm import Reply
from distilledprag.synthesis.pairs import REASONS, without_reasoning
from distilledprag.synthesis.run import Outcome, QaSettings, Rejection, Synthesis, Usage
from distilledprag.synthesis.sources import DocumentSample

FORMATS = (".jsonl", ".parquet")
EXAMPLES = 5  # rejected pairs shown per reason


def check_output(path: Path) -> None:
    """Raise ConfigError before any request if `write_rows` could not write this file."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--out {path} must end in {' or '.join(FORMATS)}")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file in it")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError("Parquet needs pyarrow: pip install 'distilledprag[parquet]', or write .jsonl") from error


def rows_of(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """`{documents: [str], question, answer, full_answer, kind: single|cross}` for every pair."""
    for outcome in outcomes:
        for pair in outcome.pairs:
            yield {
                "documents": outcome.item.texts,
                "question": pair.question,
                "answer": pair.answer,
                "full_answer": pair.full_answer,
                "kind": outcome.item.kind,
            }


def write_rows(outcomes: Sequence[Outcome], path: Path) -> int:
    """Write all pairs, whole or not at all, and return the number of rows. The file is built in memory (the paper's: 400 MB)."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows_of(outcomes)]
        write_atomically(path, b"".join(lines))
        return len(lines)
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    schema = pyarrow.schema({
        "documents": pyarrow.list_(text), "question": text, "answer": text, "full_answer": text, "kind": text
    })  # fmt: skip
    table = pyarrow.Table.from_pylist(list(rows_of(outcomes)), schema=schema)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())
    return int(table.num_rows)


def make_report(
    synthesis: Synthesis,
    outcomes: Sequence[Outcome],
    sample: DocumentSample,
    *,
    retried: Mapping[str, int],
    changed: Sequence[str],
    seconds: float,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as a JSON object. retried: repeated tries by reason; changed: what the endpoint was sent otherwise than was
    asked for; seconds: of this run; config: the remaining options."""
    settings = synthesis.settings
    return {
        "config": {**config, "model": synthesis.model.name, **settings.model_dump()},
        "documents": {"read": sample.read, "used": len(sample.documents), "skipped": sample.skipped, "failed": sample.failed},
        "kinds": {kind: _kind(kind, outcomes, settings) for kind in ("single", "cross")},
        "pairs": sum(len(outcome.pairs) for outcome in outcomes),
        "rejected": _rejected(outcomes),
        "unfinished": dict(Counter(outcome.unfinished for outcome in outcomes if outcome.unfinished)),
        "requests": {"all_runs": _usage(synthesis.usage, settings), "this_run": _usage(synthesis.usage_now, settings)},
        "replies": _replies(synthesis.replies),
        "retried": dict(retried),
        "changed": list(changed),
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


def _replies(replies: Iterable[Reply]) -> dict[str, dict[str, int]]:
    """All replies of the journal, by how they ended and by the reasoning in them (`pairs.without_reasoning`)."""
    finish: Counter[str] = Counter()
    reasoning: Counter[str] = Counter()
    for reply in replies:
        finish[reply.finish or "not told"] += 1
        finish["empty"] += not reply.text.strip()
        reasoning[without_reasoning(reply.text)[1] or "none"] += 1
    return {"finish": dict(+finish), "reasoning": dict(reasoning)}


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
