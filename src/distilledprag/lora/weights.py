"""LoraWeights, the record that travels: one LoRA adapter, made from documents, for one base model; and LoraBatch: several side
by side, what a generator returns in training and what one forward pass applies.

r = rank, d_in / d_out = sizes of the targeted linear module, B = adapters of a batch.
The adapter changes a module's output from W x to W x + (alpha / r) B A x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from distilledprag.base.architecture import is_module_key, module_key, reading_order
from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.container import HEADER_LIMIT, load_tensors, read_header
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.peft_format import (
    METADATA_KEY,
    RECORD_FILE,
    AdapterRecord,
    modules_of,
    read_folder,
    tensor_names,
    write_folder,
)

STATES = "state"  # the generator of adapters that write a state at each numbered mask (docs/method.md)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def require_module_key(key: str) -> None:
    """Raise `AdapterError` (KEYS) unless a LoRA may sit on the module `key`, in some model."""
    if not is_module_key(key):
        raise AdapterError(
            Rejection.KEYS,
            f"{key[:120]!r} is not a module a LoRA may sit on; expected names like {module_key(0, 'gate_proj')!r}.",
        )


@dataclass(frozen=True, eq=False)
class LoraPair:
    """The two factors of one module: a (r, d_in) and b (d_out, r), both floating point."""

    a: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        if self.a.dim() != 2 or self.b.dim() != 2 or self.a.shape[0] != self.b.shape[1] or self.rank < 1:
            raise AdapterError(
                Rejection.SHAPE,
                f"A LoRA pair needs A (r, d_in) and B (d_out, r) with r >= 1; got {tuple(self.a.shape)} and "
                f"{tuple(self.b.shape)}.",
            )
        if self.a.dtype not in _DTYPES or self.b.dtype not in _DTYPES:
            raise AdapterError(
                Rejection.DTYPE,
                f"A LoRA pair needs bfloat16 or 16- to 64-bit float tensors; got {self.a.dtype} and {self.b.dtype}.",
            )

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> LoraPair:
        """The same factors in another dtype or on another device."""
        return LoraPair(self.a.to(dtype=dtype, device=device), self.b.to(dtype=dtype, device=device))


@dataclass(frozen=True, eq=False)
class LoraWeights:
    """An adapter: `modules` maps a module key (`architecture.module_key`) to its pair; one rank for all.

    alpha: the LoRA's strength; outputs change by alpha / rank * B A x, exactly as in PEFT.
    base: the only base model it works on. generator: what made it (a name or checkpoint hash; may be empty).
    Compared by identity, as tensors are. Construction raises `CheckpointError` for parts that do not fit
    together.
    """

    modules: dict[str, LoraPair]
    alpha: float
    base: BaseIdentity
    generator: str

    def __post_init__(self) -> None:
        for key in self.modules:
            require_module_key(key)
        ranks = sorted({pair.rank for pair in self.modules.values()})
        if len(ranks) != 1:
            raise AdapterError(Rejection.RANK, f"An adapter needs modules that all share one rank; got ranks {ranks}.")
        ordered = {key: self.modules[key] for key in sorted(self.modules, key=reading_order)}
        object.__setattr__(self, "modules", ordered)
        object.__setattr__(self, "alpha", self.record.alpha)

    @property
    def rank(self) -> int:
        """r, the same for all modules."""
        return next(iter(self.modules.values())).rank

    @property
    def scaling(self) -> float:
        """alpha / rank, the factor on B A."""
        return self.alpha / self.rank

    @property
    def writes_states(self) -> bool:
        """Whether it says that it writes one state at each numbered mask."""
        return self.generator == STATES

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, without the file's header."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.modules.values())

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> LoraWeights:
        """The same adapter in another dtype or on another device."""
        moved = {key: pair.to(dtype=dtype, device=device) for key, pair in self.modules.items()}
        return LoraWeights(moved, self.alpha, self.base, self.generator)

    def without_idle_ranks(self) -> LoraWeights:
        """The same change of outputs with a lower rank: what contributes nothing to any module, because its row of A or its
        column of B is zero, is left out. alpha / rank stays; at least one rank stays."""
        busy = torch.stack([(pair.a != 0).any(1) & (pair.b != 0).any(0) for pair in self.modules.values()]).any(0)
        busy[0] |= not busy.any()
        kept = {key: LoraPair(pair.a[busy], pair.b[:, busy]) for key, pair in self.modules.items()}
        return LoraWeights(kept, self.scaling * int(busy.sum()), self.base, self.generator)

    def blank(self, rank: int) -> LoraWeights:
        """An adapter of the same form and alpha / rank, of this rank, whose numbers are all zero."""
        pairs = {
            key: LoraPair(pair.a.new_zeros(rank, pair.a.shape[1]), pair.b.new_zeros(pair.b.shape[0], rank))
            for key, pair in self.modules.items()
        }
        return LoraWeights(pairs, self.scaling * rank, self.base, self.generator)

    @property
    def record(self) -> AdapterRecord:
        """Everything about the adapter that is not a tensor."""
        return AdapterRecord(alpha=self.alpha, rank=self.rank, base=self.base, generator=self.generator)

    def to_bytes(self) -> bytes:
        """A safetensors file with PEFT's names and the record as metadata; equal adapters, equal bytes."""
        tensors: dict[str, Tensor] = {}
        for key, pair in self.modules.items():
            for name, tensor in zip(tensor_names(key), (pair.a, pair.b), strict=True):
                # A copy, because slices of one batch tensor share memory, which safetensors refuses.
                tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        # One metadata entry only: safetensors writes several in a random order.
        return save(tensors, metadata={METADATA_KEY: self.record.to_json()})

    @classmethod
    def from_bytes(cls, data: bytes) -> LoraWeights:
        """Read what `to_bytes` wrote; tensors arrive on the CPU in their stored dtype.

        Checks the form and that all values are finite, not that the adapter fits a base model: use
        `validation.check_adapter` for bytes from strangers. Raises `AdapterError` (a `CheckpointError`).
        """
        header = read_header(data, HEADER_LIMIT)
        if METADATA_KEY not in header.metadata:
            raise AdapterError(
                Rejection.RECORD,
                f"The safetensors metadata has no {METADATA_KEY!r} entry, so the adapter's base model is "
                "unknown. Export it with `LoraWeights.to_bytes`.",
            )
        record = AdapterRecord.from_json(header.metadata[METADATA_KEY])
        modules_of(header.tensors)
        return cls.assemble(load_tensors(data, header), record)

    @classmethod
    def assemble(cls, tensors: dict[str, Tensor], record: AdapterRecord) -> LoraWeights:
        """Put tensors under PEFT's names and a record together; `AdapterError` when they do not fit."""
        pairs = {}
        for key in modules_of(tensors):
            pair = LoraPair(*(tensors[name] for name in tensor_names(key)))
            if not (torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all()):
                raise AdapterError(
                    Rejection.NOT_FINITE,
                    f"The adapter has NaN or infinite values in {key!r}. Make it again; if it recurs, the "
                    "generator's checkpoint is damaged.",
                )
            pairs[key] = pair
        weights = cls(pairs, record.alpha, record.base, record.generator)
        if weights.rank != record.rank:
            raise AdapterError(
                Rejection.RANK,
                f"The adapter's record says rank {record.rank}, its tensors have {weights.rank}.",
            )
        return weights

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a PEFT adapter folder; a crash leaves the old one or the new one.

        Raises `CheckpointError` when `folder` is a file or holds anything but an earlier adapter.
        """
        write_folder(folder, self.to_bytes(), self.record, self.modules)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LoraWeights:
        """Read a folder that `save_pretrained` wrote, also after another tool has saved its tensors again.

        Raises `CheckpointError` for missing, damaged or contradicting files.
        """
        data, record = read_folder(folder)
        try:
            header = read_header(data, HEADER_LIMIT)
            if METADATA_KEY in header.metadata and AdapterRecord.from_json(header.metadata[METADATA_KEY]) != record:
                raise AdapterError(
                    Rejection.RECORD,
                    f"the tensors and {RECORD_FILE} belong to two adapters. Export it again.",
                )
            modules_of(header.tensors)
            return cls.assemble(load_tensors(data, header), record)
        except AdapterError as error:
            raise AdapterError(error.code, f"The adapter in {folder} cannot be loaded: {error}") from error


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


class SharedLora(nn.Module):
    """A LoRA to be trained that is the same for all documents, B at zero. shapes: module key -> (d_in, d_out)."""

    def __init__(self, shapes: dict[str, tuple[int, int]], rank: int) -> None:
        super().__init__()
        self.keys = list(shapes)
        self.a = nn.ParameterList([torch.randn(1, rank, d_in) / d_in**0.5 for d_in, _ in shapes.values()])
        self.b = nn.ParameterList([torch.zeros(1, d_out, rank) for _, d_out in shapes.values()])

    def batch(self) -> LoraBatch:
        """As one adapter, which serves every row; differentiable."""
        return LoraBatch(dict(zip(self.keys, zip(self.a, self.b, strict=True), strict=True)), 1.0)


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
        a_rows.append(nn.functional.pad(own.a.to(dtype), (0, 0, 0, missing)) if missing else own.a.to(dtype))
        b_rows.append(nn.functional.pad(b, (0, missing)) if missing else b)
    return torch.stack(a_rows), torch.stack(b_rows)
