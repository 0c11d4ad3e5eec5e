"""Who may ask this gateway: the names it answers to, and pages of its own only.

A page in the user's browser could otherwise reach a gateway on the loopback interface: under another name that resolves to it
(DNS rebinding, stopped by the Host check) or by a form that it posts (stopped by the Origin check). Knows nothing of routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distilledprag.gateway.failures import ForbiddenError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Names:
    """The host names that the gateway answers to: its own, those of the loopback interface, and what the operator adds."""

    def __init__(self, host: str, more: Iterable[str] = ()) -> None:
        own = () if host in ("0.0.0.0", "::", "") else (f"[{host}]" if ":" in host else host,)
        self._names = {name.lower() for name in (*_LOCAL_NAMES, *own, *more)}

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise ForbiddenError for a foreign Host, and for a request that a page of another origin makes."""
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._names:
            raise ForbiddenError("this gateway does not answer to that host name; the operator can add it: --allowed-host NAME")
        origin = headers.get("origin", "").lower()
        if origin and origin.partition("://")[2] != host:
            raise ForbiddenError("pages of other origins may not use this gateway")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ForbiddenError("pages of other sites may not use this gateway")
