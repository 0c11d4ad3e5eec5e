"""`dprag ship`: half-precision copies of a base, its generator and rivals of that for the package."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from distilledprag import bundled
from distilledprag.base_model import load_base, save_base
from distilledprag.generator import generator_identity, load_generator


def run(base: Path, generator: Path, out: Path | None, rivals: list[Path]) -> None:
    folder = out or Path(bundled.__file__).parent
    loaded = load_base(base, dtype=torch.float16)
    save_base(loaded.model, loaded.tokenizer, folder / "base")
    half = load_base(folder / "base", dtype=torch.float32)
    load_generator(generator, half).save_pretrained(folder / "generator", dtype=torch.float16)
    for rival in rivals:
        made = load_generator(rival, half)
        made.save_pretrained(folder / "rivals" / made.settings.architecture, dtype=torch.float16)
    size = sum(file.stat().st_size for part in ("base", "generator", "rivals") for file in (folder / part).rglob("*"))
    Console().print(f"{folder}: {generator_identity(load_generator(folder / 'generator', half))}, {size:,} bytes")
