"""The report's pictures (matplotlib, extra `evaluate`). Knows summaries only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilledprag.errors import ConfigError
from distilledprag.evaluation.report.runs import Run


def _figure(width: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the report's pictures need matplotlib; install distilledprag[evaluate]") from error
    figure = Figure(figsize=(width, 4), layout="constrained")
    return figure, figure.subplots()


def draw_bars(run: Run, group: str, file: Path) -> Path:
    """F1 by subtask of a group, a bar for each method, with the bootstrap interval."""
    methods, subtasks = list(run.summary["scores"]), run.groups[group]
    figure, axes = _figure(min(24.0, max(6.0, 1.5 * len(subtasks) + 0.1 * len(subtasks) * len(methods))))
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        scores = [run.summary["scores"][method][name]["f1"] for name in subtasks]
        means = [100 * score["mean"] for score in scores]
        errors = [[100 * (s["mean"] - s["low"]) for s in scores], [100 * (s["high"] - s["mean"]) for s in scores]]
        color = f"C{place % 10}"
        hatch = "//" if place >= 10 else None
        places = [x + place * width for x in range(len(subtasks))]
        axes.bar(places, means, width, yerr=errors, label=method, color=color, hatch=hatch, error_kw={"linewidth": 0.7})
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(subtasks))], [name.rpartition("/")[2] for name in subtasks])
    axes.set(ylabel="F1 (%)", title=f"{group or run.benchmark}: {run.name}")
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(file)
    return file


def draw_latency(runs: Sequence[Run], file: Path) -> Path:
    """F1 over seconds per question, a point for each run and method. Ours only: published seconds are of other machines."""
    figure, axes = _figure(7)
    for run in runs:
        for method, groups in run.summary["scores"].items():
            seconds, f1 = run.summary["costs"][method]["seconds"], 100 * groups["all"]["f1"]["mean"]
            axes.plot(seconds, f1, "o")
            axes.annotate(f"{method} ({run.name})" if len(runs) > 1 else method, (seconds, f1), fontsize="small")
    axes.set(xlabel="seconds per question", ylabel="F1 (%)", title="F1 and latency")
    figure.savefig(file)
    return file
