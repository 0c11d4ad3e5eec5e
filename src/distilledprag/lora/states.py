"""State adapters in compact form: the hidden states that a passage's tokens would have had, one row for each mask.

    N = rows (masks), D = hidden size of the base, L = the layer after which the states stand

An engine that knows the mask token writes row k after layer L at the k-th mask of the prompt: that is a LoRA of rank N on
layer L's down projection whose rows of A answer at one position each, with B = wanted - present state, and without crosstalk
(docs/method.md). Rows travel as int8 with one scale for each row, or in half precision.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.container import load_tensors, read_header
from distilledprag.lora.identity import BaseIdentity

STATES_KEY = "distilledprag_states"
_HEADER_LIMIT = 16 * 1024
_DTYPES = {"int8": torch.int8, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class StateAdapter:
    """rows: (N, D) states after layer `layer`, float. base: the only base model that they fit."""

    rows: Tensor
    layer: int
    base: BaseIdentity

    @property
    def count(self) -> int:
        """N."""
        return self.rows.shape[0]

    @property
    def rank(self) -> int:
        """N: the rank of the LoRA that does the same."""
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes of the rows as they are in memory."""
        return self.rows.nbytes

    def to_bytes(self, precision: str = "int8") -> bytes:
        """A safetensors file. precision: "int8" (D + 2 bytes a row) or "float16" (2 D)."""
        record = json.dumps({"layer": self.layer, "base": self.base.to_dict(), "precision": precision}, sort_keys=True)
        rows = self.rows.detach().float().cpu()
        if precision == "float16":
            tensors = {"rows": rows.clamp(-60000, 60000).half().contiguous()}
        else:
            values, scale = to_int8(rows)
            tensors = {"rows": values, "scale": scale}
        return save(tensors, metadata={STATES_KEY: record})

    @classmethod
    def from_bytes(cls, data: bytes, *, hidden: int | None = None, layers: int | None = None, most: int = 4096) -> StateAdapter:
        """Read what `to_bytes` wrote, trusting nothing of it. hidden, layers: the served base's D and number of layers.

        Raises AdapterError for another form, sizes that do not fit, too many rows, or values that are not finite.
        """
        header = read_header(data, _HEADER_LIMIT)
        try:
            record = json.loads(header.metadata[STATES_KEY])
            layer, precision, base = record["layer"], record["precision"], BaseIdentity.from_dict(record["base"])
            if set(header.metadata) != {STATES_KEY} or type(layer) is not int or precision not in _DTYPES:
                raise ValueError
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise AdapterError(
                Rejection.RECORD, "The state adapter's record is missing or unreadable. Export it again."
            ) from error
        names = {"rows", "scale"} if precision == "int8" else {"rows"}
        if set(header.tensors) != names:
            raise AdapterError(Rejection.KEYS, f"A state adapter has the tensors {', '.join(sorted(names))} and no others.")
        shape = header.tensors["rows"].shape
        if len(shape) != 2 or not 1 <= shape[0] <= most or (hidden is not None and shape[1] != hidden):
            raise AdapterError(
                Rejection.SHAPE, f"A state adapter needs rows (1 to {most}, {hidden or 'D'}); got {str(shape)[:60]}."
            )
        if header.tensors["rows"].dtype != ("I8" if precision == "int8" else "F16"):
            raise AdapterError(Rejection.DTYPE, f"The rows of a state adapter in {precision} have another dtype.")
        if precision == "int8" and (header.tensors["scale"].shape != (shape[0],) or header.tensors["scale"].dtype != "F16"):
            raise AdapterError(Rejection.SHAPE, "The scales of a state adapter must be one half-precision number a row.")
        if layer < 0 or (layers is not None and layer >= layers):
            raise AdapterError(Rejection.KEYS, f"The served base model has no layer {layer}. Make the adapter for it.")
        tensors = load_tensors(data, header)
        rows = tensors["rows"].float() if precision == "float16" else from_int8(tensors["rows"], tensors["scale"])
        if not torch.isfinite(rows).all():
            raise AdapterError(Rejection.NOT_FINITE, "The state adapter has values that are not finite. Make it again.")
        return cls(rows, layer, base)


def to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) as int8 (N, D) and a half-precision scale each (N,), on the CPU. What `from_int8` gives comes out the same."""
    rows = rows.detach().float().cpu()
    if not len(rows):
        return rows.to(torch.int8), rows.new_zeros(0, dtype=torch.float16)
    scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-6).half()
    return (rows / scale.float()).round().clamp(-127, 127).to(torch.int8), scale.squeeze(1)


def from_int8(values: Tensor, scale: Tensor) -> Tensor:
    """Rows (N, D), float32, of what `to_int8` gave."""
    return values.float() * scale.float()[:, None]


def is_state_adapter(data: bytes) -> bool:
    """Whether these bytes say that they are a state adapter (nothing else of them is checked)."""
    try:
        return STATES_KEY in read_header(data, _HEADER_LIMIT).metadata
    except AdapterError:
        return False
