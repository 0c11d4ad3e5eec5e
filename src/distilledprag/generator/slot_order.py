"""The order of an adapter's slots. The slots of `per_rank` read the passages in order, so that a row of the adapter would tell
where in the passages its token stands; before an adapter leaves, each layer's slots change places.

This hides the order, not what is in a slot: whoever has the base model can still read most tokens of the passages out of the
adapter (benchmarks/readable_adapter.py measures it). Knows nothing about passages.
"""

from __future__ import annotations

import hashlib

import torch

from distilledprag.lora.weights import LoraPair, LoraWeights

READING, WRITING = ("gate_proj", "up_proj"), "down_proj"


def mixed_slots(weights: LoraWeights) -> LoraWeights:
    """The same change of outputs, to rounding, with the slots of each layer in another order.

    Only for adapters whose slots have an intermediate unit each (B of gate and up, and A of down, name the units): rows of A of
    gate and up and columns of B of down are moved together. The order is drawn from a hash of the adapter as it was: equal
    adapters stay equal, and who has only the result cannot draw it again.
    """
    secret = hashlib.sha256(weights.to_bytes()).digest()
    modules = {}
    for key, pair in weights.modules.items():
        layer, _, module = key.rpartition(".")
        digest = hashlib.sha256(secret + layer.encode()).digest()
        random = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        order = torch.randperm(weights.rank, generator=random).to(pair.a.device)
        if module in READING:
            pair = LoraPair(pair.a[order], pair.b)
        elif module == WRITING:
            pair = LoraPair(pair.a, pair.b[:, order])
        modules[key] = pair
    return LoraWeights(modules, weights.alpha, weights.base, weights.generator)
