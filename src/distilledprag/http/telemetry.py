"""OpenTelemetry, for operators who ask for it by its standard variables (OTEL_EXPORTER_OTLP_ENDPOINT and its like).

    a request   one span, and beneath it one for each step that was done for it; two histograms and a count of tokens

What is told has no place for text: a step has one of the names below and numbers, a request its method, the pattern of its route
and its status; an error is told by no more than that. The two servers' traces are not joined: no header of the gateway's goes to
the engine for that.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Step = Literal["retrieve", "encode", "upload", "answer", "wait", "decode"]  # the gateway's four, the engine's two

_ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]


@dataclass
class _Running:
    """What was started. The values are OpenTelemetry's."""

    tracer: Any
    requests: Any
    steps: Any
    tokens: Any
    providers: tuple[Any, Any]


_running: _Running | None = None


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the variables ask for telemetry."""
    return environment.get("OTEL_SDK_DISABLED", "").lower() != "true" and any(environment.get(name) for name in _ASKED)


def start(service: str, say: Callable[[str], object]) -> None:
    """Begin to tell, if the variables ask for it and nothing was begun yet. say: is told when the packages are missing.

    service: the name of the service where OTEL_SERVICE_NAME gives none.
    """
    global _running
    if _running is not None or not wanted():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        say(f"OTEL_EXPORTER_OTLP_* is set, but {error.name} is missing, so nothing is told: pip install 'distilledprag[otel]'")
        return
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service})
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    metrics = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())])
    meter = metrics.get_meter("distilledprag")
    own: dict[str, Any] = {"unit": "s", "explicit_bucket_boundaries_advisory": _SECONDS}
    _running = _Running(
        traces.get_tracer("distilledprag"),
        meter.create_histogram("http.server.request.duration", description="Time until the answer's end.", **own),
        meter.create_histogram("dprag.step.duration", description="Time of a step of a request.", **own),
        meter.create_counter("dprag.tokens", unit="{token}", description="Tokens read and written by the engine."),
        (traces, metrics),
    )


def stop() -> None:
    """Send what was not sent yet, and end."""
    global _running
    running, _running = _running, None
    if running is not None:
        for provider in running.providers:
            provider.shutdown()


@contextlib.contextmanager
def request(method: str) -> Iterator[Callable[[str, int], None]]:
    """A span around a request. The block is given what it calls at its end, with the pattern of the route and the status."""
    running = _running
    if running is None:
        yield lambda route, status: None
        return
    method = method if method in _METHODS else "other"
    began = time.perf_counter()
    name = f"{method} request"
    with running.tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:

        def ended(route: str, status: int) -> None:
            told = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            span.update_name(f"{method} {route}")
            span.set_attributes(told)
            running.requests.record(time.perf_counter() - began, told)

        yield ended


def step(name: Step, seconds: float, **numbers: int) -> None:
    """A step of the request at hand has just ended. numbers: how many tokens and the like."""
    running = _running
    if running is None:
        return
    end = time.time_ns()
    span = running.tracer.start_span(name, start_time=end - int(seconds * 1e9))
    span.set_attributes({f"dprag.{key}": int(value) for key, value in numbers.items()})
    span.end(end)
    running.steps.record(seconds, {"dprag.step": name})


def count_tokens(read: int, written: int) -> None:
    """Tokens of one answer: its prompt's, and its own."""
    if _running is not None:
        _running.tokens.add(read, {"dprag.kind": "read"})
        _running.tokens.add(written, {"dprag.kind": "written"})
