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
        self.sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator().manual_seed(seed & (2**63 - 1))

    @property
    def greedy(self) -> bool:
        return self._generator is None

    def uniform(self) -> float:
        """The next of its random numbers, in [0, 1); a token uses one."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))


@torch.inference_mode()
def next_tokens(logits: Tensor, samplers: Sequence[Sampler], suppressed: Sequence[int]) -> list[int | None]:
    """One token id per row of `logits` (B, V); None for a row whose logits are not all finite.

    suppressed: ids that are never written. `logits` is changed.
    """
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    if suppressed:
        logits[:, list(suppressed)] = -torch.inf
    chosen: list[int | None] = logits.argmax(dim=-1).tolist()
    drawing = [row for row, sampler in enumerate(samplers) if finite[row] and not sampler.greedy]
    if drawing:
        drawn = _draw(logits[drawing].float().cpu(), [samplers[row] for row in drawing])
        for row, token in zip(drawing, drawn, strict=True):
            chosen[row] = token
    return [token if finite[row] else None for row, token in enumerate(chosen)]


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """A token id per row of `logits` (B, V), float32, on the CPU: the first whose probability, with those of all ids before it,
    passes the row's random number."""
    temperatures = torch.tensor([sampler.sampling.temperature for sampler in samplers])
    probabilities = torch.softmax((logits - logits.amax(-1, keepdim=True)) / temperatures[:, None], dim=-1)
    for row, sampler in enumerate(samplers):
        if sampler.sampling.top_p < 1:
            probabilities[row] = _likeliest(probabilities[row], sampler.sampling.top_p)
    reached = probabilities.cumsum(-1, dtype=torch.float64)
    whole = reached[:, -1]
    wanted = torch.tensor([sampler.uniform() for sampler in samplers], dtype=torch.float64) * whole
    wanted = torch.minimum(wanted, torch.nextafter(whole, torch.zeros_like(whole)))  # rounding must not pass the last id
    return torch.searchsorted(reached, wanted[:, None], right=True).squeeze(1).tolist()


def _likeliest(probabilities: Tensor, share: float) -> Tensor:
    """`probabilities` (V,) of the likeliest ids that hold `share` together, at least one; 0 for the others."""
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered  # of the likelier tokens
    kept = ordered.masked_fill(before >= share, 0.0)
    kept[0] = ordered[0]
    return torch.zeros_like(probabilities).scatter(0, order, kept)
