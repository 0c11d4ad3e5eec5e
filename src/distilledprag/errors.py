"""Errors a user can cause. Each message says what was wrong and what to do; the command line prints it and exits 1."""

from __future__ import annotations

import enum
import errno
from pathlib import Path


class DistilledPRAGError(ValueError):
    """Base of every error that is the user's to mend (bad input, bad configuration, bad checkpoint)."""


class InputError(DistilledPRAGError):
    """A document, question or data file cannot be used."""


class DocumentError(InputError):
    """A document cannot be read: damaged, locked, binary, empty or of an unsupported type. The message names the file."""


class ConfigError(DistilledPRAGError):
    """A recipe or an option is wrong."""


class CheckpointError(DistilledPRAGError):
    """A base model, generator or adapter on disk cannot be used."""


class IncompatibleBaseError(CheckpointError):
    """An adapter or a generator belongs to another base model than the one loaded."""


class EndpointError(DistilledPRAGError):
    """An LLM behind an endpoint, or a local one, cannot answer: wrong key, address or model, empty account, too many failures."""


class Rejection(enum.StrEnum):
    """Why an adapter's bytes are refused: stable codes that a server can answer with."""

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
    FORM = "form"  # a state adapter for a server that takes LoRA only


class AdapterError(CheckpointError):
    """An adapter that cannot be used. `code` says why in a form that programs can read."""

    def __init__(self, code: Rejection, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[AdapterError], tuple[Rejection, str]]:
        """Keep `code` when the error crosses a process boundary."""
        return type(self), (self.code, str(self))


class StoreError(DistilledPRAGError):
    """The document store's folder or file cannot be used."""


class DiskFullError(StoreError):
    """The disk has no room for what was to be stored; nothing of it is."""


class UnknownDocumentError(DistilledPRAGError):
    """The store has no document with this id."""


def storage_error(folder: Path, error: OSError) -> StoreError:
    """What an error of the operating system under the store `folder` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"the disk of the store {folder} is full; nothing of this was stored, and what was stored before is unharmed. Make "
            "room and try again"
        )
    return StoreError(f"the store {folder} cannot be written ({error.strerror}); check its disk and permissions")
