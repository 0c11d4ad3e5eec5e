"""`dprag evaluate --data FILE` and `dprag evaluate RECIPE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distilledprag.base.llm import weights_hash
from distilledprag.errors import ConfigError, InputError
from distilledprag.evaluation.machine import machine
from distilledprag.evaluation.reading import MAX_NEW_TOKENS, METHODS, ReadingEvaluation, file_hash, load_items, summary
from distilledprag.files import write_atomically
from distilledprag.pipeline import DistilledPRAG


def run(data: list[Path], n: int | None, seed: int, methods: str | None, json_file: Path, base: str | None, rows: float) -> None:
    """Answer `n` questions of each file by every method; the table and `json_file`."""
    chosen = [name.strip() for name in (methods or ",".join(METHODS)).split(",") if name.strip()]
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        raise ConfigError(f"unknown methods {', '.join(unknown) or '(none)'}; choose from {', '.join(METHODS)}")
    missing = next((path for path in data if not path.is_file()), None)
    if missing:
        raise InputError(f"there is no file {missing}")
    console = Console(stderr=True)
    prag = DistilledPRAG.from_pretrained(base, say=console.print)
    room = (prag.prompts.max_tokens or prag.base.context_length) - 300
    most = min(room, len(prag.states.plain.numbered)) if prag.states.plain else room

    def fits(passages: Any) -> bool:
        return sum(prag.prompts.context(passages).is_document) <= most

    weights = weights_hash(prag.base.model)
    config: dict[str, Any] = {
        "seed": seed,
        "base": prag.base.id,
        "weights": weights,
        "layer": prag.states.layer,
        "plain_layer": prag.states.plain.layer if prag.states.plain else None,
        "chosen_rows": rows,
        "max_new_tokens": MAX_NEW_TOKENS,
        "rows_sent_as": "int8",
    }
    table_rows: list[dict[str, Any]] = []
    for path in data:
        dataset = path.name.split(".")[0]
        items = load_items(path, n, seed, longest=fits)
        journal = json_file.with_name(f"{json_file.stem}.{dataset}.answers.jsonl")
        with console.status(dataset) as status:

            def tell(method: str, done: int, of: int, dataset: str = dataset, status: Any = status) -> None:
                status.update(f"{dataset}: {method} {done} of {of}")

            # Not n: the questions of a smaller n come first in a larger one, so a run can be extended.
            identity = config | {"dataset": dataset, "file": file_hash(path)}
            answers = ReadingEvaluation(prag, items, rows).run(chosen, journal, identity, tell)
        table_rows += summary(items, answers, dataset)
        record = {
            "config": config
            | {"n": n, "files": {p.name: file_hash(p) for p in data}, "command": " ".join(["dprag", *sys.argv[1:]]), **machine()},
            "rows": table_rows,
        }
        write_atomically(json_file, json.dumps(record, indent=1) + "\n")
    _show(table_rows)


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


def run_recipe(file: Path, overrides: list[str] | None = None) -> None:
    """`dprag evaluate RECIPE`; run again, it goes on where it was."""
    from distilledprag.cli.train import read_recipe
    from distilledprag.evaluation.recipe import EvaluationRecipe
    from distilledprag.evaluation.runner import evaluate

    recipe, console = read_recipe(file, EvaluationRecipe, overrides), Console()
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("evaluating", total=None)
        result = evaluate(recipe, lambda done, total: progress.update(bar, completed=done, total=total))
    table = Table("method", "n", "EM", "F1", "95 %", "s", title=str(recipe.output))
    deviating = result["deviations"]
    for method, groups in result["scores"].items():
        whole = groups["all"]
        f1, name = whole["f1"], f"{method} ({deviating[method]})" if method in deviating else method
        cells = (f"{whole['exact_match']['mean']:.3f}", f"{f1['mean']:.3f}", f"{f1['low']:.3f}-{f1['high']:.3f}")
        table.add_row(name, str(whole["n"]), *cells, f"{result['costs'][method]['seconds']:.3f}")
    console.print(table)
    console.print(f"{recipe.output / 'questions.jsonl'}, {recipe.output / 'summary.json'}")
