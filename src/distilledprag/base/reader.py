"""The reader: one LoRA on every linear module of a base, the same for every document. Trained, saved, merged into the base.

    r = rank, d_in / d_out = sizes of a linear module

In training W + B A is formed once a step: with thousands of tokens a step that costs less than two thin products a module, and
what is trained is exactly what merging gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distilledprag.base.architecture import adapted_linears, backbone
from distilledprag.errors import CheckpointError
from distilledprag.files import write_atomically

READER, CARD = "reader.safetensors", "training.json"  # in the folder that training writes and `prepare-base` merges


# --- in training


class LoraLinear(nn.Module):
    """A frozen linear module and its two factors, a (r, d_in) and b (d_out, r), in float32; b starts at zero."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        device = linear.weight.device
        start = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
        self.a = nn.Parameter(start.to(device))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> x (W + B A)^T + bias (..., d_out), in the precision of W."""
        weight = self.linear.weight + (self.b @ self.a).to(self.linear.weight.dtype)
        return nn.functional.linear(x, weight, self.linear.bias)


def attach(model: nn.Module, rank: int, seed: int) -> dict[str, LoraLinear]:
    """Put a LoRA on every linear module of every layer; by path below the backbone."""
    generator = torch.Generator().manual_seed(seed)
    attached = {}
    for path, parent, name in list(adapted_linears(model)):
        attached[path] = LoraLinear(getattr(parent, name), rank, generator)
        setattr(parent, name, attached[path])
    return attached


def factors(attached: dict[str, LoraLinear]) -> dict[str, Tensor]:
    """Tensors by name (`<path>.lora_A.weight`, `<path>.lora_B.weight`), detached."""
    named = {}
    for path, module in attached.items():
        named[f"{path}.lora_A.weight"] = module.a.detach()
        named[f"{path}.lora_B.weight"] = module.b.detach()
    return named


def load_factors(attached: dict[str, LoraLinear], tensors: dict[str, Tensor]) -> None:
    """Take trained factors as the start. Raises CheckpointError when they are of another base or rank."""
    if tensors.keys() != factors(attached).keys():
        raise CheckpointError("the LoRA to go on from changes other modules than this base has")
    with torch.no_grad():
        for path, module in attached.items():
            for parameter, name in ((module.a, "lora_A"), (module.b, "lora_B")):
                value = tensors[f"{path}.{name}.weight"]
                if value.shape != parameter.shape:
                    raise CheckpointError(
                        f"{path}: the LoRA to go on from has shape {tuple(value.shape)}, not {tuple(parameter.shape)}"
                    )
                parameter.copy_(value)


# --- on disk, and in the served base


def save_tensors(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float16) -> None:
    """A safetensors file in half precision, whole or not at all."""
    ready = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(ready, metadata={"format": "pt"}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises CheckpointError for one that is missing, damaged or holds values that are not finite."""
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
    """Add B A to the weights of a plain model, in place. tensors: as `factors` names them.

    Raises CheckpointError when the model does not have these modules, or has them in other sizes.
    """
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
