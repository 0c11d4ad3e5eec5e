"""Train compressors and generators of the default base on one GPU, each for the same minutes (see docs/train-on-gpu.md).

    python scripts/train_generators.py --base FOLDER --data FOLDER --out FOLDER --minutes 4 compress paper-tuned

The names are recipes of recipes/evidence (compress, paper, paper-tuned). FOLDER of --base: a served base. A few steps are timed
first, then the number of steps is chosen that fits the minutes, so that the learning rate has come down at the end. What to bring
back lies in OUT/NAME: log.jsonl and the checkpoint's two files, its weights in half precision.

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

from safetensors.torch import load_file, save_file

from distilledprag.distillation.compressor_training import CompressRecipe, train_compressor
from distilledprag.distillation.generator_training import train_generator
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.recipes import checked_recipe, merged, recipe_values

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "evidence"
TIMED = 12  # steps, of which the last half counts
ON_GPU: dict[str, dict[str, Any]] = {
    "compress": {"data": {"batch_size": 24}, "training": {"learning_rate": 0.001}},
    "paper-tuned": {"data": {"batch_size": 16}},
}


def train(values: dict[str, Any], resume: bool = False) -> dict[str, float]:
    if values.get("task") == "compress":
        return train_compressor(checked_recipe(values, CompressRecipe, "compress"), resume=resume, quiet=True)
    return train_generator(checked_recipe(values, DistillRecipe, "distill"), resume=resume, quiet=True)


def seconds_a_step(values: dict[str, Any]) -> float:
    """Of the last steps of a short run that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        short = {"steps": TIMED, "evaluate_every": 10**6, "checkpoint_every": 10**6, "tensorboard": False}
        train(merged(values, {"output": folder + "/run", "training": short, "data": {"validation_share": 0.0}}))
        log = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]
    size = values["data"]["batch_size"]
    later = [size / line["examples_per_second"] for line in log[TIMED // 2 :]]
    return sum(later) / len(later)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="recipes of recipes/evidence")
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the training files that the recipes name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="for each of the names")
    parser.add_argument("--batch-size", type=int)
    given = parser.parse_args()
    for name in given.names:
        values = merged(recipe_values(RECIPES / f"{name}.yaml"), ON_GPU.get(name, {}))
        files = [str(given.data / Path(file).name) for file in values["data"]["files"]]
        data = {"files": files} | ({"batch_size": given.batch_size} if given.batch_size else {})
        values = merged(values, {"base": given.base, "output": str(given.out / f"{name}-run"), "data": data})
        began = time.perf_counter()
        each = seconds_a_step(values)
        left = given.minutes * 60 - (time.perf_counter() - began)
        steps = max(2, int(0.92 * left / each))  # the rest is for validation and checkpoints
        print(json.dumps({"name": name, "seconds_a_step": round(each, 4), "steps": steps}), flush=True)
        loop = {"steps": steps, "evaluate_every": steps, "checkpoint_every": max(2, steps // 3), "tensorboard": False}
        scores = train(merged(values, {"training": loop}))
        run, kept = given.out / f"{name}-run", given.out / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in (run / "log.jsonl", run / "model" / "config.json"):
            shutil.copy(file, kept)
        weights = load_file(run / "model" / "model.safetensors")
        save_file({key: tensor.half() for key, tensor in weights.items()}, kept / "model.safetensors", {"format": "pt"})
        print(json.dumps({"name": name, "minutes": round((time.perf_counter() - began) / 60, 2), **scores}), flush=True)


if __name__ == "__main__":
    main()
