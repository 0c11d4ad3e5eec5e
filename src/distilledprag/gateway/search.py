"""A passage as clients get it, with an answer or as a finding of GET /v1/search."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from distilledprag.documents import Passage
from distilledprag.documents.store import DocumentStore, checked_collection
from distilledprag.retrieval.stored import StoreRetriever


def passage_record(passage: Passage, score: float, document: str) -> dict[str, Any]:
    """document: its id; place: the passage's place in the `text` of GET /v1/documents/{id}, from 0."""
    return {
        "document": document,
        "source": passage.source,
        "place": passage.index,
        "title": passage.title,
        "text": passage.text,
        "score": round(score, 4),
    }


def search_routes(store: DocumentStore) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/search")
    async def search(
        q: Annotated[str, Query(max_length=1000)],
        collection: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> dict[str, Any]:
        """The passages with these words, best first by BM25; nothing is sent to the engine."""
        retriever = StoreRetriever(store.database, checked_collection(collection) if collection is not None else None)
        found = await asyncio.to_thread(retriever.find, q, limit)
        return {"object": "list", "data": [passage_record(*one) for one in found]}

    return router
