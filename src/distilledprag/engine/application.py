"""The engine as one ASGI application: completions, /v1/adapters, /v1/models, /health and /metrics; logs and metrics.

A stranger's safetensors bytes become an adapter under an id that is made here, or are refused with a reason. The order of checks:
bytes of the body while they come; length of the header; header, record, base model, names, dtypes, shapes and rank; all values
finite; their sizes (`lora.validation`; `lora.states` for state adapters). What the client says about files and configurations is
not used.

An operator sees one JSON log line a request, and metrics. Neither ever holds text, token ids, keys or adapters' ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp

from distilledprag.engine.adapter_store import StoredAdapter
from distilledprag.engine.completions import ChatRequest, CompletionRequest, completion_routes
from distilledprag.engine.service import Engine
from distilledprag.errors import AdapterError, IncompatibleBaseError, Rejection
from distilledprag.http.answers import model_record
from distilledprag.http.bodies import READING_SECONDS, BodyReader, body_of_type, describe_bodies
from distilledprag.http.errors import KeyRefusedError, NotFoundError, RequestError, TooLargeError
from distilledprag.http.middleware import ApiKeys, Middleware, new_application

BODIES_AT_ONCE, BODIES_OF_A_KEY = 8, 2  # times the longest adapter: memory for bodies being read and checked
CHECKING = 2  # adapters checked at once
_SWEEP_SECONDS = 5.0

log = logging.getLogger("distilledprag.engine.requests")


def build_application(
    engine: Engine, keys: ApiKeys, metrics: Metrics, metrics_keys: ApiKeys, *, body_seconds: float = READING_SECONDS
) -> ASGIApp:
    """The engine, ready to be served; starts `engine`, and stops it at the end. Without `metrics_keys` there are no metrics.

    body_seconds: for one request's body to arrive.
    """
    longest = engine.max_adapter_bytes
    bodies = BodyReader(int(BODIES_AT_ONCE * longest), BODIES_OF_A_KEY * longest, body_seconds)
    started = int(time.time())

    def described(name: str) -> dict[str, Any]:
        """With what a client must know to ask for no more than it gets; the first is vLLM's name."""
        settings = engine.settings
        bounds = {"max_answer_tokens": settings.max_answer_tokens, "max_rows": engine.max_rows}
        forms = ["state", "lora"] if engine.takes_states else ["lora"]
        return model_record(name, started, max_model_len=engine.context_length, **bounds, adapter_forms=forms)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        sweeping = asyncio.create_task(_sweep(engine))
        yield
        sweeping.cancel()
        await asyncio.to_thread(engine.stop)

    app = new_application("engine", explain, lifespan)
    app.include_router(completion_routes(engine, bodies, metrics.count, explain))
    app.include_router(adapter_routes(engine, bodies, metrics))

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        adapters = [f"{engine.name}:{stored.id}" for stored in engine.adapters.of(request.state.tenant)]
        return {"object": "list", "data": [described(name) for name in [engine.name, *adapters]]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        if name != engine.name:
            base, _, id = name.rpartition(":")
            if base != engine.name:
                raise NotFoundError("there is no such model; GET /v1/models lists what there is", code="model_not_found")
            engine.adapters.get(request.state.tenant, id)
        return described(name)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok" if engine.ready else "unavailable"}, 200 if engine.ready else 503)

    @app.get("/metrics")
    async def show_metrics(request: Request) -> Response:
        if not metrics_keys.required:
            raise NotFoundError("metrics are not served; start the engine with --metrics-key-file")
        if metrics_keys.tenant(request.headers.get("authorization", "")) is None:
            raise KeyRefusedError("metrics need a key of their own; send it as the header `Authorization: Bearer KEY`")
        text = metrics.text(
            waiting_requests=engine.queue.waiting,
            running_requests=engine.queue.running,
            adapters=engine.adapters.count,
            adapter_bytes=engine.adapters.nbytes,
        )
        return Response(text, media_type="text/plain; version=0.0.4")

    describe_bodies(app, CompletionRequest, ChatRequest)
    return Middleware(app, "engine", keys, explain, observe=metrics.observe)


def adapter_routes(engine: Engine, bodies: BodyReader, metrics: Metrics) -> APIRouter:
    """/v1/adapters."""
    router = APIRouter()
    checking = asyncio.Semaphore(CHECKING)
    binary = body_of_type({"application/octet-stream": {"type": "string", "format": "binary"}})

    def described(stored: StoredAdapter) -> dict[str, Any]:
        return {
            "id": stored.id,
            "object": "adapter",
            "model": f"{engine.name}:{stored.id}",
            "rank": stored.rank,
            "bytes": stored.nbytes,
            "expires_at": round(time.time() + engine.adapters.seconds_left(stored), 3),
        }

    @router.post("/v1/adapters", status_code=201, openapi_extra=binary)
    async def add(request: Request) -> dict[str, Any]:
        engine.adapters.require_room(request.state.tenant, 0)
        try:
            async with bodies.held(request, engine.max_adapter_bytes) as data, checking:
                return described(await asyncio.to_thread(engine.accept, request.state.tenant, data))
        except (AdapterError, IncompatibleBaseError) as error:
            metrics.rejections.labels(str(error.code) if isinstance(error, AdapterError) else "wrong_base").inc()
            raise

    @router.get("/v1/adapters")
    async def listed(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [described(stored) for stored in engine.adapters.of(request.state.tenant)]}

    @router.get("/v1/adapters/{id}")
    async def one(request: Request, id: str) -> dict[str, Any]:
        return described(engine.adapters.get(request.state.tenant, id))

    @router.delete("/v1/adapters/{id}")
    async def delete(request: Request, id: str) -> dict[str, Any]:
        engine.adapters.remove(request.state.tenant, id)
        return {"id": id, "object": "adapter", "deleted": True}

    return router


def explain(error: Exception) -> RequestError | None:
    """The refusal of an adapter as an HTTP error; None for every other error."""
    if isinstance(error, IncompatibleBaseError):
        return RequestError(str(error), status=409, code="wrong_base")
    if isinstance(error, AdapterError):
        too_long = error.code == Rejection.HEADER_TOO_LONG
        kind = TooLargeError if too_long else RequestError
        return kind(str(error), status=413 if too_long else 422, code=str(error.code))
    return None


async def _sweep(engine: Engine) -> None:
    """Adapters whose time is over leave the memory also when nobody asks."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        engine.adapters.sweep()


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
