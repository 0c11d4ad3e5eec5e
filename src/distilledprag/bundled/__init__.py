"""The small base LM and generator that ship with the package, and rivals of the generator (see MODEL_CARD.md)."""

from __future__ import annotations

from pathlib import Path

from distilledprag.errors import CheckpointError

RIVALS = {"distilled_paper": "rivals/paper", "dyprag": "rivals/dyprag"}


def _folder(name: str) -> Path:
    folder = Path(__file__).parent / name
    if not (folder / "model.safetensors").exists():
        raise CheckpointError(f"the bundled {name} is missing from this installation; train it with `make train-bundled`")
    return folder


def bundled_base() -> Path:
    """Absolute folder of the bundled base LM, mask token installed."""
    return _folder("base")


def bundled_generator() -> Path:
    """Absolute folder of the bundled generator."""
    return _folder("generator")


def bundled_generators() -> dict[str, Path]:
    """Folder of every bundled generator for the bundled base, by the name of its method: ours, and those to compare with."""
    return {"distilled_per_rank": bundled_generator(), **{name: _folder(part) for name, part in RIVALS.items()}}
