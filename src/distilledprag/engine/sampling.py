"""Logits -> the next token of every row. A row's draw depends on its own logits and its own generator only.

B = rows, V = vocabulary. Knows nothing of models or jobs' text.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from distilledprag.engine.job import Sampling


class Sampler:
    """The way one job's tokens are chosen."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator().manual_seed(seed & (2**63 - 1))

    @property
    def greedy(self) -> bool:
        return self._generator is None

    def draw(self, logits: Tensor) -> int:
        """A token id from `logits` (V,), float32, on the CPU."""
        probabilities = torch.softmax((logits - logits.max()) / self._sampling.temperature, dim=-1)
        if self._sampling.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # of the likelier tokens
            kept = ordered.masked_fill(before >= self._sampling.top_p, 0.0)
            kept[0] = ordered[0]
            probabilities = torch.zeros_like(probabilities).scatter(0, order, kept)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


@torch.inference_mode()
def next_tokens(logits: Tensor, samplers: Sequence[Sampler], suppressed: Sequence[int]) -> list[int | None]:
    """One token id per row of `logits` (B, V); None for a row whose logits are not all finite.

    suppressed: ids that are never written. `logits` is changed.
    """
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    if suppressed:
        logits[:, list(suppressed)] = -torch.inf
    likeliest = logits.argmax(dim=-1).tolist()
    chosen: list[int | None] = []
    for row, sampler in enumerate(samplers):
        if not finite[row]:
            chosen.append(None)
        else:
            chosen.append(likeliest[row] if sampler.greedy else sampler.draw(logits[row].float().cpu()))
    return chosen
