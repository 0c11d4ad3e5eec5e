"""Every recipe parses, and builds at a tiny random size over a base with as many layers as its own."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml

from distilledprag.base_model import install_mask, load_base, save_base
from distilledprag.bundled import bundled_base
from distilledprag.commands.train import read_recipe
from distilledprag.generator import build_generator
from distilledprag.training.base_lm import BaseModelSettings, BaseRecipe, BaseTask, build_base
from distilledprag.training.distill import DistillRecipe, WorldSource
from distilledprag.training.tokenizer import train_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("ablations/*.yaml")])
BASES = [file for file in FILES if yaml.safe_load(file.read_text())["task"] == "base"]
GENERATORS = [file for file in FILES if file not in BASES]
SMALL = {
    "per_rank": {"width": 16, "heads": 2},
    "paper": {"encoder": "base", "heads": 4, "projector_hidden": 16, "feed_forward": 16},
}


def name(file):
    return str(file.relative_to(RECIPES))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocabulary=4096, context=2048)


@pytest.fixture(scope="module")
def base_of_layers(tokenizer, tmp_path_factory):
    """`base_of_layers(n)`: a tiny random base with n layers."""
    made = {}

    def make(layers):
        if layers not in made:
            model = build_base(BaseModelSettings(hidden=32, intermediate=48, layers=layers, heads=4), tokenizer, 0)
            with_mask = copy.deepcopy(tokenizer)
            install_mask(model, with_mask)
            folder = tmp_path_factory.mktemp("base") / str(layers)
            save_base(model, with_mask, folder)
            made[layers] = load_base(folder, dtype=torch.float32)
        return made[layers]

    return make


def layers_of_base(recipe):
    """Layers of the base that a recipe names: the bundled one, one of our base recipes, or (None) one that is not here."""
    if recipe.base is None:
        return json.loads((bundled_base() / "config.json").read_text())["num_hidden_layers"]
    base = RECIPES / f"{Path(recipe.base).parent.name}.yaml"
    return read_recipe(base, BaseRecipe).model.layers if base.exists() else None


@pytest.mark.parametrize("file", GENERATORS, ids=name)
def test_a_generator_recipe_adapts_layers_that_its_base_has(file, base_of_layers):
    recipe = read_recipe(file, DistillRecipe)
    layers = layers_of_base(recipe)
    memories = recipe.generator.get("memories")
    assert layers or not memories, "a recipe that names layers must name a base whose layers are known here"
    base = base_of_layers(layers or 3)
    generator = build_generator({**recipe.generator, **SMALL[recipe.generator["architecture"]]}, base)
    adapters = generator(generator.encode(base, [["Anna Tovberg lives in Oakport."]]))
    assert adapters.scaling == recipe.generator["alpha"] / recipe.generator["rank"]
    adapted = {int(key.split(".")[1]) for key in adapters.modules}
    assert adapted == ({memory["layer"] for memory in memories} if memories else set(range(layers or 3)))
    if isinstance(recipe.data, WorldSource):
        assert {count for phase in recipe.data.phases for count in phase.documents} <= recipe.data.rows.keys()
        assert recipe.data.phases[-1].until == 1.0


@pytest.mark.parametrize("file", BASES, ids=name)
def test_a_base_recipe_builds_and_learns_from_its_first_and_last_phase(file, tokenizer):
    recipe = read_recipe(file, BaseRecipe)
    recipe.model = recipe.model.model_copy(update={"hidden": 16 * recipe.model.heads, "intermediate": 32})
    recipe.data.rows = dict.fromkeys(recipe.data.rows, 1)
    recipe.validation = 1
    model = build_base(recipe.model, tokenizer, recipe.training.seed)
    assert model.config.num_hidden_layers == recipe.model.layers
    task = BaseTask(model, tokenizer, recipe)
    assert recipe.data.phases[-1].until == 1.0
    last = recipe.training.steps * recipe.training.accumulation - 1
    for number in (0, next(number for number in range(last, 0, -1) if not task.data.is_copy(number))):
        loss = task.losses(task.batch(number), model, 1)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters() if p.grad is not None)
