"""Several adapters side by side: what a generator returns in training and what one forward pass applies.

B = adapters in the batch, r = rank, d_in / d_out = sizes of the targeted linear module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distilledprag.base.architecture import reading_order
from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.weights import LoraPair, LoraWeights, require_module_key


@dataclass
class LoraBatch:
    """B adapters, differentiable.

    modules: module key (`architecture.module_key`) -> (A (B, r, d_in), B (B, d_out, r)); r may differ by
        module.
    scaling: alpha / r, one number for the whole batch; row b changes outputs by scaling * B[b] A[b] x.
    Raises `AdapterError` (a `CheckpointError`) when the tensors do not fit together.
    """

    modules: dict[str, tuple[Tensor, Tensor]]
    scaling: float

    def __post_init__(self) -> None:
        sizes = set()
        for key, (a, b) in self.modules.items():
            require_module_key(key)
            if a.dim() != 3 or b.dim() != 3 or a.shape[0] != b.shape[0] or a.shape[1] != b.shape[2]:
                raise AdapterError(
                    Rejection.SHAPE,
                    f"A batch of adapters needs A (B, r, d_in) and B (B, d_out, r); got {tuple(a.shape)} and "
                    f"{tuple(b.shape)} for {key!r}.",
                )
            sizes.add(a.shape[0])
        if len(sizes) > 1:
            raise AdapterError(Rejection.SHAPE, f"A batch's modules disagree on its number of rows: {sorted(sizes)}.")

    @property
    def size(self) -> int:
        """B; 0 when no row has an adapter (`stack([None, None])`)."""
        return next((a.shape[0] for a, _ in self.modules.values()), 0)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> LoraBatch:
        """The same batch in another dtype or on another device; gradients flow through."""
        modules = {
            key: (a.to(dtype=dtype, device=device), b.to(dtype=dtype, device=device)) for key, (a, b) in self.modules.items()
        }
        return LoraBatch(modules, self.scaling)

    @classmethod
    def stack(cls, adapters: Sequence[LoraWeights | None]) -> LoraBatch:
        """Put adapters of one base model side by side; `None` becomes a zero adapter.

        A lower rank is padded with zeros and a missing module is zero; neither changes an output. When the
        rows' alpha / r differ, each is multiplied into its B and the batch's scaling is 1.
        Raises `IncompatibleBaseError` for adapters of different base models, `AdapterError` for different
        sizes.
        """
        present = [adapter for adapter in adapters if adapter is not None]
        if not present:
            return cls({}, 1.0)
        for adapter in present[1:]:
            adapter.base.require(present[0].base, "An adapter of the batch")
        scalings = {adapter.scaling for adapter in present}
        shared = scalings.pop() if len(scalings) == 1 else None
        keys = sorted({key for adapter in present for key in adapter.modules}, key=reading_order)
        modules = {key: _stack_module(key, adapters, fold_scaling=shared is None) for key in keys}
        return cls(modules, 1.0 if shared is None else shared)

    def unstack(self, base: BaseIdentity, generator: str) -> list[LoraWeights]:
        """One `LoraWeights` per row, detached from the graph, sharing memory with the batch.

        Raises `AdapterError` when the modules do not share one rank, as `LoraWeights` must.
        """
        ranks = {a.shape[1] for a, _ in self.modules.values()}
        if len(ranks) != 1:
            raise AdapterError(
                Rejection.RANK,
                f"Only a batch whose modules share one rank can be split; got ranks {sorted(ranks)}.",
            )
        alpha = self.scaling * ranks.pop()
        if abs(alpha - round(alpha)) < 1e-9 * alpha:
            alpha = float(round(alpha))  # 3/7 * 7 must come back as 3
        return [
            LoraWeights(
                {key: LoraPair(a[row].detach(), b[row].detach()) for key, (a, b) in self.modules.items()},
                alpha,
                base,
                generator,
            )
            for row in range(self.size)
        ]


def _stack_module(key: str, adapters: Sequence[LoraWeights | None], fold_scaling: bool) -> tuple[Tensor, Tensor]:
    """A (B, r, d_in) and B (B, d_out, r) of one module, r being the largest rank of any row."""
    pairs = [None if adapter is None else adapter.modules.get(key) for adapter in adapters]
    present = [pair for pair in pairs if pair is not None]
    if len({(pair.a.shape[1], pair.b.shape[0]) for pair in present}) != 1:
        raise AdapterError(
            Rejection.SHAPE,
            f"The adapters of the batch have different sizes for {key!r}; they fit different models.",
        )
    rank = max(pair.rank for pair in present)
    dtype = present[0].a.dtype
    for pair in present:
        dtype = torch.promote_types(torch.promote_types(dtype, pair.a.dtype), pair.b.dtype)
    a_rows, b_rows = [], []
    for adapter, own in zip(adapters, pairs, strict=True):
        if adapter is None or own is None:
            a_rows.append(present[0].a.new_zeros(rank, present[0].a.shape[1], dtype=dtype))
            b_rows.append(present[0].b.new_zeros(present[0].b.shape[0], rank, dtype=dtype))
            continue
        b = own.b.to(dtype) * adapter.scaling if fold_scaling else own.b.to(dtype)
        missing = rank - own.rank
        a_rows.append(torch.nn.functional.pad(own.a.to(dtype), (0, 0, 0, missing)) if missing else own.a.to(dtype))
        b_rows.append(torch.nn.functional.pad(b, (0, missing)) if missing else b)
    return torch.stack(a_rows), torch.stack(b_rows)
