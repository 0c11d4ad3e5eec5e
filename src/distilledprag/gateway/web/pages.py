"""The page, its script and its style, from the package; and /health. Knows nothing of what the page does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

_FOLDER = Path(__file__).parent.parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def page_routes(count_documents: Callable[[], int], engine_is_ready: Callable[[], Awaitable[bool]], settings: dict) -> APIRouter:
    """`settings`: what the page must know before it asks for a key."""
    router = APIRouter()
    for file in sorted(_FOLDER.iterdir()):
        if file.suffix in _TYPES:
            _serve(router, file)

    @router.get("/health")
    async def health() -> dict[str, Any]:
        ready, documents = await asyncio.gather(engine_is_ready(), asyncio.to_thread(count_documents))
        return {"status": "ok", "engine": "ready" if ready else "unreachable", "documents": documents, **settings}

    return router


def _serve(router: APIRouter, file: Path) -> None:
    path = "/" if file.name == "index.html" else f"/{file.name}"
    content, kind = file.read_bytes(), f"{_TYPES[file.suffix]}; charset=utf-8"

    async def page() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    router.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False, response_class=Response)
