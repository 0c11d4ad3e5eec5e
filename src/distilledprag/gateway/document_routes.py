"""/v1/documents and /v1/collections: upload, list, read and delete."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import FormData, UploadFile

from distilledprag.documents.copies import Likeness
from distilledprag.documents.indexing import prepare_bytes, prepare_text
from distilledprag.documents.loading import named_notes
from distilledprag.documents.store import DEFAULT_COLLECTION, DocumentStore, PreparedDocument, StoredDocument, checked_collection
from distilledprag.errors import DocumentError, InputError
from distilledprag.gateway.reading_desk import ReadingDesk
from distilledprag.http.bodies import BodyReader, body_of_type
from distilledprag.http.openai import explained

MAX_UPLOAD = 64 * 2**20  # bytes of one request


class TextDocument(BaseModel):
    """A document as JSON."""

    model_config = ConfigDict(extra="forbid")
    name: str
    text: str
    collection: str = DEFAULT_COLLECTION


def document_routes(
    store: DocumentStore,
    desk: ReadingDesk,
    forget: Callable[[str, list[str]], Awaitable[None]],
    bodies: BodyReader,
    max_upload: int = MAX_UPLOAD,
) -> APIRouter:
    """`forget`: told the id of each document that is deleted, and the texts of its passages."""
    router = APIRouter()
    body = body_of_type({"application/json": TextDocument.model_json_schema(), "multipart/form-data": _FORM})

    @router.post("/v1/documents", openapi_extra=body)
    async def add(request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        failed: list[str] = []
        if kind == "multipart/form-data":
            async with bodies.held_form(request, max_upload) as form:
                documents, failed, collection = await _uploaded(request, form, store, desk)
        elif kind == "application/json":
            async with bodies.held(request, max_upload) as sent:
                documents, collection = await _written(request, sent, store, desk)
        else:
            raise InputError("send a document as JSON {name, text} (application/json) or as a file (multipart/form-data)")
        began = time.time()
        ids = await desk.store(lambda: store.add(documents, collection))
        if failed:
            others = f"; the other {len(ids)} of this upload are stored" if ids else ""
            raise DocumentError("; ".join(failed) + others)
        passages = sum(len(document.passages) for document in documents)
        notes = [note for document in documents for note in named_notes(document.name, document.notes)]
        notes += await asyncio.to_thread(_kept_once, store, documents, ids, began)
        return {"id": ids[0], "ids": ids, "collection": collection, "passages": passages, "notes": notes}

    @router.get("/v1/documents")
    async def documents(
        collection: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> dict[str, Any]:
        found = await asyncio.to_thread(lambda: store.listed(collection, limit=limit, offset=offset))
        total = await asyncio.to_thread(store.count, collection)
        like = await asyncio.to_thread(store.likenesses, [document.id for document in found])
        return {"object": "list", "data": [_record(one, like.get(one.id)) for one in found], "total": total}

    @router.get("/v1/documents/{id}")
    async def document(id: str) -> dict[str, Any]:
        found = await asyncio.to_thread(store.document, id)
        passages = await asyncio.to_thread(store.passages, id)
        like = await asyncio.to_thread(store.likenesses, [id])
        return _record(found, like.get(id)) | {"text": [{"title": passage.title, "text": passage.text} for passage in passages]}

    @router.delete("/v1/documents/{id}")
    async def delete(id: str) -> dict[str, Any]:
        texts = [passage.text for passage in await asyncio.to_thread(store.passages, id)]
        await desk.store(lambda: store.delete([id]))
        await forget(id, texts)
        return {"id": id, "deleted": True}

    @router.get("/v1/collections")
    async def collections() -> dict[str, Any]:
        found = await asyncio.to_thread(store.collections)
        return {"object": "list", "data": [{"name": name, "documents": count} for name, count in found.items()]}

    return router


_FORM = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}, "collection": {"type": "string"}},
    "required": ["file"],
}


def _record(document: StoredDocument, like: Likeness | None) -> dict[str, Any]:
    record = asdict(document)
    nearly = {"nearly_repeats": None if like is None else asdict(like)}
    return {"object": "document", "indexed": record.pop("source") is not None, **record, **nearly}


def _kept_once(store: DocumentStore, documents: list[PreparedDocument], ids: list[str], began: float) -> list[str]:
    """A note on each document of an upload whose bytes were stored before, or came before it in the same upload."""
    notes = []
    for place, (document, id) in enumerate(zip(documents, ids, strict=True)):
        stored = store.document(id)
        if stored.added < began or id in ids[:place]:
            notes.append(f"{document.name}: the same bytes are stored already, as {stored.name}; they are kept once")
    return notes


async def _written(request: Request, sent: bytes, store: DocumentStore, desk: ReadingDesk) -> tuple[list[PreparedDocument], str]:
    def read(cancelled: threading.Event) -> tuple[PreparedDocument, str]:
        try:
            document = TextDocument.model_validate_json(sent)
        except ValidationError as error:
            raise InputError("the document is not usable JSON: " + ": ".join(filter(None, explained(error)))) from None
        collection = checked_collection(document.collection)
        return prepare_text(document.name, document.text, store.reading_folder, desk.pool, cancelled), collection

    document, collection = await desk.run(request, read)
    return [document], collection


async def _uploaded(
    request: Request, form: FormData, store: DocumentStore, desk: ReadingDesk
) -> tuple[list[PreparedDocument], list[str], str]:
    """The documents that could be read, why others could not, and the collection."""
    files = [value for value in form.getlist("file") + form.getlist("files") if isinstance(value, UploadFile)]
    if not files:
        raise InputError("the upload has no file; send it in the field `file`")
    chosen = form.get("collection", DEFAULT_COLLECTION)
    collection = checked_collection(chosen if isinstance(chosen, str) else "")
    prepared: list[PreparedDocument] = []
    failed: list[str] = []
    for file in files:
        read = functools.partial(prepare_bytes, file.filename or "", await file.read(), store.reading_folder, desk.pool)
        try:
            prepared.append(await desk.run(request, read))
        except DocumentError as error:
            failed.append(str(error))
    return prepared, failed, collection
