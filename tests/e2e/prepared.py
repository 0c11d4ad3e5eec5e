"""The tiny base as `dprag prepare-base` makes it: what engine and gateway are given where they run as processes."""

from __future__ import annotations

from pathlib import Path

from tiny import tiny_model, tiny_tokenizer

from distilledprag.base.llm import save_base
from distilledprag.base.prepare import prepare_base


def prepared(folder: Path, layer: int = 1) -> Path:
    """A prepared base with random weights in `folder / "base"`; its state adapters are of `layer`."""
    tokenizer = tiny_tokenizer()
    save_base(tiny_model(tokenizer), tokenizer, folder / "original")
    prepare_base(folder / "original", folder / "base", count=4, layer=layer, plain_layer=layer, steps=1)
    return folder / "base"
