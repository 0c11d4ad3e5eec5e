"""The record families of the world, read from the YAML files beside this module.

Each attribute has statements (`say`), questions (`ask`) and held-out ones of both, which only the held-out splits use.
Place holders: {s} subject, {p} possessive, {o} object, {v} value, {n} the entity in a question, {x}/{y} the compared.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict


class Attribute(BaseModel):
    """One thing that a record says about its entity."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: str
    noun: str
    say: tuple[str, ...]
    say_held_out: tuple[str, ...]
    ask: tuple[str, ...]
    ask_held_out: tuple[str, ...]
    relation: str | None = None
    describe: str | None = None
    compare: dict[str, str] | None = None


class Family(BaseModel):
    """A kind of record: how its entities are named and what can be said of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    name: str
    titles: tuple[str, ...]
    nouns: tuple[str, ...]
    fillers: tuple[str, ...]
    attributes: dict[str, Attribute]
    held_out: bool = False

    def having(self, feature: str) -> list[str]:
        """Keys of the attributes that have `feature` ("relation", "describe" or "compare")."""
        return [key for key, attribute in self.attributes.items() if getattr(attribute, feature)]


@functools.cache
def world_fingerprint() -> str:
    """Hash (12 hex digits) of everything that the record world is made of: its word lists, templates and code. Two
    numbers measured under one fingerprint, split and seed were measured on the same questions."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.py"), *folder.glob("families/*.yaml")]):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def families() -> dict[str, Family]:
    """All families by key, in alphabetical order."""
    folder = Path(__file__).parent / "families"
    return {file.stem: Family(key=file.stem, **yaml.safe_load(file.read_text())) for file in sorted(folder.glob("*.yaml"))}
