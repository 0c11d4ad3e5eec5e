"""`dprag evaluate RECIPE`, `dprag evaluate --data FILE` and `dprag report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distilledprag.errors import InputError
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
