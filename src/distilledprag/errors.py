"""Errors a user can cause. Each message says what was wrong and what to do; the command line prints it and exits 1."""

from __future__ import annotations

import errno
from pathlib import Path


class DistilledPRAGError(ValueError):
    """Base of every error that is the user's to mend (bad input, bad configuration, bad checkpoint)."""


class InputError(DistilledPRAGError):
    """A document, question or data file cannot be used."""


class ConfigError(DistilledPRAGError):
    """A recipe or an option is wrong."""


class CheckpointError(DistilledPRAGError):
    """A base model, generator or adapter on disk cannot be used."""


class IncompatibleBaseError(CheckpointError):
    """An adapter or a generator belongs to another base model than the one loaded."""


class EndpointError(DistilledPRAGError):
    """An LLM behind an endpoint, or a local one, cannot answer: wrong key, address or model, empty account, too many failures."""


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
