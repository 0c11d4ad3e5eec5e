"""The gateway as one ASGI application: chat, documents, the page, /health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp

from distilledprag.documents.readers import readable
from distilledprag.documents.reading import ReadingPool, ReadingStoppedError
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import DiskFullError, DistilledPRAGError, StoreError, UnknownDocumentError
from distilledprag.gateway.adapter_cache import CAPACITY, AdapterCache
from distilledprag.gateway.answering import Answering
from distilledprag.gateway.chat import ChatRequest, chat_routes
from distilledprag.gateway.document_routes import MAX_UPLOAD, ReadingDesk, document_routes, search_routes
from distilledprag.gateway.engine_client import EngineClient
from distilledprag.gateway.quotes import QUOTED_WORDS, Policy, QuotePolicy
from distilledprag.gateway.replicas import EngineReplicas
from distilledprag.http.bodies import BodyReader, describe_bodies
from distilledprag.http.errors import InternalError, NotFoundError, RequestError, StoppingError
from distilledprag.http.middleware import AllowedHosts, ApiKeys, Middleware, new_application
from distilledprag.pipeline import DistilledPRAG
from distilledprag.retrieval.bm25 import Finder

CHAT_MEMORY = 64 * 2**20  # bytes of all conversations that are being read or used
UPLOAD_MEMORY = 256 * 2**20  # bytes of all uploads; of their own, so that documents in their queue keep nobody from asking
BODY_SECONDS = 120.0  # for a whole body to arrive
PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Options:
    """allow_plaintext: documents may be sent in the open when a request asks for that; rows: send only the sentences that the
    question needs, a share up to 1 or a number of rows (None: all); round_masks_to: a passage's masks and rows are rounded up
    to a multiple; quotes: what to do when the user's words repeat a document; adapter_memory, max_upload: bytes; body_seconds:
    for one request's body to arrive; accept_any_model: the gateway answers whatever model a request names; finder: what finds
    the passages of a collection, by its name (None: BM25)."""

    allow_plaintext: bool = False
    rows: float | None = None
    round_masks_to: int = 1
    quotes: Policy = "refuse"
    quoted_words: int = QUOTED_WORDS
    adapter_memory: int = CAPACITY
    max_upload: int = MAX_UPLOAD
    body_seconds: float = BODY_SECONDS
    accept_any_model: bool = True
    finder: Callable[[str], Finder] | None = None


def build_application(
    prag: DistilledPRAG,
    store: DocumentStore,
    reading: ReadingPool,
    clients: Sequence[EngineClient],
    keys: ApiKeys,
    hosts: AllowedHosts,
    options: Options | None = None,
) -> ASGIApp:
    """The gateway, ready to be served. clients: of one engine or of several that serve the same base, closed when the gateway
    ends; store and reading processes are the caller's to close. Raises ConfigError for no engine, or one named twice."""
    options = options or Options()
    engines = EngineReplicas(clients)
    adapters = AdapterCache(prag, engines, options.adapter_memory, options.round_masks_to)
    quotes = QuotePolicy(store, engines.name, options.quotes, options.quoted_words)
    answering = Answering(
        prag,
        store,
        engines,
        adapters,
        quotes,
        allow_plaintext=options.allow_plaintext,
        rows=options.rows,
        round_to=options.round_masks_to,
        finder=options.finder,
    )

    desk = ReadingDesk(reading)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()
        await adapters.close()
        await engines.aclose()

    def count_tokens(text: str) -> int:
        return len(prag.base.tokenizer(text, add_special_tokens=False).input_ids)

    app = new_application("gateway", explain, lifespan)
    conversations = BodyReader(CHAT_MEMORY, seconds=options.body_seconds)
    uploads = BodyReader(UPLOAD_MEMORY, seconds=options.body_seconds)
    app.include_router(chat_routes(answering, count_tokens, conversations, explain, options.accept_any_model))
    app.include_router(document_routes(store, desk, adapters.forget, uploads, options.max_upload))
    app.include_router(search_routes(store))
    app.include_router(_page_routes())

    @app.get("/health")
    async def health() -> dict[str, Any]:
        ready, documents = await asyncio.gather(engines.healthy(), asyncio.to_thread(store.count))
        # What the page must know.
        known = {
            "allow_plaintext": options.allow_plaintext,
            "key_required": keys.required,
            "formats": sorted(readable(reading.ocr is not None)),
        }
        said = {"engine": "ready" if ready else "unreachable", "engines": {"ready": ready, "all": len(engines)}}
        return {"status": "ok", **said, "documents": documents, **known}

    describe_bodies(app, ChatRequest)
    return Middleware(app, "gateway", keys, explain, hosts)


def explain(error: Exception) -> RequestError | None:
    """Errors of the store and of the user's input as HTTP errors; None for faults of the program."""
    message = str(error)
    if isinstance(error, UnknownDocumentError):
        return NotFoundError(message)
    if isinstance(error, DiskFullError):
        return InternalError(message, status=507, code="disk_full")
    if isinstance(error, ReadingStoppedError):
        return StoppingError(f"{message}: the gateway is shutting down")
    if isinstance(error, StoreError):
        return InternalError(message, code="store")
    if isinstance(error, DistilledPRAGError):
        return RequestError(message)
    return None


def _page_routes() -> APIRouter:
    """The page, its scripts and its style, from the package."""
    router = APIRouter()
    for file in sorted(PAGE.iterdir()):
        if file.suffix in _TYPES:
            _serve(router, file)
    return router


def _serve(router: APIRouter, file: Path) -> None:
    path = "/" if file.name == "index.html" else f"/{file.name}"
    content, kind = file.read_bytes(), f"{_TYPES[file.suffix]}; charset=utf-8"

    async def page() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    router.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False, response_class=Response)
