"""Started by torchrun: trains recipes one after the other on a base that the processes share; says how much of it each holds, and
when each had its turn of a block that they do in turns.

python -m torch.distributed.run --nproc-per-node 2 train_sharded.py FOLDER, which has recipes.json (a list of recipes)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from distilledprag.distillation.compressor_training import CompressRecipe, train_compressor
from distilledprag.distillation.generator_training import train_generator
from distilledprag.distillation.processes import joined
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.distillation.sharded_base import held_in_layers, load_for_training

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    recipes = json.loads((folder / "recipes.json").read_text())
    with joined() as everyone:
        options = {"dtype": torch.float32, "seed": 0, "quiet": True}
        base, _ = load_for_training(recipes[0]["base"], lambda base: torch.nn.Linear(1, 1), shard=True, **options)
        (folder / f"held-{everyone.rank}.json").write_text(json.dumps(held_in_layers(base.model)))
        with everyone.in_turns():
            began = time.time()
            time.sleep(0.2)
            (folder / f"turn-{everyone.rank}.json").write_text(json.dumps([began, time.time()]))
        for recipe in recipes:
            if recipe["task"] == "distill":
                train_generator(DistillRecipe(**recipe), quiet=True)
            else:
                train_compressor(CompressRecipe(**recipe), quiet=True)
