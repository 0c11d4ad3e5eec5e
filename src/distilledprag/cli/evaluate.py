"""Measuring: `dprag evaluate RECIPE`, `dprag evaluate --data FILE`, `dprag report`; `dprag audit`: what an adapter gives away."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distilledprag.audit.adapters import Dial
from distilledprag.audit.page import ATTACKS
from distilledprag.audit.run import AuditOptions, audit
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.recipe import EvaluationRecipe, rows_recipe
from distilledprag.evaluation.report import write_report
from distilledprag.evaluation.runner import Evaluation, checkpoints_of, evaluate, file_hash, machine
from distilledprag.evaluation.summary import table_rows
from distilledprag.files import write_atomically
from distilledprag.recipes import checked_recipe, read_recipe


def run(file: Path, overrides: list[str] | None = None) -> None:
    """`dprag evaluate RECIPE`; run again, it goes on where it was."""
    recipe, console = read_recipe(file, EvaluationRecipe, overrides), Console()
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("evaluating", total=None)

        def tell(method: str, done: int, of: int) -> None:
            progress.update(bar, description=method, completed=done, total=of)

        result = evaluate(recipe, tell)
    table = Table("method", "n", "EM", "F1", "95 %", "s", title=str(recipe.output))
    deviating = result["deviations"]
    for method, groups in result["scores"].items():
        whole = groups["all"]
        f1, name = whole["f1"], f"{method} ({deviating[method]})" if method in deviating else method
        cells = (f"{whole['exact_match']['mean']:.3f}", f"{f1['mean']:.3f}", f"{f1['low']:.3f}-{f1['high']:.3f}")
        table.add_row(name, str(whole["n"]), *cells, f"{result['costs'][method]['seconds']:.3f}")
    console.print(table)
    console.print(f"{recipe.output / 'questions.jsonl'}, {recipe.output / 'summary.json'}")


def run_files(
    data: list[Path],
    n: int | None,
    seed: int,
    methods: str | None,
    json_file: Path,
    base: str | None,
    rows: float,
    overrides: list[str] | None = None,
    generators: list[Path] | None = None,
    retrieved: int | None = None,
    retriever: str | None = None,
) -> None:
    """`dprag evaluate --data FILE`: `n` questions of each file by every method; the table, also in `json_file`.

    generators: folders of trained generators and compressors; each serves the methods that its architecture stands for.
    retrieved, retriever: as in `rows_recipe`.

    The answers to a file's questions are kept beside it, in `<json_file>.<file's name>.answers.jsonl`.
    """
    chosen = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    checkpoints = checkpoints_of(generators or [])
    recipes = [
        checked_recipe(
            rows_recipe(
                path,
                output=json_file.parent,
                n=n,
                seed=seed,
                methods=chosen,
                base=base,
                chosen_rows=rows,
                checkpoints=checkpoints,
                retrieved=retrieved,
                retriever=retriever,
            ),
            EvaluationRecipe,
            "the options of `dprag evaluate`",
            overrides,
        )
        for path in data
    ]
    if missing := next((path for path in data if not path.is_file()), None):
        raise InputError(f"{missing} does not exist; check the path")
    console = Console(stderr=True)
    evaluation = Evaluation(recipes[0], console.print)
    config: dict[str, Any] = {
        **evaluation.identity,
        "seed": seed,
        "n": n,
        "passages": f"BM25 top {retrieved} of the file" if retrieved else "given",
        "checkpoints": evaluation.checkpoints,
        "files": {path.name: file_hash(path) for path in data},
        "command": " ".join(["dprag", *sys.argv[1:]]),
        **machine(),
    }
    table: list[dict[str, Any]] = []
    for path, recipe in zip(data, recipes, strict=True):
        dataset = path.name.split(".")[0]
        journal = json_file.with_name(f"{json_file.stem}.{dataset}.answers.jsonl")
        with console.status(dataset) as status:

            def tell(method: str, done: int, of: int, dataset: str = dataset, status: Any = status) -> None:
                status.update(f"{dataset}: {method} {done} of {of}")

            questions = evaluation.questions(recipe)
            answers = evaluation.run(recipe, questions, journal, other_run="restart", on_progress=tell)
        table += table_rows(answers)
        write_atomically(json_file, json.dumps({"config": config, "rows": table}, indent=1) + "\n")
    _show(table)


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("data", "type", "n", "method", "F1", "95 %", "EM", "of RAG", "adapter", "prompt")
    for row in rows:
        table.add_row(
            row["dataset"],
            row["type"],
            str(row["n"]),
            row["method"],
            f"{row['f1']:.3f}",
            f"{row['f1_low']:.3f}-{row['f1_high']:.3f}",
            f"{row['exact_match']:.3f}",
            f"{row['of_rag']:.3f}" if "of_rag" in row else "",
            f"{row['adapter_bytes']:,}",
            f"{row['prompt_tokens']:.0f}",
        )
    Console().print(table)


def report(folders: list[Path], out: Path) -> None:
    """`dprag report`: prints the files that it wrote."""
    for file in write_report(folders, out):
        Console().print(str(file), soft_wrap=True)


# --- audit


def dials(methods: list[str], layers: list[int], rows: list[float], noise: list[float], precision: list[str]) -> list[Dial]:
    """One dial is turned at a time: the first value of each is where it stands while others are turned."""
    found: dict[Dial, None] = {}
    for method in methods:
        start = Dial(method)
        if method == "state":
            start = Dial(method, layers[0] if layers else None, rows[0], noise[0], precision[0])
        found[start] = None
        if method == "state":
            turned = [replace(start, layer=value) for value in layers]
            turned += [replace(start, rows=value) for value in rows]
            turned += [replace(start, noise=value) for value in noise]
            turned += [replace(start, precision=value) for value in precision]
            found |= dict.fromkeys(turned)
    return list(found)


def run_audit(options: AuditOptions) -> None:
    """`dprag audit`: prints the table; the report is in `options.out`."""
    for dial in options.dials:
        if dial.precision not in ("int8", "float16"):
            raise ConfigError(f"--precision {dial.precision}: rows travel as int8 or float16")
        if not 0 < dial.rows <= 1 or dial.noise < 0:
            raise ConfigError("--rows is a share above 0 and up to 1, --noise a number from 0")
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("loading", total=None)

        def say(what: str, done: int, of: int) -> None:
            progress.update(bar, description=what, completed=done, total=of)

        report = audit(options, say)
    table = Table("adapter", "attacker", "tokens", "rare", "names, numbers", "ROUGE-1", "ROUGE-2", "F1", title=str(options.out))
    for row in report["rows"]:
        names = ("tokens", "rare_tokens", "names_and_numbers", "rouge1", "rouge2", "f1")
        cells = [f"{row['scores'][name]['mean']:.3f}" if name in row["scores"] else "" for name in names]
        table.add_row(row["name"], ATTACKS[row["attacker"]], *cells)
    console = Console()
    console.print(table)
    console.print(f"{options.out / 'report.json'}, {options.out / 'report.html'}", soft_wrap=True)
