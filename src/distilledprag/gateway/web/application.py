"""All of the gateway as one ASGI application. Puts the parts together and knows nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from distilledprag import __version__
from distilledprag.errors import DistilledPRAGError, InputError
from distilledprag.gateway.adapters import CAPACITY, AdapterCache
from distilledprag.gateway.answering import Answering
from distilledprag.gateway.conversation import ChatRequest
from distilledprag.gateway.outbound import EngineClient
from distilledprag.gateway.policy import QUOTED_WORDS, Policy, QuotePolicy
from distilledprag.gateway.store import DocumentStore
from distilledprag.gateway.web.access import Names
from distilledprag.gateway.web.body import SECONDS, Bodies, describe_body
from distilledprag.gateway.web.chat import chat_routes
from distilledprag.gateway.web.documents import MAX_UPLOAD, document_routes
from distilledprag.gateway.web.pages import page_routes
from distilledprag.gateway.web.shell import Shell, error_response
from distilledprag.http.keys import ApiKeys
from distilledprag.pipeline import DistilledPRAG


@dataclass(frozen=True)
class Options:
    """allow_rag: documents may be sent in the open when a request asks for that; quotes: what to do when the user's words repeat
    a document; adapter_memory, max_upload: bytes; body_seconds: for one request's body to arrive; accept_any_model: ours
    answers whatever model a request names."""

    allow_rag: bool = False
    quotes: Policy = "refuse"
    quoted_words: int = QUOTED_WORDS
    adapter_memory: int = CAPACITY
    max_upload: int = MAX_UPLOAD
    body_seconds: float = SECONDS
    accept_any_model: bool = True


def build_application(
    prag: DistilledPRAG, store: DocumentStore, engine: EngineClient, keys: ApiKeys, names: Names, options: Options | None = None
) -> ASGIApp:
    """The gateway, ready to be served. Closes `engine` when it ends; the store is its caller's to close."""
    options = options or Options()
    adapters = AdapterCache(prag, engine, options.adapter_memory)
    quotes = QuotePolicy(store, engine.url, options.quotes, options.quoted_words)
    answering = Answering(prag, store, engine, adapters, quotes, options.allow_rag)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await adapters.close()
        await engine.aclose()

    def count_tokens(text: str) -> int:
        return len(prag.base.tokenizer(text, add_special_tokens=False).input_ids)

    # The interactive documentation would load scripts from other hosts.
    app = FastAPI(title="DistilledPRAG gateway", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    bodies = Bodies(seconds=options.body_seconds)
    app.include_router(chat_routes(answering, count_tokens, bodies, options.accept_any_model))
    app.include_router(document_routes(store, adapters.forget, bodies, options.max_upload))
    settings = {"allow_rag": options.allow_rag, "key_required": keys.required}
    app.include_router(page_routes(store.count, engine.healthy, settings))

    describe_body(app, ChatRequest)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        places = [".".join(str(part) for part in problem["loc"][1:]) or "the body" for problem in error.errors()[:5]]
        said = "; ".join(f"{place}: {problem['msg']}" for place, problem in zip(places, error.errors(), strict=False))
        return error_response(InputError(f"the request cannot be used: {said}"))

    @app.exception_handler(DistilledPRAGError)
    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}; see docs/gateway.md for the addresses that this gateway has"
        record = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}}
        return JSONResponse(record, error.status_code, headers=error.headers)

    return Shell(app, keys, names)
