"""Train compressors, generators and the sentence scorer of the default base on one GPU, each for the same minutes
(docs/train-on-gpu.md).

    python scripts/train_generators.py --base FOLDER --data FOLDER --out FOLDER --minutes 4 compress
    python scripts/train_generators.py --out FOLDER --collect compress

The name is a recipe's (recipes/evidence: compress, compress-decoder, paper, paper-tuned; recipes: sentence-scorer). FOLDER of
--base: a served base. Some steps are timed first, then the number of steps is chosen that fits the minutes, so that the learning
rate has come down at the end; several of these may run side by side on one GPU, begun at the same time. What to bring back lies
in OUT/NAME: log.jsonl, config.json and the last checkpoint's weights in half precision; --collect puts it there for a run that
was stopped.

Dry run on a CPU: --minutes 0.5 --batch-size 2.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from distilledprag.distillation.compressor_training import CompressRecipe, train_compressor
from distilledprag.distillation.generator_training import train_generator
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.distillation.scorer_training import ScorerRecipe, train_scorer
from distilledprag.recipes import checked_recipe, merged, recipe_values

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TIMED = 4  # steps, of which the last half counts
FULL = 0.88  # of the minutes left are planned for steps; the rest is for validation, checkpoints and neighbours' noise
ON_GPU: dict[str, dict[str, Any]] = {
    "compress": {"data": {"batch_size": 16}, "training": {"learning_rate": 0.001}},
    "compress-decoder": {"data": {"batch_size": 16}, "training": {"learning_rate": 0.001}},
    "paper-tuned": {"data": {"batch_size": 16}},
}


def train(values: dict[str, Any], resume: bool = False) -> dict[str, float]:
    task = values.get("task")
    if task == "compress":
        return train_compressor(checked_recipe(values, CompressRecipe, "compress"), resume=resume, quiet=True)
    if task == "scorer":
        return train_scorer(checked_recipe(values, ScorerRecipe, "scorer"), resume=resume, quiet=True)
    return train_generator(checked_recipe(values, DistillRecipe, "distill"), resume=resume, quiet=True)


def seconds_a_step(values: dict[str, Any]) -> float:
    """Of the last steps of a short run that is thrown away."""
    of_scorer = values.get("task") == "scorer"
    data = {"contexts_per_file": 200, "held_out": 1} if of_scorer else {"validation_share": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        short = {"steps": TIMED, "evaluate_every": 10**6, "checkpoint_every": 10**6, "tensorboard": False}
        train(merged(values, {"output": folder + "/run", "training": short, "data": data}))
        log = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]
    size = values["data"]["batch_size"]
    later = [size / line["examples_per_second"] for line in log[TIMED // 2 :]]
    return sum(later) / len(later)


def collect(out: Path, name: str) -> None:
    """Put what to bring back of a run into `out`/`name`."""
    run, kept = out / f"{name}-run", out / name
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "log.jsonl", kept)
    (weights,) = (run / "model").glob("*.safetensors")
    (config,) = (run / "model").glob("*.json")
    shutil.copy(config, kept / "config.json")
    with safe_open(weights, "pt") as opened:
        metadata = opened.metadata()
    save_file({key: tensor.half() for key, tensor in load_file(weights).items()}, kept / "model.safetensors", metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a recipe")
    parser.add_argument("--base")
    parser.add_argument("--data", type=Path, help="folder of the training files that the recipes name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--collect", action="store_true")
    given = parser.parse_args()
    name = given.name
    if given.collect:
        collect(given.out, name)
        return
    if given.base is None or given.data is None or given.minutes is None:
        parser.error("to train, give --base, --data and --minutes")
    began = time.perf_counter()
    file = next(path for folder in ("evidence", ".") if (path := RECIPES / folder / f"{name}.yaml").is_file())
    values = merged(recipe_values(file), ON_GPU.get(name, {}))
    files = [str(given.data / Path(file).name) for file in values["data"]["files"]]
    data = {"files": files} | ({"batch_size": given.batch_size} if given.batch_size else {})
    values = merged(values, {"base": given.base, "output": str(given.out / f"{name}-run"), "data": data})
    each = seconds_a_step(values)
    left = given.minutes * 60 - (time.perf_counter() - began)
    steps = max(2, int(FULL * left / each))
    print(json.dumps({"name": name, "seconds_a_step": round(each, 4), "steps": steps}), flush=True)
    loop = {"steps": steps, "evaluate_every": steps, "checkpoint_every": max(2, steps // 4), "tensorboard": False}
    scores = train(merged(values, {"training": loop}))
    collect(given.out, name)
    print(json.dumps({"name": name, "minutes": round((time.perf_counter() - began) / 60, 2), **scores}), flush=True)


if __name__ == "__main__":
    main()
