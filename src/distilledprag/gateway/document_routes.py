"""/v1/documents, /v1/collections and /v1/search: upload, list, read, search and delete.

Uploads wait at the `ReadingDesk` for their turn, in threads of their own, so that chat, /health and the list never wait for a
free thread: one thread for each reading process, and one that stores documents. What a client that has left wanted read is given
up at once, whether it waits or is being read.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import FormData, UploadFile

from distilledprag.documents.copies import Likeness
from distilledprag.documents.indexing import prepare_bytes, prepare_text
from distilledprag.documents.loading import named_notes
from distilledprag.documents.reading import ReadingPool
from distilledprag.documents.store import DEFAULT_COLLECTION, DocumentStore, PreparedDocument, StoredDocument, checked_collection
from distilledprag.errors import DocumentError, InputError
from distilledprag.gateway.answering import passage_record
from distilledprag.http.bodies import BodyReader, body_of_type, while_there
from distilledprag.http.errors import BusyError
from distilledprag.http.openai import explained
from distilledprag.retrieval.bm25 import StoreRetriever
from distilledprag.words import titled

MAX_UPLOAD = 64 * 2**20  # bytes of one request
MOST_WAITING = 64  # uploads at a time, those that are being read included

Result = TypeVar("Result")


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
        texts = [titled(passage.title, passage.text) for passage in await asyncio.to_thread(store.passages, id)]
        await desk.store(lambda: store.delete([id]))
        await forget(id, texts)
        return {"id": id, "deleted": True}

    @router.get("/v1/collections")
    async def collections() -> dict[str, Any]:
        found = await asyncio.to_thread(store.collections)
        return {"object": "list", "data": [{"name": name, "documents": count} for name, count in found.items()]}

    return router


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


class ReadingDesk:
    """Belongs to one event loop; the pool is its owner's to close."""

    def __init__(self, pool: ReadingPool) -> None:
        self.pool = pool
        self._threads = ThreadPoolExecutor(pool.workers, thread_name_prefix="reading")
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self._waiting = 0

    async def run(self, request: Request, work: Callable[[threading.Event], Result]) -> Result:
        """What `work` returns or raises, in a thread of its own; its argument is set when nobody waits for it any more.

        The request's body has been read. Raises BusyError when too many wait, and RequestError when the client leaves.
        """
        if self._waiting >= MOST_WAITING:
            raise BusyError("too many documents wait to be read; try again in a moment", retry_after=5)
        self._waiting += 1
        cancelled = threading.Event()
        reading = asyncio.get_running_loop().run_in_executor(self._threads, work, cancelled)
        try:  # one that has not begun when the client leaves never will
            return await while_there(request, reading, "the client left while its document was being read", status=400)
        finally:
            self._waiting -= 1
            cancelled.set()

    async def store(self, work: Callable[[], Result]) -> Result:
        """What `work`, which writes to the document store, returns or raises; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._storing, work)

    def close(self) -> None:
        """For the end of the event loop, when no request is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._storing.shutdown()
