"""What an operator sees: one JSON log line a request, and metrics. Neither ever holds text, token ids, keys or adapters' ids."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

log = logging.getLogger("distilledprag.engine.requests")


class Metrics:
    """Prometheus metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("dprag_requests", "Requests by route and status.", ["method", "route", "status"], **own)
        self.seconds = Histogram("dprag_request_seconds", "Time until the answer's end.", ["route"], **own)
        self.tokens = Counter("dprag_tokens", "Tokens read and written.", ["kind"], **own)
        self.rejections = Counter("dprag_rejected_adapters", "Adapters that the gate refused.", ["reason"], **own)
        self.rows = Histogram("dprag_batch_rows", "Rows decoded together.", buckets=(1, 2, 4, 8, 16, 32, 64), **own)
        self._gauges = {
            name: Gauge(f"dprag_{name}", text, **own)
            for name, text in {
                "waiting_requests": "Requests in the queue.",
                "running_requests": "Requests being answered.",
                "adapters": "Adapters held.",
                "adapter_bytes": "Memory of these adapters.",
            }.items()
        }

    def count(self, read: int, written: int) -> None:
        """Count the tokens of one answer: its prompt's, and its own."""
        self.tokens.labels("read").inc(read)
        self.tokens.labels("written").inc(written)

    def text(self, **values: float) -> bytes:
        """All metrics in Prometheus' text form; `values`: of the gauges, now."""
        for name, value in values.items():
            self._gauges[name].set(value)
        return generate_latest(self.registry)

    def observe(self, request_id: str, method: str, route: str, status: int, seconds: float, tenant: str | None) -> None:
        """Count a request that has ended, and log it. route: the pattern, never the path."""
        method = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        record = {"request": request_id, "method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        log.info(json.dumps({"time": round(time.time(), 3), **record, "tenant": tenant}))
