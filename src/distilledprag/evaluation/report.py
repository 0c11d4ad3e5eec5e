"""Runs of `dprag evaluate RECIPE` -> one report: tables and pictures, as markdown and HTML.

A run is the output folder of a recipe. It belongs to an ablation where its folder's name ends in that ablation's. Numbers that
others published (published.yaml) are marked as such and never averaged with ours.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from distilledprag.errors import ConfigError, InputError
from distilledprag.files import write_atomically


class Published(NamedTuple):
    """f1: percent, mean over eight columns; seconds: per question, online; offline_seconds: per document, before."""

    base: str
    method: str
    f1: float
    seconds: float
    offline_seconds: float | None = None


_PUBLISHED = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
PUBLISHED = tuple(Published(**row) for row in _PUBLISHED["averages"])
ABLATIONS: dict[str, dict[str, float | None]] = _PUBLISHED["ablations"]
"""F1 by variant, None where none was published; by what was varied."""
NOT_ABLATED = ("closed_book", "rag")
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
            if run.ablation and method not in NOT_ABLATED and not method.startswith("shuffled"):
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


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #999;padding:.25rem .6rem;text-align:left}img{max-width:100%}"
)


def write_report(folders: Sequence[Path], out: Path) -> list[Path]:
    """Read the runs and write the report; returns the files. Raises InputError for no runs, unfinished ones, or two of a name."""
    runs = [read_run(folder) for folder in folders]
    if not runs:
        raise InputError("name at least one folder of `dprag evaluate RECIPE`")
    if len({run.name for run in runs}) != len(runs):
        raise InputError("two runs have a folder of the same name; rename one, so that the report can tell them apart")
    out.mkdir(parents=True, exist_ok=True)
    parts: list[Table | str] = []
    files = []
    for run in runs:
        write_atomically(out / f"{run.name}.json", json.dumps(run.summary) + "\n")
        if run.ablation:
            continue
        parts += score_tables(run)
        for group in run.groups:
            picture = draw_bars(run, group, out / f"{'-'.join(filter(None, [run.name, group]))}-f1.png")
            files.append(picture)
            parts.append(picture.name)
        parts += filter(None, [comparison_table(run)])
    compared = [run for run in runs if not run.ablation]
    if compared:
        parts.insert(0, paper_table(compared))
        files.append(draw_latency(compared, out / "f1-latency.png"))
        parts.append(files[-1].name)
    parts += [*ablation_tables(runs), published_table()]
    write_atomically(out / "report.md", "# Evaluation\n\n" + "\n\n".join(map(_markdown, parts)) + "\n\n" + _sources(runs) + "\n")
    body = "\n".join(map(_html, parts)) + f"<pre>{html.escape(_sources(runs))}</pre>"
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{STYLE}</style>"
    write_atomically(out / "report.html", f"{page}<h1>Evaluation</h1>{body}</html>\n")
    return [out / "report.md", out / "report.html", *files]


def _markdown(part: Table | str) -> str:
    if isinstance(part, str):
        return f"![{part}]({part})"
    lines = [part.head, ["---"] * len(part.head), *part.rows]
    grid = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"## {part.title}\n\n{part.note}\n\n{grid}"


def _html(part: Table | str) -> str:
    if isinstance(part, str):
        return f'<p><img src="{html.escape(part)}" alt="{html.escape(part)}"></p>'
    head = "".join(f"<th>{html.escape(cell)}" for cell in part.head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in part.rows)
    return f"<h2>{html.escape(part.title)}</h2><p>{html.escape(part.note)}</p><table><tr>{head}{rows}</table>"


def _sources(runs: Sequence[Run]) -> str:
    """What each run was made with."""
    lines = []
    for run in runs:
        config = run.summary["config"]
        what = f"base {config['base']['weights']}, checkpoints {config['checkpoints']}, questions {config['questions']}"
        lines.append(f"{run.name}: {what}, {config['hardware']}, {config['versions']}, retrieval {run.summary['retrieval']}")
    return "\n".join(lines)
