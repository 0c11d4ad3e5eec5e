"""The runs of a report, read and checked, and the tables made of them. Knows nothing about markdown, HTML or pictures.

A run is the folder of `dprag evaluate RECIPE`; it belongs to an ablation where its folder's name ends in that ablation's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.errors import InputError
from distilledprag.evaluation.report.published import ABLATIONS, PUBLISHED


@dataclass(frozen=True)
class Run:
    """name: of its folder. summary: what the runner wrote."""

    name: str
    summary: dict[str, Any]

    @property
    def benchmark(self) -> str:
        data = self.summary["config"]["recipe"]["data"]
        return data["name"] if data["source"] == "benchmark" else f"world {data['split']}"

    @property
    def base(self) -> str:
        return str(self.summary["config"]["base"].get("name") or self.summary["config"]["base"]["weights"])

    @property
    def subtasks(self) -> list[str]:
        first = next(iter(self.summary["scores"].values()))
        return [name for name in first if name != "all"]

    @property
    def ablation(self) -> str | None:
        """The ablation's name, longest first, so that no-cosine-no-kl is not no-kl."""
        known = sorted({name for table in ABLATIONS.values() for name in table} | {"single-document"}, key=len, reverse=True)
        return next((name for name in known if self.name.endswith(name)), None)


@dataclass(frozen=True)
class Table:
    """Every row as long as `head`."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def read_run(folder: Path) -> Run:
    """Raises InputError when the folder holds no finished run."""
    file = folder / "summary.json"
    if not file.is_file():
        raise InputError(f"{folder} holds no summary.json; finish the run with `dprag evaluate RECIPE` (it goes on where it was)")
    try:
        summary = json.loads(file.read_text())
        if not {"config", "scores", "costs", "comparisons", "retrieval", "deviations"} <= summary.keys():
            raise KeyError("scores")
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise InputError(f"{file} is not a summary of `dprag evaluate RECIPE` ({error}); run the recipe again") from error
    return Run(folder.resolve().name, summary)


def score_table(run: Run) -> Table:
    """The paper's layout: a method a row, a subtask a column, the average last; F1 in percent."""
    rows = []
    for method, groups in run.summary["scores"].items():
        style = run.summary["deviations"].get(method)
        average = 100 * sum(groups[name]["f1"]["mean"] for name in run.subtasks) / len(run.subtasks)
        whole = groups["all"]
        interval = f"{100 * whole['f1']['low']:.1f} to {100 * whole['f1']['high']:.1f}"
        cells = [f"{100 * groups[name]['f1']['mean']:.1f}" for name in run.subtasks]
        seconds = f"{run.summary['costs'][method]['seconds']:.3f}"
        exact = f"{100 * whole['exact_match']['mean']:.1f}"
        rows.append([f"{method} (prompt: {style})" if style else method, *cells, f"{average:.1f}", interval, exact, seconds])
    head = ["method", *run.subtasks, "average", "95 % of all questions", "EM", "seconds"]
    n = next(iter(run.summary["scores"].values()))["all"]["n"]
    note = f"Token F1 in percent, n = {n}, base {run.base}. Measured by us."
    return Table(f"{run.benchmark}: {run.name}", note, head, rows)


def comparison_table(run: Run) -> Table | None:
    """Paired differences of F1; None for a run of one method."""
    rows = [
        [
            c["first"],
            c["second"],
            f"{100 * c['difference']:+.1f}",
            f"{100 * c['low']:+.1f} to {100 * c['high']:+.1f}",
            f"{c['p_value']:.4f}",
        ]
        for c in run.summary["comparisons"]
    ]
    head = ["first", "second", "difference", "95 %", "p"]
    note = "First minus second, F1 in percent, paired by question; p by permutation."
    return Table(f"{run.name}: differences", note, head, rows) if rows else None


def published_table() -> Table:
    rows = [
        [p.base, p.method, f"{p.f1:.1f}", f"{p.seconds:g}", "" if p.offline_seconds is None else f"{p.offline_seconds:g}"]
        for p in PUBLISHED
    ]
    note = "Published in arXiv 2509.01088, not measured by us: average F1 over 8 columns, in percent; other models and machines."
    return Table("Published numbers", note, ["base", "method", "F1", "seconds", "offline seconds per document"], rows)


def ablation_tables(runs: Sequence[Run]) -> list[Table]:
    """Our ablations beside the published ones; none without such runs."""
    ours = {run.ablation: run for run in runs if run.ablation}
    if not ours:
        return []
    groups: dict[str, dict[str, float | None]] = {
        **{title: dict(values) for title, values in ABLATIONS.items()},
        "training data": {"full": None, "single-document": None},
    }
    tables = []
    for what, published in groups.items():
        rows = []
        for name, value in published.items():
            cells = ["", ""]
            if name in ours:
                scores = {m: own for m, own in ours[name].summary["scores"].items() if m.startswith("distilled_")}
                cells = [", ".join(scores), ", ".join(f"{100 * own['all']['f1']['mean']:.1f}" for own in scores.values())]
            rows.append([name, *cells, "" if value is None else f"{value:.1f}"])
        note = "F1 in percent over all questions. The published column is arXiv 2509.01088's, on the model in the title."
        tables.append(Table(f"Ablation: {what}", note, ["variant", "method", "ours", "published"], rows))
    return tables
