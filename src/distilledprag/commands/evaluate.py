"""`dprag evaluate --world` and `dprag evaluate RECIPE`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distilledprag.base_model import load_base, weights_hash
from distilledprag.baselines import PragAdapters, PragSettings
from distilledprag.bundled import bundled_base, bundled_generators
from distilledprag.errors import ConfigError
from distilledprag.evaluation.machine import machine
from distilledprag.evaluation.methods import METHODS, NEEDS, USUAL, Setting, require_architecture
from distilledprag.evaluation.partial import PartialRows
from distilledprag.evaluation.targets import checks
from distilledprag.evaluation.world import ROW_KEY, Cell, cells, evaluate_world, items_of
from distilledprag.files import write_atomically
from distilledprag.generator import generator_identity, load_generator
from distilledprag.pipeline import DistilledPRAG
from distilledprag.prompts import PromptBuilder
from distilledprag.synthesis.world import world_fingerprint


def run(
    world: bool,
    n: int,
    seed: int,
    methods: str | None,
    json_file: Path | None,
    base: str | None,
    generator: str | None,
    paper_generator: str | None,
    dyprag_translator: str | None = None,
    prag_adapters: Path | None = None,
) -> None:
    if not world:
        raise ConfigError("say what to evaluate: a recipe, or --world")
    loaded = load_base(base or bundled_base(), dtype=torch.float32)
    given = {"distilled_per_rank": generator, "distilled_paper": paper_generator, "dyprag": dyprag_translator}
    folders: dict[str, str | Path] = {name: folder for name, folder in given.items() if folder}
    folders = {**({} if base else bundled_generators()), **folders}
    if "distilled_per_rank" not in folders:
        raise ConfigError("give the generator of this base with --generator")
    generators = {name: require_architecture(name, load_generator(folder, loaded)) for name, folder in folders.items()}
    shipped = generators["shuffled"] = generators["distilled_per_rank"]
    chosen = choose_methods(methods, set(generators))
    prompts, weights = PromptBuilder(loaded.tokenizer, loaded.mask_token_id), weights_hash(loaded.model)
    prag = PragAdapters(loaded, prompts, PragSettings(), weights, prag_adapters)
    setting = Setting(loaded, prompts, generators, prag)
    identity: dict[str, Any] = {
        "n": n,
        "seed": seed,
        "world": world_fingerprint(),
        "base": {**loaded.identity.to_dict(), "weights": weights},
        "generators": {name: generator_identity(made) for name, made in generators.items()},
    }
    if any(NEEDS.get(method) == "prag" for method in chosen):
        identity["generators"]["prag"] = prag.identity
    partial = PartialRows(json_file, identity, ROW_KEY)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("evaluating", total=len(chosen) * sum(1 for _ in cells()))
        rows = evaluate_world(setting, chosen, n, seed, lambda _: progress.advance(bar), partial)
    seconds = measure_seconds(DistilledPRAG(loaded, shipped), seed)
    command = " ".join(["dprag", *sys.argv[1:]])
    config = {"command": command, **identity, "seconds": seconds, **machine()}
    show(Console(), rows, config)
    if json_file:
        write_atomically(json_file, json.dumps({"config": config, "rows": rows}, indent=1) + "\n")
        partial.finish()


def run_recipe(file: Path) -> None:
    """`dprag evaluate RECIPE`; run again, it goes on where it was."""
    from distilledprag.commands.train import read_recipe
    from distilledprag.evaluation.run.recipe import EvaluationRecipe
    from distilledprag.evaluation.run.runner import evaluate

    recipe, console = read_recipe(file, EvaluationRecipe), Console()
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("evaluating", total=None)
        summary = evaluate(recipe, lambda done, total: progress.update(bar, completed=done, total=total))
    table = Table("method", "n", "EM", "F1", "95 %", "s", title=str(recipe.output))
    deviating = summary["deviations"]
    for method, groups in summary["scores"].items():
        whole = groups["all"]
        f1, name = whole["f1"], f"{method} ({deviating[method]})" if method in deviating else method
        cells = (f"{whole['exact_match']['mean']:.3f}", f"{f1['mean']:.3f}", f"{f1['low']:.3f}-{f1['high']:.3f}")
        table.add_row(name, str(whole["n"]), *cells, f"{summary['costs'][method]['seconds']:.3f}")
    console.print(table)
    console.print(f"{recipe.output / 'questions.jsonl'}, {recipe.output / 'summary.json'}")


def choose_methods(names: str | None, available: set[str]) -> list[str]:
    """The methods to run, in the table's order. Raises ConfigError for an unknown one or one that lacks its generator."""
    if names is None:
        return [name for name in USUAL if NEEDS.get(name, name) in {*available, "closed_book", "rag"}]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
        needed = NEEDS.get(name)
        if needed not in {None, "prag", *available}:
            option = {"distilled_paper": "--paper-generator", "dyprag": "--dyprag-translator"}.get(str(needed), "--generator")
            raise ConfigError(f"{name} needs a generator; give it with {option}")
    return [name for name in METHODS if name in wanted]


def measure_seconds(prag: DistilledPRAG, seed: int, count: int = 30) -> dict[str, float]:
    """Median seconds to encode one passage and to answer over three, one question at a time."""
    items = items_of(Cell("test", "single", 3), count, seed)
    encode, answer = [], []
    for item in items:
        encode.append(prag.answer(item.question, item.documents[:1], top_k=1).seconds["encode"])
        answer.append(sum(prag.answer(item.question, item.documents).seconds.values()))
    return {
        "encode_one_passage_median": round(statistics.median(encode), 4),
        "answer_three_passages_median": round(statistics.median(answer), 4),
    }


def show(console: Console, rows: list[dict[str, Any]], config: dict[str, Any]) -> None:
    """The table (exact match), the targets, and what was measured."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = Table("split", "kind", "documents", *methods, title=f"Exact match, n = {config['n']}, seed {config['seed']}")
    by_cell: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        by_cell.setdefault((row["split"], row["kind"], row["documents"]), {})[row["method"]] = row["exact_match"]
    for (split, kind, documents), values in by_cell.items():
        table.add_row(split, kind, str(documents), *(f"{values[method]:.3f}" for method in methods))
    console.print(table)
    targets = Table("target", "measured", "wanted", "", title="Targets (test split)")
    for what, value, wanted, met in checks(rows):
        targets.add_row(what, f"{value:.3f}", f"{wanted:.3f}", "[green]met[/green]" if met else "[red]missed[/red]")
    console.print(targets)
    console.print(f"base {config['base']['weights']}, generators {config['generators']}, {config['seconds']}")
    console.print("A bridge question needs 3 documents or more: two to hop over and one that could be mistaken.")
