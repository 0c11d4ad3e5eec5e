"""What a served base model accepts of adapters that clients upload, checked in a fixed order.

    size of the header -> header -> record -> base model -> names -> dtypes -> shapes and rank -> length
    -> load -> all finite -> size of the values

Everything before "load" looks only at the bounded header, so a hostile file costs no memory and no time.
r = rank, d_in / d_out = sizes of the targeted linear module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distilledprag.base.architecture import MLP_TARGETS, module_shapes
from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.container import HEADER_LIMIT, Header, load_tensors, read_header
from distilledprag.lora.identity import BaseIdentity
from distilledprag.lora.peft_format import METADATA_KEY, AdapterRecord, modules_of, tensor_names
from distilledprag.lora.weights import LoraWeights

_BYTES = {"BF16": 2, "F16": 2, "F32": 4}


@dataclass(frozen=True)
class AdapterSpec:
    """What a served base model accepts.

    shapes: module key -> (d_in, d_out); an adapter may change any of these modules and no others.
    identity: the served base model; None leaves the identity unchecked.
    maximum_rank: inclusive.
    largest_value: bound on every |value| of A and B, below float16's largest so that no cast overflows.
    largest_change: bound on the root mean square of alpha / r * B A over each module's entries. Weights of
        language models have 0.01 to 0.1 there, state adapters in PEFT form up to some 0.5.
    header_limit: bytes.
    """

    shapes: dict[str, tuple[int, int]]
    identity: BaseIdentity | None = None
    maximum_rank: int = 256
    largest_value: float = 1e4
    largest_change: float = 10.0
    header_limit: int = HEADER_LIMIT

    @classmethod
    def from_config(cls, config: Any, targets: Sequence[str] = MLP_TARGETS, **bounds: Any) -> AdapterSpec:
        """The spec of a base model from its `transformers` configuration.

        targets: the modules that adapters change, out of `MLP_TARGETS` and `ATTENTION_TARGETS`.
        bounds: the remaining fields. Raises `ConfigError` for an unknown target.
        """
        return cls(shapes=module_shapes(config, targets), **bounds)

    @property
    def byte_limit(self) -> int:
        """The longest file that can be accepted, in bytes; a server stops reading a body there."""
        values = self.maximum_rank * sum(d_in + d_out for d_in, d_out in self.shapes.values())
        return 8 + self.header_limit + max(_BYTES.values()) * values


def check_adapter(data: bytes, spec: AdapterSpec) -> LoraWeights:
    """Accept safetensors bytes as an adapter for the served base model, or say why not.

    Returns the adapter (CPU, stored dtype). Raises `AdapterError` with one `Rejection` code per reason, or
    `IncompatibleBaseError` when the adapter was made for another base model than `spec.identity`.
    """
    header = read_header(data, spec.header_limit)
    record = _check_record(header)
    if spec.identity is not None:
        record.base.require(spec.identity)
    _check_names(header, spec)
    _check_dtypes(header)
    _check_shapes(header, record.rank, spec)
    weights = LoraWeights.assemble(load_tensors(data, header), record)
    _check_sizes_of_values(weights, spec)
    # The server's own name of the base model: the sender's is free text and would reach adapter_config.json.
    return weights if spec.identity is None else replace(weights, base=spec.identity)


def _check_record(header: Header) -> AdapterRecord:
    if set(header.metadata) != {METADATA_KEY}:
        raise AdapterError(
            Rejection.RECORD,
            f"The adapter's metadata must have exactly one entry, {METADATA_KEY!r}. Export it with `LoraWeights.to_bytes`.",
        )
    return AdapterRecord.from_json(header.metadata[METADATA_KEY])


def _check_names(header: Header, spec: AdapterSpec) -> None:
    for key in set(modules_of(header.tensors)) - set(spec.shapes):
        raise AdapterError(
            Rejection.KEYS,
            f"The adapter changes {key!r}, which the served base model does not let adapters change. "
            "Make it for the served base model and targets.",
        )


def _check_dtypes(header: Header) -> None:
    for name, entry in header.tensors.items():
        if entry.dtype not in _BYTES:
            raise AdapterError(
                Rejection.DTYPE,
                f"The adapter's tensor {name!r} has dtype {entry.dtype[:20]!r}; accepted are "
                f"{', '.join(_BYTES)}. Convert it with `LoraWeights.to(dtype=torch.float32)`.",
            )


def _check_shapes(header: Header, rank: int, spec: AdapterSpec) -> None:
    if rank > spec.maximum_rank:
        raise AdapterError(
            Rejection.RANK,
            f"The adapter has rank {rank}; at most {spec.maximum_rank} is accepted. Make it with a lower rank.",
        )
    present = [key for key in spec.shapes if tensor_names(key)[0] in header.tensors]
    for key, (d_in, d_out) in ((key, spec.shapes[key]) for key in present):
        for name, expected in zip(tensor_names(key), ((rank, d_in), (d_out, rank)), strict=True):
            shape = header.tensors[name].shape
            if shape != expected:
                raise AdapterError(
                    Rejection.SHAPE,
                    f"The adapter's tensor {name!r} has shape {str(shape)[:80]}; the served base model "
                    f"and rank {rank} need {expected}. Make the adapter for the served base model.",
                )


def _check_sizes_of_values(weights: LoraWeights, spec: AdapterSpec) -> None:
    for key, pair in weights.modules.items():
        largest = max(pair.a.abs().max().item(), pair.b.abs().max().item())
        if largest > spec.largest_value:
            raise AdapterError(
                Rejection.NORM,
                f"The adapter has a value of size {largest:.3g} in {key!r}; at most "
                f"{spec.largest_value:g} is accepted. Make the adapter again.",
            )
        d_in, d_out = spec.shapes[key]
        change = weights.scaling * frobenius_norm_of_product(pair.a, pair.b) / (d_in * d_out) ** 0.5
        if not change <= spec.largest_change:
            raise AdapterError(
                Rejection.NORM,
                f"The adapter changes the weights of {key!r} by {change:.3g} (root mean square); at most "
                f"{spec.largest_change:g} is accepted. Make the adapter again, or with a smaller alpha.",
            )


def frobenius_norm_of_product(a: Tensor, b: Tensor) -> float:
    """|B A|_F for a (r, d_in), b (d_out, r), from (r, r) Gram matrices: |B A|^2 = sum(B^T B * A A^T)."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    return float((b.T @ b).mul(a @ a.T).sum().clamp(min=0).sqrt())
