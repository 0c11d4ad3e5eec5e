"""Mask tokens of a served base: the paper's one (exact path), and numbered ones (plain PEFT path)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distilledprag.base import masks
from distilledprag.mask import install_mask


@dataclass(frozen=True)
class MaskTokens:
    """mask_id: the paper's mask. numbered: ids of the numbered masks, consecutive."""

    mask_id: int
    numbered: range

    def optimise(self, model: Any, layer: int, opening: Sequence[int], moment: Tensor, steps: int = 20) -> tuple[Tensor, Tensor]:
        """Embeddings (M, D) and A (M, U) for plain adapters on `layer`; see `masks.optimise`."""
        start = model.get_input_embeddings().weight[self.numbered].float()
        return masks.optimise(model, layer, opening, start, moment, steps=steps, progress=_report)

    def write(self, model: Any, embeddings: Tensor) -> None:
        """Put the numbered masks' embeddings in the table, rounded as they are shipped (half precision)."""
        table = model.get_input_embeddings().weight
        with torch.no_grad():
            table[self.numbered] = embeddings.half().to(table)


def add_mask_tokens(model: Any, tokenizer: Any, count: int, seed: int = 0) -> MaskTokens:
    """Install the paper's mask token and `count` numbered ones, with sampled embeddings, in place."""
    mask_id = install_mask(model, tokenizer, seed=seed)
    names = [masks.NUMBERED.format(number) for number in range(count)]
    tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    vocabulary = tokenizer.get_vocab()
    numbered = range(vocabulary[names[0]], vocabulary[names[0]] + count)
    table = model.get_input_embeddings().weight
    sampled = masks.sampled_embeddings(table[:mask_id], count, seed + 1)
    if table.shape[0] < numbered.stop:
        model.resize_token_embeddings(numbered.stop, mean_resizing=False)
    tokens = MaskTokens(mask_id, numbered)
    tokens.write(model, sampled)
    return tokens


def _report(step: int, energy: float) -> None:
    if step % 10 == 0:
        print(f"masks: step {step}, crosstalk energy a row {energy:.2e}", flush=True)
