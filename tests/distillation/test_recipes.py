"""Every recipe of a generator builds at a tiny random size."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.generators import build_generator
from distilledprag.recipes import read_recipe, recipe_values

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = [file for file in sorted(RECIPES.glob("*.yaml")) if recipe_values(file)["task"] == "distill"]
SMALL = {"encoder": "base", "heads": 4, "projector_hidden": 16, "feed_forward": 16}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_generator_recipe_adapts_every_layer_of_its_base(file, tiny_base):
    recipe = read_recipe(file, DistillRecipe)
    generator = build_generator({**recipe.generator, **SMALL}, tiny_base)
    adapters = generator(generator.encode(tiny_base, [["Anna Tovberg lives in Oakport."]]))
    assert adapters.scaling == recipe.generator["alpha"] / recipe.generator["rank"]
    assert {int(key.split(".")[1]) for key in adapters.modules} == {0, 1, 2}
