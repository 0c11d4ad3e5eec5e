"""/v1/adapters: a stranger's safetensors bytes become an adapter under an id that is made here, or are refused with a reason.

The order of checks: bytes of the body while they come; length of the header; header, record, base model, names, dtypes, shapes
and rank; all values finite; their sizes (`lora.validation`; `lora.states` for state adapters). What the client says about files
and configurations is not used.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request

from distilledprag.engine.adapters import StoredAdapter
from distilledprag.engine.service import Engine
from distilledprag.engine.web.bodies import BodyReader
from distilledprag.engine.web.description import bytes_body
from distilledprag.engine.web.observing import Metrics
from distilledprag.errors import AdapterError, IncompatibleBaseError

CHECKING = 2  # adapters checked at once


def adapter_routes(engine: Engine, bodies: BodyReader, metrics: Metrics) -> APIRouter:
    router = APIRouter()
    checking = asyncio.Semaphore(CHECKING)

    def described(stored: StoredAdapter) -> dict[str, Any]:
        return {
            "id": stored.id,
            "object": "adapter",
            "model": f"{engine.name}:{stored.id}",
            "rank": stored.rank,
            "bytes": stored.nbytes,
            "expires_at": round(time.time() + engine.adapters.seconds_left(stored), 3),
        }

    @router.post("/v1/adapters", status_code=201, openapi_extra=bytes_body())
    async def add(request: Request) -> dict[str, Any]:
        engine.adapters.require_room(request.state.owner, 0)
        try:
            async with bodies.held(request, engine.longest_adapter) as data, checking:
                return described(await asyncio.to_thread(engine.accept, request.state.owner, data))
        except (AdapterError, IncompatibleBaseError) as error:
            metrics.rejections.labels(str(error.code) if isinstance(error, AdapterError) else "wrong_base").inc()
            raise

    @router.get("/v1/adapters")
    async def listed(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [described(stored) for stored in engine.adapters.of(request.state.owner)]}

    @router.get("/v1/adapters/{id}")
    async def one(request: Request, id: str) -> dict[str, Any]:
        return described(engine.adapters.get(request.state.owner, id))

    @router.delete("/v1/adapters/{id}")
    async def delete(request: Request, id: str) -> dict[str, Any]:
        engine.adapters.remove(request.state.owner, id)
        return {"id": id, "object": "adapter", "deleted": True}

    return router
