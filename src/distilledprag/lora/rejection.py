"""Why an adapter's bytes were refused: one error class, one code per reason.

This module knows nothing about how the reasons are found.
"""

from __future__ import annotations

import enum

from distilledprag.errors import CheckpointError


class Rejection(enum.StrEnum):
    """Stable codes that a server can answer with; the error's message explains the case to a person."""

    HEADER_TOO_LONG = "header_too_long"  # the safetensors header is longer than the cap (never parsed)
    MALFORMED = "malformed"  # not a safetensors file, or its parts contradict each other
    TRUNCATED = "truncated"  # fewer bytes than the header announces
    RECORD = "record"  # the distilledprag record (alpha, rank, base, generator) is missing or wrong
    KEYS = "keys"  # a tensor is missing, unknown or not paired
    SHAPE = "shape"  # a tensor has other dimensions than the module it belongs to
    DTYPE = "dtype"  # a tensor is not bfloat16, float16 or float32
    RANK = "rank"  # the rank is zero or above the bound
    NOT_FINITE = "not_finite"  # a value is NaN or infinite
    NORM = "norm"  # a value or a module's whole change is larger than the bound


class AdapterError(CheckpointError):
    """An adapter that cannot be used. `code` says why in a form that programs can read."""

    def __init__(self, code: Rejection, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[AdapterError], tuple[Rejection, str]]:
        """Keep `code` when the error crosses a process boundary."""
        return type(self), (self.code, str(self))
