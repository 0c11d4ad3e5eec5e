"""Spare units: intermediate units of a base's MLP that do nothing, free for an adapter to use.

    U = intermediate size   D = hidden size

A spare unit's rows of gate and up (U, D) and its column of down (D, U) are zero. Adding spare units changes no output of the
base; like the mask token they are saved with it, so that any server can serve it. An adapter that uses spare units only is
an MLP of its own beside the base's, down(silu(gate x) * (up x)), without a share of the base's units.
This module knows nothing about generators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distilledprag.errors import CheckpointError

CONFIG_KEY = "distilledprag_spare_units"


@torch.no_grad()
def add_spare_units(model: Any, count: int) -> None:
    """Widen every layer's MLP by `count` units of zeros, in place. The config says the new size, and how many are spare."""
    if count < 0:
        raise ValueError(f"a model can be given more spare units, not {count}")
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, _widened(getattr(layer.mlp, name), count, reads_units=name == "down_proj"))
        layer.mlp.intermediate_size = model.config.intermediate_size + count
    model.config.intermediate_size += count
    setattr(model.config, CONFIG_KEY, getattr(model.config, CONFIG_KEY, 0) + count)


@torch.no_grad()
def spare_units(model: Any) -> Tensor:
    """Numbers, in order, of the spare units. Raises CheckpointError when they are not zero any more."""
    size, count = model.config.intermediate_size, getattr(model.config, CONFIG_KEY, 0)
    units = torch.arange(size - count, size)
    for number, layer in enumerate(model.model.layers):
        mlp = layer.mlp
        parts = (
            mlp.gate_proj.weight[size - count :],
            mlp.up_proj.weight[size - count :],
            mlp.down_proj.weight[:, size - count :],
        )
        if any(bool(part.any()) for part in parts):
            raise CheckpointError(
                f"the base's config says that its last {count} intermediate units are spare, but layer {number} uses them "
                "(was the base trained since?); prepare the original base again"
            )
    return units


def _widened(linear: nn.Linear, count: int, reads_units: bool) -> nn.Linear:
    """A copy with `count` more inputs (reads_units) or outputs, of zeros."""
    weight = nn.functional.pad(linear.weight, (0, count) if reads_units else (0, 0, 0, count))
    wide = nn.Linear(weight.size(1), weight.size(0), linear.bias is not None, device=weight.device, dtype=weight.dtype)
    wide.weight.copy_(weight)
    if linear.bias is not None:
        wide.bias.copy_(linear.bias if reads_units else nn.functional.pad(linear.bias, (0, count)))
    return wide.requires_grad_(linear.weight.requires_grad)
