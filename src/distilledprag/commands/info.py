"""`dprag info` and `dprag bundled-path`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distilledprag.bundled import bundled_base, bundled_generator
from distilledprag.errors import CheckpointError, ConfigError


def bundled_path(part: str) -> None:
    folders = {"base": bundled_base, "generator": bundled_generator}
    if part not in folders:
        raise ConfigError(f"there is no bundled {part!r}; ask for base or generator")
    print(folders[part]().resolve())


def run(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give an adapter, generator, base or run folder")
    kind, rows = describe(folder)
    table = Table("", kind, title=str(folder), title_justify="left")
    for name, value in rows.items():
        table.add_row(name, str(value))
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
    config = folder / "config.json"
    if config.exists():
        values = json.loads(config.read_text())
        if "architecture" in values and "settings" in values:
            return "generator", {
                **values["settings"],
                **values["base"],
                "parameters": values["parameters"],
                "bytes": size,
            }
        from distilledprag.base_model import load_base

        base = load_base(folder)
        shape = {key: values.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")}
        return "base model", {**shape, "mask token": base.mask_token_id, **base.identity.to_dict(), "bytes": size}
    if (folder / "log.jsonl").exists():
        lines = (folder / "log.jsonl").read_text().splitlines()
        last = json.loads(lines[-1]) if lines else {}
        return "training run", {"steps logged": len(lines), **last, "bytes": size}
    raise CheckpointError(f"{folder} holds no adapter, generator, base model or run; check the path")
