"""What a request can be refused for, with the HTTP status and code that a client gets, in OpenAI's shape.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

No HTTP library is imported here, so queues and guards can raise these errors too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.param = param
        self.status = status or self.status
        self.retry_after = retry_after


class KeyRefusedError(RequestError):
    """No API key, or a wrong one."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"


class ForbiddenError(RequestError):
    """A web page of another origin, a foreign host name, or something that the operator switched off."""

    status, kind, code = 403, "permission_error", "forbidden"


class NotFoundError(RequestError):
    """No such address, model or adapter; also for those of another key."""

    status, code = 404, "not_found"


class SlowBodyError(RequestError):
    """A body that takes too long to arrive."""

    status, code = 408, "slow_body"


class TooLargeError(RequestError):
    """A body or a header longer than what is accepted."""

    status, code = 413, "too_large"


class BusyError(RequestError):
    """A queue or a quota is full."""

    status, kind, code = 429, "rate_limit_error", "too_many_requests"


class InternalError(RequestError):
    """A fault of the server, not of the client."""

    status, kind, code = 500, "server_error", "internal_error"


class StoppingError(RequestError):
    """The server is shutting down."""

    status, kind, code = 503, "server_error", "stopping"


class TimedOutError(RequestError):
    """The answer was not finished in the time that one request may take."""

    status, kind, code = 504, "server_error", "timeout"


Explain = Callable[[Exception], RequestError | None]  # a server's own errors as RequestErrors; None: not one of them


def error_record(error: Exception, explain: Explain) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, body in OpenAI's shape, headers) of any error. Only messages that we wrote are passed on."""
    known = error if isinstance(error, RequestError) else explain(error)
    known = known or InternalError("the server failed; its log says where, under this answer's x-request-id")
    headers = {}
    if known.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(known.retry_after)))
    if known.status == 401:
        headers["www-authenticate"] = "Bearer"
    fields = {"message": str(known), "type": known.kind, "param": known.param, "code": known.code}
    return known.status, {"error": fields}, headers
