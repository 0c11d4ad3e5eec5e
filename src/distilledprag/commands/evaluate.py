"""`dprag evaluate --world`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distilledprag.base_model import load_base
from distilledprag.bundled import bundled_base, bundled_generator
from distilledprag.errors import ConfigError
from distilledprag.evaluation.methods import METHODS, NEEDS_GENERATOR, Setting
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
) -> None:
    if not world:
        raise ConfigError("say what to evaluate: --world")
    loaded = load_base(base or bundled_base(), dtype=torch.float32)
    shipped = load_generator(generator or bundled_generator(), loaded)
    generators = {"distilled_per_rank": shipped, "shuffled": shipped}
    if paper_generator:
        generators["distilled_paper"] = load_generator(paper_generator, loaded)
    chosen = choose_methods(methods, set(generators))
    setting = Setting(loaded, PromptBuilder(loaded.tokenizer, loaded.mask_token_id), generators)
    identity = {
        "n": n,
        "seed": seed,
        "world": world_fingerprint(),
        "base": {**loaded.identity.to_dict(), "weights": weights_hash(loaded.model)},
        "generators": {name: generator_identity(made) for name, made in generators.items()},
    }
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


def choose_methods(names: str | None, available: set[str]) -> list[str]:
    """The methods to run, in the table's order. Raises ConfigError for an unknown one or one that lacks its generator."""
    runnable = [name for name in METHODS if name not in NEEDS_GENERATOR or name in available]
    if names is None:
        return runnable
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
        if name not in runnable:
            raise ConfigError(f"{name} needs a generator; give it with --paper-generator")
    return [name for name in METHODS if name in wanted]


def weights_hash(model: torch.nn.Module) -> str:
    """Short hash of all weights as half precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    return {
        "versions": {**versions, "python": platform.python_version()},
        "hardware": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }


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
