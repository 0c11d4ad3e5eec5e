"""`dprag prepare-base`, `dprag path` and `dprag info`: bases and checkpoints on disk.

What needs torch is imported only where a model or an adapter is read or written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distilledprag.base.default import default_base
from distilledprag.base.prepared import encoder_folder
from distilledprag.errors import CheckpointError, ConfigError, InputError


def prepare(
    base: str | None, out: Path | None, masks: int, layer: int | None, plain_layer: int | None, reader: Path | None
) -> None:
    """`dprag prepare-base`: prints the two folders. Raises InputError for a folder that holds something else already."""
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
        from distilledprag.base.prepare import prepare_base

        with console.status(f"preparing {base}"):
            record = prepare_base(
                base, out, weights=reader, count=masks, layer=layer, plain_layer=plain_layer, progress=console.print
            )
        console.print(f"states are written after layer {record.layer}, PEFT adapters change layer {record.plain_layer}")
        folder = out
    print(folder.resolve())
    print(encoder_folder(folder).resolve())


def show_path(what: str) -> None:
    """`dprag path`: prints a folder of the default base. Raises ConfigError for a part that there is not."""
    if what not in ("base", "encoder", "generator"):
        raise ConfigError(f"there is no part {what!r}; choose base, encoder or generator")
    folder = default_base(Console(stderr=True).print)
    print((folder if what == "base" else encoder_folder(folder)).resolve())


def info(folder: Path) -> None:
    """`dprag info`: prints what a folder holds. Raises CheckpointError for one that holds nothing of ours."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give an adapter, generator, base or run folder")
    kind, rows = describe(folder)
    table = Table("", kind, title=escape(str(folder)), title_justify="left")
    for name, value in rows.items():
        table.add_row(escape(name), escape(str(value)))
    Console().print(table)


def describe(folder: Path) -> tuple[str, dict[str, object]]:
    """What kind of checkpoint `folder` is, and its facts."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if (folder / "adapter_config.json").exists():
        from distilledprag.lora.weights import LoraWeights

        weights = LoraWeights.from_pretrained(folder)
        shapes = {key.split(".", 2)[2]: f"{tuple(p.a.shape)}, {tuple(p.b.shape)}" for key, p in weights.modules.items()}
        facts = {"rank": weights.rank, "alpha": weights.alpha, "modules": len(weights.modules), **shapes}
        return "adapter", {**facts, **weights.base.to_dict(), "generator": weights.generator, "bytes": size}
    if (folder / "config.json").exists():
        values = _config(folder / "config.json")
        if "architecture" in values and "settings" in values:
            return "generator", {**_generator_facts(folder), "bytes": size}
        from distilledprag.base.llm import load_base

        base = load_base(folder)
        shape = {key: values.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")}
        return "base model", {**shape, "mask token": base.mask_token_id, **base.identity.to_dict(), "bytes": size}
    if (folder / "log.jsonl").exists():
        from distilledprag.journal import read_journal

        records = list(read_journal(folder / "log.jsonl"))
        return "training run", {"steps logged": len(records), **(records[-1] if records else {}), "bytes": size}
    raise CheckpointError(f"{folder} holds no adapter, generator, base model or run; check the path")


def _config(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON in UTF-8 ({error}); copy the checkpoint again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} must hold keys and values; copy the checkpoint again")
    return values


def _generator_facts(folder: Path) -> dict[str, object]:
    """Settings, base and size of a generator, all of it read as an answer would need it (but for the base itself)."""
    from distilledprag.generators.interface import checked_settings, read_config, read_weights
    from distilledprag.lora.identity import BaseIdentity

    config = read_config(folder)
    settings, base = checked_settings(config["settings"]), BaseIdentity.from_dict(config["base"])
    parameters = sum(tensor.numel() for tensor in read_weights(folder).values())
    return {**settings.model_dump(mode="json"), **base.to_dict(), "parameters": parameters}
