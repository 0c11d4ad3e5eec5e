"""What can go wrong in the gateway: user errors that also know their HTTP status and a short code for programs.

Messages never hold text of documents or questions. Knows nothing of HTTP beyond the numbers.
"""

from __future__ import annotations

from distilledprag.errors import DistilledPRAGError


class GatewayError(DistilledPRAGError):
    """Base of them all. `status`: of the HTTP answer; `code`: for programs; `retry_after`: seconds to wait, if known."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class VaultError(GatewayError):
    """The vault's folder or file cannot be used."""

    status = 500
    code = "vault"


class DiskFullError(VaultError):
    """No room for what was to be stored; nothing of it is."""

    status = 507
    code = "disk_full"


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


class AdapterGoneError(EngineError):
    """The engine does not have (or no longer has) the adapter that a request named."""

    code = "adapter_gone"
