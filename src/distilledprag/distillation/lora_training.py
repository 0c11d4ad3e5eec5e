"""A document-independent LoRA on all linear modules of a base, as it is trained.

r = rank. The weight W + B A is formed once a step: with thousands of tokens a step that costs less than two thin products a
module, and what is trained is exactly what merging gives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distilledprag.base.architecture import adapted_linears
from distilledprag.errors import CheckpointError


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
    """Raises CheckpointError when the tensors are of another base or rank."""
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
