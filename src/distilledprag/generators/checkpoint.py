"""The files of a generator checkpoint: `config.json` (settings, base identity, encoder) and `model.safetensors`.

Reading and writing only; `interface.load_generator` makes a generator of what is read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilledprag.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write_checkpoint(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files into an existing folder. weights: contiguous, on the CPU."""
    save_file(dict(weights), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def find_checkpoint(path_or_id: str | Path, **hub_options: Any) -> Path:
    """The folder of a checkpoint: `path_or_id` itself, or where the Hub's copy lies. Raises CheckpointError for neither."""
    path = Path(path_or_id)
    if path.exists():
        return path
    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=[CONFIG, WEIGHTS], **hub_options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"no generator at {path_or_id}: neither a folder nor a hub id that can be reached") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a generator checkpoint. Raises CheckpointError when there is none or it describes something else."""
    file = folder / CONFIG
    if not file.exists():
        raise CheckpointError(f"{folder} is not a generator checkpoint: it has no {CONFIG}; pass the folder that training wrote")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(config["settings"], dict) and isinstance(config["base"], dict) and "architecture" in config):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} does not describe a generator; pass the `model` folder of a training run") from error
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a generator checkpoint. Raises CheckpointError when they are missing, damaged or not finite."""
    file = folder / WEIGHTS
    if not file.exists():
        raise CheckpointError(f"{file} is missing; the checkpoint is incomplete, copy it again")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); it is truncated or damaged, copy it again") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {name} has values that are not finite; use another checkpoint")
    return weights


def require_fitting(folder: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless the weights have the names and shapes that the settings make."""
    if weights.keys() != wanted.keys():
        difference = sorted(weights.keys() ^ wanted.keys())[:3]
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its config: {', '.join(difference)}; restore both files together")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name} has shape {tuple(tensor.shape)}, its config makes {tuple(wanted[name].shape)}"
            )
