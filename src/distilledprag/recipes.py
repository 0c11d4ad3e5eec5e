"""Recipes: one YAML file says everything about a training or an evaluation run.

    extends: paper.yaml          # another recipe, relative to this one: its keys, where this file does not set them
    training: {steps: 100}       # mappings are merged key by key, everything else replaces

On the command line `--set training.steps=50` overrides a key, the value written as in YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from distilledprag.errors import ConfigError

Recipe = TypeVar("Recipe", bound=BaseModel)
Dtype = Literal["float32", "bfloat16", "float16"]


def read_recipe(file: Path, kind: type[Recipe], overrides: Sequence[str] | None = None) -> Recipe:
    """A recipe, checked. overrides: `key=value` or `part.key=value`, values as in YAML.

    Raises ConfigError for a file that cannot be read, and naming every unknown or wrong key.
    """
    return checked_recipe(recipe_values(file), kind, str(file), overrides)


def checked_recipe(values: dict[str, Any], kind: type[Recipe], origin: str, overrides: Sequence[str] | None = None) -> Recipe:
    """A recipe made of `values`. origin: where they are from, for the message. overrides: as in `read_recipe`.

    Raises ConfigError naming every unknown or wrong key.
    """
    for override in overrides or ():
        _set(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{origin}: {error.error_count()} problem(s):\n{problems}") from error


def recipe_values(file: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Keys and values of a recipe, what it extends included, unchecked. extending: the recipes that lead to this one.

    Raises ConfigError for what is no recipe.
    """
    if file.resolve() in extending:
        raise ConfigError(f"{file} extends itself: {' -> '.join(path.name for path in (*extending, file))}")
    values = _read(file)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"{file}: extends must name one recipe file; got {parent!r}")
    return merged(recipe_values(file.parent / parent, (*extending, file.resolve())), values)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; recipes are in the folder recipes/")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold keys and values, such as `output: runs/mine`")
    return values


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings are merged key by key, everything else (lists too) is replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: write key=value, such as training.minutes=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML") from error
    *parts, last = key.strip().split(".")
    place = values
    for part in parts:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override!r}: {part} holds no keys")
    place[last] = value
