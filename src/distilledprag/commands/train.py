"""`dprag train-base` and `dprag train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console

from distilledprag.errors import ConfigError

Recipe = TypeVar("Recipe", bound=BaseModel)


def read_recipe(file: Path, kind: type[Recipe]) -> Recipe:
    """A YAML recipe, checked. Raises ConfigError naming every unknown or wrong key."""
    if not file.exists():
        raise ConfigError(f"{file} does not exist; recipes are in the folder recipes/")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold keys and values, such as `output: runs/mine`")
    try:
        return kind(**values)
    except ValidationError as error:
        problems = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{file} has {error.error_count()} problem(s):\n{problems}") from error


def _report(what: str, output: Path, scores: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{what} written to {output / 'model'}")
    for name, value in scores.items():
        console.print(f"  {name}: {value:.3f}")


def run_base(file: Path, resume: bool) -> None:
    from distilledprag.training.base_lm import BaseRecipe, train_base

    recipe = read_recipe(file, BaseRecipe)
    _report("base model", recipe.output, train_base(recipe, resume=resume))


def run(file: Path, resume: bool) -> None:
    from distilledprag.training.distill import DistillRecipe, train_generator

    recipe = read_recipe(file, DistillRecipe)
    _report("generator", recipe.output, train_generator(recipe, resume=resume))
