"""A trained reader on disk (a document-independent LoRA on the base's linear modules), and its merge into the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from distilledprag.base.architecture import backbone
from distilledprag.errors import CheckpointError
from distilledprag.files import write_atomically


def save_tensors(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float16) -> None:
    """A safetensors file in half precision, whole or not at all."""
    ready = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(ready, metadata={"format": "pt"}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError for a file that is missing, damaged or holds values that are not finite."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy or train it again") from error
    broken = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if broken:
        raise CheckpointError(f"{path}: {broken} has values that are not finite; copy or train it again")
    return tensors


@torch.no_grad()
def merge_factors(model: Any, tensors: dict[str, Tensor]) -> None:
    """Add B A to the weights of a plain model, in place. Raises CheckpointError when it does not have these modules."""
    decoder = backbone(model)
    for name in (name for name in tensors if name.endswith(".lora_A.weight")):
        path = name.removesuffix(".lora_A.weight")
        a, b = tensors[name].float(), tensors[f"{path}.lora_B.weight"].float()
        try:
            linear = decoder.get_submodule(path)
        except AttributeError as error:
            raise CheckpointError(
                f"the LoRA changes {path}, which this base does not have; it belongs to another base"
            ) from error
        if tuple(linear.weight.shape) != (b.shape[0], a.shape[1]):
            raise CheckpointError(f"the LoRA has other sizes at {path} than this base; it belongs to another base")
        linear.weight.copy_(
            (linear.weight.float() + b.to(linear.weight.device) @ a.to(linear.weight.device)).to(linear.weight.dtype)
        )
