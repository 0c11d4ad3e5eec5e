"""`dprag install-mask`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from distilledprag.base.llm import install_mask, load_unmasked_base, save_base
from distilledprag.errors import InputError


def run(base: str, out: Path, seed: int) -> None:
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; choose a new folder")
    console = Console()
    with console.status(f"loading {base}"):
        model, tokenizer = load_unmasked_base(base)
    token = install_mask(model, tokenizer, seed=seed)
    save_base(model, tokenizer, out)
    console.print(f"{out}: mask token {tokenizer.convert_ids_to_tokens(token)} is id {token}")
