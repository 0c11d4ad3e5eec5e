"""Opens safetensors files that strangers sent: the header is bounded before it is parsed.

The file is: 8 bytes little-endian header length N | N bytes of JSON | tensor bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from distilledprag.errors import AdapterError, Rejection

HEADER_LIMIT = 256 * 1024  # bytes; a rank-2 MLP adapter of a 1B model has 12 KB, of 80 layers with attention 150 KB
_PREFIX = 8


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as its header announces it; nothing of it has been read."""

    dtype: str  # "F32", "BF16", ... as safetensors writes it
    shape: tuple[int, ...]
    end: int  # bytes from the start of the tensor area


@dataclass(frozen=True)
class Header:
    """The parsed header: tensor name -> entry, text metadata, and the sizes in bytes that follow from it."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    length: int  # of the header and its prefix

    @property
    def total_bytes(self) -> int:
        """How long the whole file must be."""
        return self.length + max((entry.end for entry in self.tensors.values()), default=0)


def read_header(data: bytes, limit: int = HEADER_LIMIT) -> Header:
    """Parse the header of safetensors bytes and nothing else.

    limit: longest header accepted, in bytes; a longer one is refused unparsed (a million empty tensors parse
    for seconds and fill gigabytes).
    Raises `AdapterError` with HEADER_TOO_LONG, TRUNCATED or MALFORMED.
    """
    if len(data) < _PREFIX:
        raise AdapterError(
            Rejection.TRUNCATED,
            f"The adapter has only {len(data)} bytes; a safetensors file starts with an 8-byte length. "
            "Write or send the file again.",
        )
    length = int.from_bytes(data[:_PREFIX], "little")
    if length > limit:
        raise AdapterError(
            Rejection.HEADER_TOO_LONG,
            f"The adapter's header announces {length} bytes; at most {limit} are accepted. "
            "Send a safetensors file with the LoRA's tensors only.",
        )
    if _PREFIX + length > len(data):
        raise AdapterError(
            Rejection.TRUNCATED,
            f"The adapter is cut off inside its header ({len(data)} of at least {_PREFIX + length} bytes). "
            "Write or send the file again.",
        )
    try:
        fields = json.loads(bytes(data[_PREFIX : _PREFIX + length]).decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed("the header is not valid JSON") from error
    if not isinstance(fields, dict):
        raise _malformed("the header is not a JSON object")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _malformed("the header's metadata is not a map of texts")
    tensors = {name: _read_entry(name, value) for name, value in fields.items()}
    return Header(tensors=tensors, metadata=metadata, length=_PREFIX + length)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers could take two different ones of a name's values."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _malformed("a name stands twice in the header")
    return record


def load_tensors(data: bytes, header: Header) -> dict[str, torch.Tensor]:
    """Load all tensors, on the CPU, after comparing the announced with the real length.

    Raises `AdapterError` with TRUNCATED or MALFORMED (holes, overlaps, trailing bytes, duplicate names).
    """
    if len(data) < header.total_bytes:
        raise AdapterError(
            Rejection.TRUNCATED,
            f"The adapter is cut off: {len(data)} of {header.total_bytes} bytes. Write or send the file again.",
        )
    try:
        tensors = load(bytes(data))
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise _malformed(f"safetensors says: {error}") from error
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != {
        name: entry.shape for name, entry in header.tensors.items()
    }:
        raise _malformed("two readings of the header disagree")
    return tensors


def _read_entry(name: str, value: Any) -> TensorEntry:
    """One header entry {"dtype", "shape", "data_offsets"}; anything else is malformed."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"the entry of {name[:80]!r} does not have dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _malformed(f"the entry of {name[:80]!r} has a wrong dtype, shape or data_offsets")
    return TensorEntry(dtype=dtype, shape=tuple(shape), end=offsets[1])


def _are_sizes(values: Any) -> bool:
    """A list of integers that a 64-bit file can mean."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _malformed(detail: str) -> AdapterError:
    return AdapterError(
        Rejection.MALFORMED,
        f"The adapter is not a usable safetensors file: {detail}. Write or send the file again.",
    )
