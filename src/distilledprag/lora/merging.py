"""Folding one adapter into a model's weights: for tests, and for users who want a plain merged model.

r = rank, d_in / d_out = sizes of the targeted linear module.
Serving uses `injection`; here the dense (d_out, d_in) change is formed, one module at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from distilledprag.errors import IncompatibleBaseError
from distilledprag.lora.injection import reserve, target_linear
from distilledprag.lora.weights import LoraWeights


def merge_into(model: nn.Module, weights: LoraWeights) -> None:
    """Add alpha / r * B A to every targeted weight, for good.

    Computed in float32 (float64 for a float64 model) and rounded once to the weight's dtype.
    Raises `IncompatibleBaseError` when the adapter does not fit, before any weight changes, and
    `RuntimeError` inside an `inject` or `merged` block of this model.
    """
    with reserve(model):
        _add(_targets(model, weights), weights)


@contextlib.contextmanager
def merged(model: nn.Module, weights: LoraWeights) -> Iterator[None]:
    """While the block runs, the model is the merged one; afterwards every weight is bit-identical to before.

    Raises as `merge_into` does. Keeps a copy of the targeted weights meanwhile.
    """
    with reserve(model):
        linears = _targets(model, weights)
        originals = {key: linear.weight.detach().clone() for key, linear in linears.items()}
        try:
            _add(linears, weights)
            yield
        finally:
            with torch.no_grad():
                for key, linear in linears.items():
                    linear.weight.copy_(originals[key])


def _targets(model: nn.Module, weights: LoraWeights) -> dict[str, nn.Linear]:
    """The linear modules that the adapter changes, all checked first."""
    linears = {
        key: target_linear(model, key, d_in=pair.a.shape[1], d_out=pair.b.shape[0]) for key, pair in weights.modules.items()
    }
    for key, linear in linears.items():
        if not linear.weight.is_floating_point():
            raise IncompatibleBaseError(
                f"{key!r} is quantized ({linear.weight.dtype}); an adapter cannot be merged into it. Load "
                "the base model unquantized, or use `inject`."
            )
    return linears


@torch.no_grad()
def _add(linears: dict[str, nn.Linear], weights: LoraWeights) -> None:
    for key, pair in weights.modules.items():
        weight = linears[key].weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        a, b = (factor.to(device=weight.device, dtype=exact) for factor in (pair.a, pair.b))
        weight.copy_(weight.to(exact) + weights.scaling * (b @ a))
