"""`dprag info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distilledprag.errors import CheckpointError


def run(folder: Path) -> None:
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
    from distilledprag.generators.checkpoint import read_config, read_weights
    from distilledprag.generators.interface import checked_settings
    from distilledprag.lora.identity import BaseIdentity

    config = read_config(folder)
    settings, base = checked_settings(config["settings"]), BaseIdentity.from_dict(config["base"])
    parameters = sum(tensor.numel() for tensor in read_weights(folder).values())
    return {**settings.model_dump(mode="json"), **base.to_dict(), "parameters": parameters}
