"""`dprag train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console

from distilledprag.errors import ConfigError

Recipe = TypeVar("Recipe", bound=BaseModel)


def read_recipe(file: Path, kind: type[Recipe], overrides: list[str] | None = None) -> Recipe:
    """A YAML recipe, checked. overrides: `key=value` or `part.key=value`, values as in YAML.

    Raises ConfigError naming every unknown or wrong key.
    """
    if not file.exists():
        raise ConfigError(f"{file} does not exist; recipes are in the folder recipes/")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold keys and values, such as `output: runs/mine`")
    return checked_recipe(values, kind, str(file), overrides)


def checked_recipe(values: dict[str, Any], kind: type[Recipe], origin: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe made of `values`, checked. origin: where they are from, for the message. overrides: as in `read_recipe`.

    Raises ConfigError naming every unknown or wrong key.
    """
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r}: write key=value, such as training.minutes=5")
        *parts, last = key.strip().split(".")
        place = values
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {override!r}: {part} holds no keys")
        place[last] = yaml.safe_load(value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{origin}: {error.error_count()} problem(s):\n{problems}") from error


def _report(what: str, output: Path, scores: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{what} written to {output / 'model'}")
    for name, value in scores.items():
        console.print(f"  {name}: {value:.3f}")


def run(file: Path, resume: bool, overrides: list[str] | None = None) -> None:
    """Train what the recipe's `task` says: a reader, a generator (`distill`), or a baseline (`prag`, `dyprag`)."""
    from distilledprag.baselines.recipes import DypragRecipe, PragRecipe
    from distilledprag.baselines.training import train_dyprag, train_prag
    from distilledprag.distillation.distill import DistillRecipe, train_generator

    task = task_of(file)
    if task == "reader":
        from distilledprag.distillation.recipe import ReaderRecipe, train

        reader = read_recipe(file, ReaderRecipe, overrides)
        train(reader, resume=resume)
        Console().print(
            f"reader and masks are in {reader.output}; merge them: `dprag prepare-base BASE --reader {reader.output} --out DIR`"
        )
    elif task == "prag":
        prag = read_recipe(file, PragRecipe, overrides)
        scores = train_prag(prag)
        Console().print(f"{scores['documents']:.0f} adapters are in {prag.output / 'adapters'}")
    elif task == "dyprag":
        dyprag = read_recipe(file, DypragRecipe, overrides)
        _report("translator", dyprag.output, train_dyprag(dyprag, resume=resume))
    else:
        recipe = read_recipe(file, DistillRecipe, overrides)
        _report("generator", recipe.output, train_generator(recipe, resume=resume))


def task_of(file: Path) -> str:
    """The recipe's `task`; "" where it cannot be read (which `read_recipe` then explains)."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return ""
    return str(values.get("task", "")) if isinstance(values, dict) else ""
