"""Tables and pictures into `report.md` and `report.html`, which say the same, beside the summaries they were made from."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from distilledprag.errors import InputError
from distilledprag.evaluation.report.pictures import draw_bars, draw_latency
from distilledprag.evaluation.report.runs import (
    Run,
    Table,
    ablation_tables,
    comparison_table,
    paper_table,
    published_table,
    read_run,
    score_tables,
)
from distilledprag.files import write_atomically

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
