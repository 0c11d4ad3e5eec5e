"""Which mask the documents' tokens become: the installed one, or one of the paper's ablations.

    D = width of the base, T = tokens

statistics   the base's installed mask token (mu + eps); all that a served base can do
random       the same token with the embedding a new token gets by default: normal, the base's initializer_range
trainable    the same token with an embedding that is trained along, from the installed one on
none         no token at all: documents leave nothing in the prompt

The random and the trained row travel with the generator's checkpoint, not with the base; they are for measuring only.
This module knows nothing about prompts and losses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distilledprag.base.architecture import embedding_table
from distilledprag.base.llm import BaseLLM

MaskKind = Literal["statistics", "random", "trainable", "none"]


def add_mask_row(generator: nn.Module, base: BaseLLM, kind: MaskKind, seed: int = 0) -> None:
    """Give the generator its own `mask_row` (D,) where its kind of mask needs one. The global random state is not used."""
    installed = embedding_table(base.model)[base.mask_token_id].detach().float().clone()
    if kind == "trainable":
        generator.register_parameter("mask_row", nn.Parameter(installed))
    elif kind == "random":
        deviation = float(getattr(base.model.config, "initializer_range", 0.02))
        drawn = torch.randn(installed.shape, generator=torch.Generator().manual_seed(seed)) * deviation
        generator.register_buffer("mask_row", drawn.to(installed.device))


def mask_row_of(generator: Any) -> Tensor | None:
    """The generator's own row (D,), or None: the installed one."""
    return getattr(generator, "mask_row", None)


@contextlib.contextmanager
def mask_embedded_as(base: BaseLLM, row: Tensor | None) -> Iterator[None]:
    """While the block runs, mask tokens are embedded as `row` (D,), through which gradients flow; None: as installed."""
    if row is None:
        yield
        return

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        is_mask = (inputs[0] == base.mask_token_id)[..., None]  # (B, T, 1)
        return torch.where(is_mask, row.to(output), output)

    handle = base.model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
