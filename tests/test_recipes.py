"""Recipes: what they extend, what the command line overrides, and that every one in recipes/ is a whole recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from distilledprag.baselines.dyprag import DypragRecipe
from distilledprag.baselines.prag import PragRecipe
from distilledprag.distillation.compressor_training import CompressRecipe
from distilledprag.distillation.recipes import DistillRecipe, ReaderRecipe
from distilledprag.distillation.scorer_training import ScorerRecipe
from distilledprag.errors import ConfigError
from distilledprag.evaluation.recipe import EvaluationRecipe
from distilledprag.generators import build_generator
from distilledprag.recipes import read_recipe, recipe_values

RECIPES = Path(__file__).parents[1] / "recipes"
KINDS = {
    "reader": ReaderRecipe,
    "compress": CompressRecipe,
    "scorer": ScorerRecipe,
    "distill": DistillRecipe,
    "prag": PragRecipe,
    "dyprag": DypragRecipe,
    "evaluate": EvaluationRecipe,
}


class Run(BaseModel):
    model_config = ConfigDict(extra="forbid")
    output: str
    steps: int = 1
    part: dict = {}


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: file.relative_to(RECIPES).as_posix())
def test_every_recipe_is_whole(file):
    read_recipe(file, KINDS[recipe_values(file)["task"]])


def test_an_extended_recipe_is_merged_key_by_key(write):
    write("base.yaml", "output: a\nsteps: 2\npart: {a: 1, b: {c: 2, d: [1, 2]}}\n")
    write("middle.yaml", "extends: base.yaml\npart: {b: {d: [3]}}\n")
    file = write("sub/leaf.yaml", "extends: ../middle.yaml\noutput: b\npart: {e: null}\n")
    recipe = read_recipe(file, Run)
    assert recipe == Run(output="b", steps=2, part={"a": 1, "b": {"c": 2, "d": [3]}, "e": None})


def test_overrides_are_the_last_word(write):
    write("base.yaml", "output: a\npart: {a: 1}\n")
    file = write("leaf.yaml", "extends: base.yaml\nsteps: 2\n")
    recipe = read_recipe(file, Run, ["steps=5", "part.b.c=[x, y]", "part.a=null"])
    assert recipe == Run(output="a", steps=5, part={"a": None, "b": {"c": ["x", "y"]}})


@pytest.mark.parametrize("override, message", [
    ("steps", "write key=value"),
    ("=3", "write key=value"),
    ("output.x=1", "output holds no keys"),
    ("part=[", "not YAML"),
    ("step=1", "step"),
])  # fmt: skip
def test_a_wrong_override_is_named(write, override, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write("run.yaml", "output: a\n"), Run, [override])


@pytest.mark.parametrize("text, message", [
    ("extends: run.yaml\n", "extends itself"),
    ("extends: [a.yaml]\n", "must name one recipe file"),
    ("extends: none.yaml\n", "none.yaml does not exist"),
    ("- output\n", "must hold keys and values"),
    ("output: [\n", "not YAML"),
    ("output: a\nstep: 1\n", "step"),
])  # fmt: skip
def test_what_is_no_recipe_is_named(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write("run.yaml", text), Run)


def test_paper_recipe_is_the_papers_training():
    recipe = read_recipe(RECIPES / "paper.yaml", DistillRecipe)
    training, losses = recipe.training, recipe.losses
    assert (training.optimizer, training.learning_rate, training.betas) == ("adamw", 1e-4, (0.9, 0.999))
    assert (training.schedule, training.warmup_ratio, training.max_grad_norm) == ("polynomial", 0.1, None)
    assert (recipe.data.batch_size, recipe.data.questions_per_context) == (4, 1)
    assert training.steps == -(-289_079 // 4)  # one epoch
    assert (losses.cosine_weight, losses.kl_weight, losses.temperature, losses.cosine_positions) == (0.5, 0.1, 2.0, "all")


GENERATORS = [file for file in sorted(RECIPES.glob("*.yaml")) if recipe_values(file)["task"] == "distill"]
SMALL = {"encoder": "base", "heads": 4, "projector_hidden": 16, "feed_forward": 16}


@pytest.mark.parametrize("file", GENERATORS, ids=lambda file: file.stem)
def test_a_generator_recipe_adapts_every_layer_of_its_base(file, tiny_base):
    recipe = read_recipe(file, DistillRecipe)
    generator = build_generator({**recipe.generator, **SMALL}, tiny_base)
    adapters = generator(generator.encode(tiny_base, [["Anna Tovberg lives in Oakport."]]))
    assert adapters.scaling == recipe.generator["alpha"] / recipe.generator["rank"]
    assert {int(key.split(".")[1]) for key in adapters.modules} == {0, 1, 2}
