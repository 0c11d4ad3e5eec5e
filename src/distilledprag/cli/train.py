"""`dprag train`: run the training that a recipe describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from distilledprag.base.prepared import SCORER_FILE
from distilledprag.errors import ConfigError
from distilledprag.recipes import checked_recipe, recipe_values

_IN_MANY = ("reader", "distill", "compress")  # what several processes can train together
_SHARDED = ("distill", "compress")  # what they can train without each holding the whole base


class _Asked(BaseModel):
    """What is asked of a recipe of any task before it is checked."""

    training: Any = None


def run(file: Path, resume: bool, overrides: list[str] | None = None) -> None:
    """Train what the recipe's `task` says: a reader, a generator (`distill`), a compressor of states (`compress`), a sentence
    scorer (`scorer`), or a baseline (`prag`, `dyprag`).

    Started by torchrun, it trains in several processes; the baselines train in one. Raises ConfigError for an unknown task, for
    wrong keys and for a base that shall be sharded in a task that cannot.
    """
    from distilledprag.distillation.processes import joined

    values = recipe_values(file)
    with joined() as everyone:
        task = values.get("task", "distill")
        if everyone.count > 1 and task not in _IN_MANY:
            raise ConfigError(f"{file}: {task} trains in one process; start it without torchrun")
        training = checked_recipe(values, _Asked, str(file), overrides).training
        if task not in _SHARDED and isinstance(training, dict) and training.get("shard_base"):
            why = (
                "each step of a reader keeps the weights of all layers, LoRA added, until its end, so that sharing the base out "
                "would save no memory"
                if task == "reader"
                else f"{task} trains in one process, which has nobody to share the base with"
            )
            raise ConfigError(f"{file}: {why}; leave training.shard_base out, and take a base that fits the GPU")
        _train(task, values, file, resume, overrides, everyone.is_first)


def _train(task: str, values: dict[str, Any], file: Path, resume: bool, overrides: list[str] | None, tell: bool) -> None:
    """tell: say at the end where the result is."""
    if task == "reader":
        from distilledprag.base.default import original_base
        from distilledprag.base.llm import chosen_device
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
            say=print if tell else lambda text: None,
        )
        if tell:
            merge = f"dprag prepare-base BASE --reader {reader.output} --out DIR"
            Console().print(f"reader and masks are in {reader.output}; merge them: `{merge}`")
    elif task == "distill":
        from distilledprag.distillation.generator_training import train_generator
        from distilledprag.distillation.recipes import DistillRecipe

        distill = checked_recipe(values, DistillRecipe, str(file), overrides)
        scores = train_generator(distill, resume=resume)
        _report("generator", distill.output, scores, tell)
    elif task == "compress":
        from distilledprag.distillation.compressor_training import CompressRecipe, train_compressor

        compress = checked_recipe(values, CompressRecipe, str(file), overrides)
        scores = train_compressor(compress, resume=resume)
        _report("compressor", compress.output, scores, tell)
    elif task == "scorer":
        from distilledprag.distillation.scorer_training import ScorerRecipe, train_scorer

        scorer = checked_recipe(values, ScorerRecipe, str(file), overrides)
        _report("sentence scorer", scorer.output, train_scorer(scorer, resume=resume), tell)
        Console().print(f"copy {SCORER_FILE} from there into the folder `distilledprag` of the base and of its encoder")
    elif task == "prag":
        from distilledprag.baselines.prag import PragRecipe, train_prag

        prag = checked_recipe(values, PragRecipe, str(file), overrides)
        scores = train_prag(prag)
        Console().print(f"{scores['documents']:.0f} adapters are in {prag.output / 'adapters'}")
    elif task == "dyprag":
        from distilledprag.baselines.dyprag import DypragRecipe, train_dyprag

        dyprag = checked_recipe(values, DypragRecipe, str(file), overrides)
        scores = train_dyprag(dyprag, resume=resume)
        _report("translator", dyprag.output, scores, tell)
    else:
        raise ConfigError(f"{file}: unknown task {task!r}; choose from reader, distill, compress, scorer, prag, dyprag")


def _report(what: str, output: Path, scores: dict[str, Any], tell: bool) -> None:
    if not tell:
        return
    console = Console()
    console.print(f"{what} written to {output / 'model'}")
    for name, value in scores.items():
        console.print(f"  {name}: {value:.3f}")
