"""What a request can be refused for, and the status and code that the client gets. Knows nothing of HTTP libraries."""

from __future__ import annotations

from distilledprag.errors import DistilledPRAGError


class RequestError(DistilledPRAGError):
    """A request that cannot be served. `code` is for programs, the message for people.

    param: the field that is wrong. retry_after: seconds after which trying again makes sense.
    """

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.param = param
        self.status = status or self.status
        self.retry_after = retry_after


class KeyRefusedError(RequestError):
    status, kind, code = 401, "authentication_error", "invalid_api_key"


class ForbiddenError(RequestError):
    status, kind, code = 403, "permission_error", "forbidden"


class NotFoundError(RequestError):
    status, code = 404, "not_found"


class TooLargeError(RequestError):
    status, code = 413, "too_large"


class BusyError(RequestError):
    """A queue or a quota is full."""

    status, kind, code = 429, "rate_limit_error", "too_many_requests"


class StoppingError(RequestError):
    """The engine is shutting down."""

    status, kind, code = 503, "server_error", "stopping"


class TimedOutError(RequestError):
    """The answer was not finished in the time that one request may take."""

    status, kind, code = 504, "server_error", "timeout"


class InternalError(RequestError):
    """Ours, not the client's."""

    status, kind, code = 500, "server_error", "internal_error"
