"""The record world: seeded, endless business records in plain English, with questions of the benchmark kinds."""

from distilledprag.synthesis.world.examples import (
    FEWEST_DOCUMENTS,
    KINDS,
    SPLITS,
    Example,
    Kind,
    Question,
    Split,
    World,
)
from distilledprag.synthesis.world.families import world_fingerprint
from distilledprag.synthesis.world.records import Style

__all__ = [
    "FEWEST_DOCUMENTS",
    "KINDS",
    "SPLITS",
    "Example",
    "Kind",
    "Question",
    "Split",
    "Style",
    "World",
    "world_fingerprint",
]
