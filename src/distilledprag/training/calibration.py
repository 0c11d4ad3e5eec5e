"""Fitting a new generator to its base before the first step, layer by layer, on one batch.

Scores of a layer's memory get standard deviation 1 and a threshold, and what it writes gets the length of what the base's
attention writes there when it sees the documents. B = rows, T = tokens, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distilledprag.lora.batch import LoraBatch
from distilledprag.lora.injection import inject


@torch.no_grad()
def calibrate(task: Any, batch: Any) -> None:
    """`task`: a DistillTask whose generator has calibrate_rows and calibrate_values."""
    generator, where = task.module, batch.tokens.is_question
    documents = task.read(batch)[1]
    strength = generator.strength.clone()
    generator.strength.fill_(1.0)
    looks = dict(zip(generator.layers, generator.look_layers.tolist(), strict=True))
    for layer in sorted(generator.layers):
        own = f"layers.{layer}.mlp"
        attention = f"layers.{looks[layer]}.self_attn.o_proj"
        wanted = _seen(task, batch, batch.tokens.open_ids, attention, {}, output=True)
        before = _of_layers(generator(documents), [known for known in generator.layers if known < layer])
        inputs = _seen(task, batch, batch.tokens.masked_ids, f"{own}.gate_proj", before)
        generator.calibrate_rows(layer, documents, _rows(inputs, where))
        adapters = _of_layers(generator(documents), [known for known in generator.layers if known <= layer])
        down = f"{own}.down_proj"
        hidden = _seen(task, batch, batch.tokens.masked_ids, down, {k: v for k, v in adapters.items() if k != down})
        a, b = adapters[down]
        written = hidden @ a.mT @ b.mT * generator.settings.alpha / generator.settings.rank
        generator.calibrate_values(layer, _length(written[where]), _length(wanted[where]))
    generator.strength.copy_(strength)


def _length(vectors: Tensor) -> Tensor:
    return vectors.norm(dim=-1).mean()


def _rows(inputs: Tensor, where: Tensor) -> Tensor:
    """(B, Q, D): as many of the positions of `where` (B, T) from every row as the row with the fewest has."""
    count = int(where.sum(1).min())
    return torch.stack([row[chosen][:count] for row, chosen in zip(inputs, where, strict=True)])


def _of_layers(adapters: LoraBatch, layers: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
    return {key: pair for key, pair in adapters.modules.items() if int(key.split(".")[1]) in layers}


def _seen(
    task: Any, batch: Any, ids: Tensor, key: str, modules: dict[str, tuple[Tensor, Tensor]], output: bool = False
) -> Tensor:
    """Input or output (B, T, width) of one linear module in a forward pass with the adapters of `modules`."""
    found: list[Tensor] = []
    settings = task.module.settings
    handle = task.base.model.model.get_submodule(key).register_forward_hook(
        lambda _, inputs, out: found.append(out if output else inputs[0])
    )
    try:
        with inject(task.base.model, LoraBatch(modules, settings.alpha / settings.rank)):
            task.run(batch, ids)
    finally:
        handle.remove()
    return found[0]
