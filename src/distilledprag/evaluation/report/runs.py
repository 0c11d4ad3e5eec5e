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

SHOWN = {"f1": "token F1", "exact_match": "exact match"}


@dataclass(frozen=True)
class Run:
    """name: of its folder. summary: what the runner wrote."""

    name: str
    summary: dict[str, Any]

    @property
    def benchmark(self) -> str:
        data = self.summary["config"]["recipe"]["data"]
        if isinstance(data, list):
            return ", ".join(dict.fromkeys(name.partition("/")[0] for name in self.subtasks))
        return data["name"]

    @property
    def base(self) -> str:
        return str(self.summary["config"]["base"].get("name") or self.summary["config"]["base"]["weights"])

    @property
    def subtasks(self) -> list[str]:
        first = next(iter(self.summary["scores"].values()))
        return [name for name in first if name != "all"]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The subtasks by what stands before their last slash (a benchmark, if there are several), or all of them under ""."""
        found: dict[str, list[str]] = {}
        for name in self.subtasks:
            found.setdefault(name.rpartition("/")[0], []).append(name)
        return found

    @property
    def ablation(self) -> str | None:
        """The ablation's name, longest first, so that no-cosine-no-kl is not no-kl."""
        known = sorted({name for table in ABLATIONS.values() for name in table}, key=len, reverse=True)
        return next((name for name in known if self.name.endswith(name)), None)

    def named(self, method: str) -> str:
        """The method as a table names it: with what it deviates in."""
        how = self.summary["deviations"].get(method)
        return f"{method} (prompt: {how})" if how else method

    def average(self, method: str, subtasks: Sequence[str]) -> float:
        """Mean of the subtasks' F1, in percent."""
        return 100 * sum(self.summary["scores"][method][name]["f1"]["mean"] for name in subtasks) / len(subtasks)


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


def score_tables(run: Run) -> list[Table]:
    """A method a row, a subtask a column, the average last; a table for each group of subtasks. F1 and exact match in percent,
    with bootstrap intervals."""
    return [_score_table(run, group, subtasks, metric) for group, subtasks in run.groups.items() for metric in SHOWN]


def _score_table(run: Run, group: str, subtasks: list[str], metric: str) -> Table:
    rows = []
    for method, scores in run.summary["scores"].items():
        shown = [scores[name][metric] for name in subtasks]
        cells = [f"{100 * s['mean']:.1f} ({100 * s['low']:.1f} to {100 * s['high']:.1f})" for s in shown]
        average = 100 * sum(s["mean"] for s in shown) / len(shown)
        rows.append([run.named(method), *cells, f"{average:.1f}", f"{run.summary['costs'][method]['seconds']:.3f}"])
    head = ["method", *(name.removeprefix(f"{group}/") for name in subtasks), "average", "seconds"]
    counts = {name: next(iter(run.summary["scores"].values()))[name]["n"] for name in subtasks}
    note = f"{SHOWN[metric]} in percent (95 % interval), n = {sum(counts.values())}: "
    note += ", ".join(f"{count} {name.removeprefix(f'{group}/')}" for name, count in counts.items())
    return Table(
        f"{group or run.benchmark}: {run.name}, {SHOWN[metric]}",
        f"{note}. Base {run.base}. Measured by us.",
        head,
        rows,
    )


def paper_table(runs: Sequence[Run]) -> Table:
    """The paper's layout: all benchmarks' subtasks side by side, their average last; below ours the published averages."""
    columns = [(run, name) for run in runs for name in run.subtasks]
    rows = []
    for method in dict.fromkeys(method for run in runs for method in run.summary["scores"]):
        having = [run for run in runs if method in run.summary["scores"]]
        means = [run.average(method, [name]) if run in having else None for run, name in columns]
        whole = f"{sum(m for m in means if m is not None) / len(columns):.1f}" if len(having) == len(runs) else ""
        seconds = sum(run.summary["costs"][method]["seconds"] for run in having) / len(having)
        cells = ["" if mean is None else f"{mean:.1f}" for mean in means]
        rows.append([having[0].named(method), *cells, whole, f"{seconds:.3f}"])
    for p in PUBLISHED:
        rows.append([f"{p.method}, {p.base} (published)", *[""] * len(columns), f"{p.f1:.1f}", f"{p.seconds:g}"])
    head = ["method", *(name if "/" in name else f"{run.benchmark} {name}" for run, name in columns), "average", "seconds"]
    note = f"Token F1 in percent, base {', '.join(dict.fromkeys(run.base for run in runs))}. Rows marked (published): means of "
    note += "arXiv 2509.01088 over its own eight columns, on other models and machines; not measured by us."
    return Table("All benchmarks", note, head, rows)


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
    """Our ablations, a column for each method that has some, beside the published ones; none without such runs."""
    ours: dict[tuple[str, str], str] = {}
    for run in runs:
        for method, scores in run.summary["scores"].items():
            if run.ablation and method.startswith("distilled_"):
                f1, exact = (scores["all"][metric] for metric in ("f1", "exact_match"))
                interval = f"{100 * f1['low']:.1f} to {100 * f1['high']:.1f}"
                ours[method, run.ablation] = (
                    f"{100 * f1['mean']:.1f} ({interval}), EM {100 * exact['mean']:.1f}, n = {scores['all']['n']}"
                )
    methods = list(dict.fromkeys(method for method, _ in ours))
    if not methods:
        return []
    tables = []
    for what, published in ABLATIONS.items():
        rows = [
            [name, *(ours.get((method, name), "") for method in methods), "" if value is None else f"{value:.1f}"]
            for name, value in published.items()
        ]
        note = "F1 in percent over all questions (95 % interval). Published: arXiv 2509.01088, on the model in the title."
        tables.append(Table(f"Ablation: {what}", note, ["variant", *methods, "published"], rows))
    return tables
