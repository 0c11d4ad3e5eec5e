"""Numbered mask tokens for plain PEFT adapters: their embeddings, and A, which answers to each of them alone.

    M = numbered masks, D = hidden size, U = width of the MLP, L = the layer whose down projection is changed

A LoRA on one linear module tells masks apart by its inputs x only, so each mask has a token of its own. Their embeddings
start as the paper samples its one mask, and are optimised for low crosstalk: with C the second moment of ordinary tokens'
inputs, rows a_i of A solve a_i . x_k = [i = k] at least energy a C a^T, which is what A says to tokens that are no masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distilledprag.base.architecture import backbone, down_projection, truncated

NUMBERED = "<|doc_mask_{}|>"


def sampled_embeddings(table: Tensor, count: int, seed: int) -> Tensor:
    """(count, D) rows mu + sigma * noise over the table (V, D), as the paper's mask token."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = table.float().mean(0), table.float().std(0, correction=0)
    noise = torch.randn(count, table.shape[1], generator=generator).to(table.device)
    return mean + deviation * noise


def projection_inputs(model: Any, layer: int, **inputs: Any) -> Tensor:
    """The inputs (B, T, U) of the layer's down projection. Keeps gradients."""
    found: list[Tensor] = []
    handle = down_projection(model, layer).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        with truncated(model, layer + 1):
            backbone(model)(use_cache=False, **inputs)
    finally:
        handle.remove()
    return found[0]


def second_moment(model: Any, layer: int, prompts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> Tensor:
    """C (U, U): weighted second moment of the projection's inputs over tokens of `prompts` (weight 0: not counted)."""
    total: Tensor | None = None
    mass = 0.0
    for ids, weight in zip(prompts, weights, strict=True):
        with torch.no_grad():
            x = projection_inputs(model, layer, input_ids=torch.tensor([list(ids)], device=model.device))[0].float()
        w = torch.tensor(list(weight), device=x.device)
        moment = (x * w[:, None]).T @ x
        total = moment if total is None else total + moment
        mass += float(w.sum())
    assert total is not None
    return total / mass


def optimise(
    model: Any,
    layer: int,
    opening: Sequence[int],
    embeddings: Tensor,
    moment: Tensor,
    *,
    steps: int = 20,
    learning_rate: float = 0.02,
    ridge: float = 1e-3,
    progress: Callable[[int, float], None] = lambda step, energy: None,
) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) optimised from `embeddings`, and A (M, U).

    opening: ids of the prompt before the first mask. moment: C. Rows are never longer than the start's typical row, and
    more steps than some twenty make the masks' inputs so large that they disturb the layers below L.
    """
    table = model.get_input_embeddings().weight.float()
    mean, deviation = table.mean(0), table.std(0, correction=0)
    noise = ((embeddings.float() - mean) / deviation.clamp(min=1e-6)).detach().requires_grad_(True)
    count, device = len(embeddings), table.device
    inverse = torch.linalg.inv(moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), device=device))
    whitening = torch.linalg.cholesky((inverse + inverse.T) / 2)
    before = model.get_input_embeddings()(torch.tensor(list(opening), device=device)).detach()
    scale = float(getattr(model.get_input_embeddings(), "embed_scale", 1.0))  # Gemma's table gives scaled rows
    optimizer = torch.optim.Adam([noise], lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        rows = mean + deviation * noise * noise.pow(2).mean(-1, keepdim=True).rsqrt().clamp(max=1.0)
        shift = 0 if step % 2 == 0 else int(torch.randint(count, (1,), generator=generator))
        order = torch.roll(torch.arange(count, device=device), -shift)
        x = projection_inputs(model, layer, inputs_embeds=torch.cat([before, (rows[order] * scale).to(before.dtype)])[None])[
            0, len(before) :
        ]
        x = x.float()[torch.argsort(order)]
        white = x @ whitening
        gram = white @ white.T
        gram = gram + 1e-5 * gram.diagonal().mean() * torch.eye(count, device=device)
        if step == steps:
            break
        energy = torch.linalg.inv(gram).diagonal().mean()
        progress(step, float(energy.detach()))
        optimizer.zero_grad()
        energy.log().backward()
        optimizer.step()
    with torch.no_grad():
        a = torch.linalg.solve(gram, x @ inverse)
        progress(steps, float(torch.linalg.inv(gram).diagonal().mean()))
    return rows.detach(), a.detach()
