"""All of the engine as one ASGI application. Puts the parts together, and knows /v1/models, /health and /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from distilledprag import __version__
from distilledprag.engine.failures import KeyRefusedError, NotFoundError, RequestError
from distilledprag.engine.service import Engine
from distilledprag.engine.web.adapters import adapter_routes
from distilledprag.engine.web.bodies import BodyReader
from distilledprag.engine.web.completions import completion_routes
from distilledprag.engine.web.description import describe_bodies
from distilledprag.engine.web.observing import Metrics
from distilledprag.engine.web.shell import Shell, error_response
from distilledprag.errors import DistilledPRAGError
from distilledprag.http.keys import ApiKeys

BODIES_AT_ONCE, BODIES_OF_A_KEY = 8, 2  # times the longest adapter: memory for bodies being read and looked at


def build_application(engine: Engine, keys: ApiKeys, metrics: Metrics, metrics_keys: ApiKeys) -> ASGIApp:
    """The engine, ready to be served; starts `engine`, and stops it at the end. Without `metrics_keys` there are no metrics."""
    bodies = BodyReader(BODIES_AT_ONCE * engine.longest_adapter, BODIES_OF_A_KEY * engine.longest_adapter)
    started = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        sweeping = asyncio.create_task(_sweep(engine))
        yield
        sweeping.cancel()
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="DistilledPRAG engine", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(completion_routes(engine, bodies, metrics))
    app.include_router(adapter_routes(engine, bodies, metrics))

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        adapters = [f"{engine.name}:{stored.id}" for stored in engine.adapters.of(request.state.owner)]
        return {"object": "list", "data": [model_record(name) for name in [engine.name, *adapters]]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        if name != engine.name:
            base, _, id = name.rpartition(":")
            if base != engine.name:
                raise NotFoundError("there is no such model; GET /v1/models lists what there is", code="model_not_found")
            engine.adapters.get(request.state.owner, id)
        return model_record(name)

    def model_record(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "distilledprag"}

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok" if engine.ready else "stopping"}, 200 if engine.ready else 503)

    @app.get("/metrics")
    async def show_metrics(request: Request) -> Response:
        if not metrics_keys.required:
            raise NotFoundError("metrics are not served; start the engine with --metrics-key-file")
        if metrics_keys.owner(request.headers.get("authorization", "")) is None:
            raise KeyRefusedError("metrics need a key of their own; send it as the header `Authorization: Bearer KEY`")
        text = metrics.text(
            waiting_requests=engine.queue.waiting,
            running_requests=engine.queue.running,
            adapters=engine.adapters.count,
            adapter_bytes=engine.adapters.nbytes,
        )
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.exception_handler(DistilledPRAGError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def no_such_route(_: Request, error: HTTPException) -> JSONResponse:
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        known = RequestError(f"{error.detail}; see docs/engine.md", status=error.status_code, code=code)
        response = error_response(known)
        response.headers.update(error.headers or {})
        return response

    describe_bodies(app)
    return Shell(app, keys, metrics)


async def _sweep(engine: Engine) -> None:
    """Adapters whose time is over leave the memory also when nobody asks."""
    while True:
        await asyncio.sleep(5)
        engine.adapters.sweep()
