"""`dprag prepare-base` and `dprag path`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from distilledprag.base.default import default_base
from distilledprag.base.prepare import encoder_folder, prepare_base
from distilledprag.errors import ConfigError, InputError


def run(base: str | None, out: Path | None, masks: int, layer: int | None, plain_layer: int | None, reader: Path | None) -> None:
    """Prints the two folders. Raises InputError for a folder that holds something else already."""
    console = Console(stderr=True)
    if base is None and out is None:
        if layer is not None or plain_layer is not None or reader or masks != 512:
            raise ConfigError("the default base is as it was trained; to prepare one of your own, name it and give --out DIR")
        folder = default_base(console.print)
    else:
        if base is None or out is None:
            raise ConfigError("name the LLM and give --out DIR (or neither, for the default base)")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} is not empty; choose a new folder")
        with console.status(f"preparing {base}"):
            record = prepare_base(
                base, out, weights=reader, count=masks, layer=layer, plain_layer=plain_layer, progress=console.print
            )
        console.print(f"states are written after layer {record.layer}, PEFT adapters change layer {record.plain_layer}")
        folder = out
    print(folder.resolve())
    print(encoder_folder(folder).resolve())


def show_path(what: str) -> None:
    if what not in ("base", "encoder", "generator"):
        raise ConfigError(f"there is no part {what!r}; choose base, encoder or generator")
    folder = default_base(Console(stderr=True).print)
    print((folder if what == "base" else encoder_folder(folder)).resolve())
