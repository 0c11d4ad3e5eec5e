"""`dprag encode`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from distilledprag.commands.ask import load_with_progress
from distilledprag.pipeline import DistilledPRAG


def run(files: list[Path], out: Path, base: str | None, generator: str | None) -> None:
    console = Console()
    passages = load_with_progress(files, console)
    prag = DistilledPRAG.from_pretrained(base, generator)
    with console.status(f"encoding {len(passages)} passages"):
        weights = prag.encode([passage.text for passage in passages])
    weights.save_pretrained(out)
    console.print(
        f"{out}: LoRA of rank {weights.rank} for {len(weights.modules)} modules, {weights.nbytes:,} bytes, "
        f"from {len(passages)} passages of {len(files)} file(s)"
    )
