"""Noise on the rows of a state adapter, so that they are harder to read back. It costs answers too (docs/threat-model.md)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def noisy(rows: Tensor, sigma: float, text: str) -> Tensor:
    """rows (N, D) with normal noise of `sigma` standard deviations of each of the D values over the rows.

    text: whose rows they are. The noise is drawn from it, so that a passage that is sent twice has the same noise: who gets fresh
    noise each time only has to average.
    """
    if not sigma or len(rows) < 2:
        return rows
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)).to(rows.device)
    return rows + sigma * rows.float().std(dim=0) * drawn
