"""Numbered mask tokens for plain PEFT adapters: their embeddings, and A, each of whose rows answers to one of them alone.

    M = numbered masks, D = hidden size, U = width of the MLP, V = rows of the embedding table,
    L = the layer whose down projection is changed

A LoRA on one linear module tells masks apart by its inputs x only, so each mask has a token of its own. Their embeddings
start as the paper samples its one mask, and are optimised for low crosstalk: with C the second moment of ordinary tokens'
inputs, rows a_i of A solve a_i . x_k = [i = k] at least energy a C a^T, which is what A says to tokens that are no masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilledprag.base.architecture import backbone, down_projection, embed, embedded, embedding_table, truncated
from distilledprag.base.sampled_mask import install_mask
from distilledprag.prompts import PromptBuilder

NUMBERED = "<|doc_mask_{}|>"
_ORDINARY = (
    ("Who wrote the report about the bridge?", "Maria Lindgren"),
    ("When does the contract end?", "31 March 2026"),
    ("How much does the larger model cost?", "$1,249.50"),
    ("where was the first meeting held", "the town hall of Aldermere"),
    ("Which of the two companies was founded earlier, Brennan Freight or Halden Mills?", "Halden Mills"),
    ("Is the warranty still valid?", "yes"),
    ("What is the reference number of the delivery?", "KX-20417-B"),
    ("Why did the committee move the deadline?", "because the audit had not been finished"),
)

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class MaskTokens:
    """mask_id: the paper's mask. numbered: ids of the numbered masks, consecutive."""

    mask_id: int
    numbered: range

    def optimise(
        self,
        model: PreTrainedModel,
        layer: int,
        opening: Sequence[int],
        moment: Tensor,
        steps: int = 20,
        progress: Progress = lambda step, energy: None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (M, D) and A (M, U) for plain adapters on `layer`; see `optimise`."""
        start = embedding_table(model)[self.numbered].float()
        return optimise(model, layer, opening, start, moment, steps=steps, progress=progress)

    def fit(
        self, model: PreTrainedModel, prompts: PromptBuilder, layer: int, steps: int, progress: Progress
    ) -> tuple[Tensor, Tensor]:
        """`optimise` for a base without a trained reader: ordinary tokens are those of a few questions and answers."""
        opening = prompts.context(["."]).masked_ids[:-1]
        ordinary = [opening + prompts.question(question) + prompts.answer_ids(answer) for question, answer in _ORDINARY]
        moment = second_moment(model, layer, ordinary, [[0.0] + [1.0] * (len(ids) - 1) for ids in ordinary])
        return self.optimise(model, layer, opening, moment, steps, progress)

    def write(self, model: PreTrainedModel, embeddings: Tensor) -> None:
        """Put the numbered masks' embeddings in the table, rounded as they are shipped (half precision)."""
        table = embedding_table(model)
        with torch.no_grad():
            table[self.numbered] = embeddings.half().to(table)


def add_mask_tokens(model: PreTrainedModel, tokenizer: Any, count: int, seed: int = 0) -> MaskTokens:
    """Install the paper's mask token and `count` numbered ones, with sampled embeddings, in place."""
    mask_id = install_mask(model, tokenizer, seed=seed)
    names = [NUMBERED.format(number) for number in range(count)]
    tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    vocabulary = tokenizer.get_vocab()
    numbered = range(vocabulary[names[0]], vocabulary[names[0]] + count)
    table = embedding_table(model)
    sampled = sampled_embeddings(table[:mask_id], count, seed + 1)
    if table.shape[0] < numbered.stop:
        model.resize_token_embeddings(numbered.stop, mean_resizing=False)
    tokens = MaskTokens(mask_id, numbered)
    tokens.write(model, sampled)
    return tokens


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
    progress: Progress = lambda step, energy: None,
) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) optimised from `embeddings`, and A (M, U).

    opening: ids of the prompt before the first mask. moment: C. progress: told the step and the energy a row. Rows are never
    longer than the start's typical row, and more steps than some twenty make the masks' inputs so large that they disturb the
    layers below L.
    """
    table = embedding_table(model).float()
    mean, deviation = table.mean(0), table.std(0, correction=0)
    noise = ((embeddings.float() - mean) / deviation.clamp(min=1e-6)).detach().requires_grad_(True)
    count, device = len(embeddings), table.device
    inverse = torch.linalg.inv(moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), device=device))
    whitening = torch.linalg.cholesky((inverse + inverse.T) / 2)
    before = embed(model, torch.tensor(list(opening), device=device)).detach()
    optimizer = torch.optim.Adam([noise], lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        rows = mean + deviation * noise * noise.pow(2).mean(-1, keepdim=True).rsqrt().clamp(max=1.0)
        shift = 0 if step % 2 == 0 else int(torch.randint(count, (1,), generator=generator))
        order = torch.roll(torch.arange(count, device=device), -shift)
        embeddings_in = torch.cat([before, embedded(model, rows[order]).to(before.dtype)])
        x = projection_inputs(model, layer, inputs_embeds=embeddings_in[None])[0, len(before) :]
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
