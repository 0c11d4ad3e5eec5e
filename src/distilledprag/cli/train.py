"""`dprag train`: run the training that a recipe describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from distilledprag.base.prepared import SCORER_FILE
from distilledprag.errors import ConfigError
from distilledprag.recipes import checked_recipe, recipe_values


def run(file: Path, resume: bool, overrides: list[str] | None = None) -> None:
    """Train what the recipe's `task` says: a reader, a generator (`distill`), a compressor of states (`compress`), a sentence
    scorer (`scorer`), or a baseline (`prag`, `dyprag`).

    Raises ConfigError for an unknown task and for wrong keys.
    """
    values = recipe_values(file)
    task = values.get("task", "distill")
    if task == "reader":
        from distilledprag.base.default import original_base
        from distilledprag.device import chosen_device
        from distilledprag.distillation.reader_training import train_reader
        from distilledprag.distillation.recipes import ReaderRecipe

        reader = checked_recipe(values, ReaderRecipe, str(file), overrides)
        train_reader(
            reader.base or original_base(print),
            reader.data,
            reader.output,
            reader.training,
            device=chosen_device(reader.device),
            start_from=reader.start_from,
            resume=resume,
        )
        Console().print(
            f"reader and masks are in {reader.output}; merge them: `dprag prepare-base BASE --reader {reader.output} --out DIR`"
        )
    elif task == "distill":
        from distilledprag.distillation.generator_training import train_generator
        from distilledprag.distillation.recipes import DistillRecipe

        distill = checked_recipe(values, DistillRecipe, str(file), overrides)
        _report("generator", distill.output, train_generator(distill, resume=resume))
    elif task == "compress":
        from distilledprag.distillation.compressor_training import CompressRecipe, train_compressor

        compress = checked_recipe(values, CompressRecipe, str(file), overrides)
        _report("compressor", compress.output, train_compressor(compress, resume=resume))
    elif task == "scorer":
        from distilledprag.distillation.scorer_training import ScorerRecipe, train_scorer

        scorer = checked_recipe(values, ScorerRecipe, str(file), overrides)
        _report("sentence scorer", scorer.output, train_scorer(scorer, resume=resume))
        Console().print(f"copy {SCORER_FILE} from there into the folders of the base and of its encoder")
    elif task == "prag":
        from distilledprag.baselines.prag_adapters import PragRecipe, train_prag

        prag = checked_recipe(values, PragRecipe, str(file), overrides)
        scores = train_prag(prag)
        Console().print(f"{scores['documents']:.0f} adapters are in {prag.output / 'adapters'}")
    elif task == "dyprag":
        from distilledprag.baselines.dyprag import DypragRecipe, train_dyprag

        dyprag = checked_recipe(values, DypragRecipe, str(file), overrides)
        _report("translator", dyprag.output, train_dyprag(dyprag, resume=resume))
    else:
        raise ConfigError(f"{file}: unknown task {task!r}; choose from reader, distill, compress, scorer, prag, dyprag")


def _report(what: str, output: Path, scores: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{what} written to {output / 'model'}")
    for name, value in scores.items():
        console.print(f"  {name}: {value:.3f}")
