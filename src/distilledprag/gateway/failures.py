"""What can go wrong in the gateway: user errors that also know their HTTP status and a short code for programs.

Messages never hold text of documents or questions. Knows nothing of HTTP beyond the numbers.
"""

from __future__ import annotations

import errno
from pathlib import Path

from distilledprag.errors import DistilledPRAGError


class GatewayError(DistilledPRAGError):
    """Base of them all. `status`: of the HTTP answer; `code`: for programs; `retry_after`: seconds to wait, if known."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreError(GatewayError):
    """The store's folder or file cannot be used."""

    status = 500
    code = "store"


class DiskFullError(StoreError):
    """No room for what was to be stored; nothing of it is."""

    status = 507
    code = "disk_full"


def storage_error(folder: Path, error: OSError) -> StoreError:
    """What an error of the operating system under the store `folder` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"the disk of the store {folder} is full; nothing of this was stored, and what was stored before is unharmed. Make "
            "room and try again"
        )
    return StoreError(f"the store {folder} cannot be written ({error.strerror}); check its disk and permissions")


class NotFoundError(GatewayError):
    status = 404
    code = "not_found"


class ForbiddenError(GatewayError):
    """Switched off by the operator."""

    status = 403
    code = "forbidden"


class KeyRequiredError(GatewayError):
    status = 401
    code = "invalid_api_key"


class TooLargeError(GatewayError):
    status = 413
    code = "too_large"


class SlowBodyError(GatewayError):
    """A body that takes too long to arrive."""

    status = 408
    code = "slow_body"


class CrowdedError(GatewayError):
    """Too much is being done at once."""

    status = 429
    code = "busy"


class QuotedDocumentError(GatewayError):
    """What the user wants to send repeats a document word for word."""

    status = 400
    code = "quotes_document"


class WireGuardError(GatewayError):
    """The guard stopped a request to the engine; nothing was sent."""

    status = 500
    code = "wire_guard"


class EngineError(GatewayError):
    """The engine refused, failed, or cannot be reached."""

    status = 502
    code = "engine"


class EngineBusyError(EngineError):
    status = 429
    code = "engine_busy"


class AdapterQuotaError(EngineBusyError):
    """The engine has no room for one more adapter of this key until one is deleted or ends."""


class AdapterGoneError(EngineError):
    """The engine does not have (or no longer has) the adapter that a request named."""

    code = "adapter_gone"
