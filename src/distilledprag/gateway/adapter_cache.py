"""Adapters by content: generated once for the same passages, uploaded once to an engine, again when that has lost them.

State adapters, or plain LoRA adapters for an engine that takes only these.

    passages --hash--> Adapter in memory (bounded, least recently used goes first) --upload--> id at an engine

Use within one event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from distilledprag.base.architecture import split_module_key
from distilledprag.gateway.engine_client import AdapterQuotaError, EngineClient, SentRequest, UploadedAdapter
from distilledprag.gateway.guard.protected import Protected
from distilledprag.gateway.guard.rules import AdapterRule
from distilledprag.gateway.replicas import EngineReplicas
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG

CAPACITY = 256 * 2**20  # bytes of adapters kept in memory
_MARGIN = 30.0  # seconds before its end at which an adapter is uploaded again
_MOST_REMOVED = 64  # adapters at the engine, to make room for one
_NO_DOCUMENT = "."


@dataclass(frozen=True)
class Upload:
    """id: at the engine; ends: when it goes there, by the monotonic clock."""

    id: str
    ends: float


@dataclass
class Adapter:
    """An adapter and where it is. data: as it is sent; uploads: by the address of the engine that has it.

    summary: its form, for people. The number of rows is no secret: the masked prompt has as many masks. states: whether it is a
    state adapter, else a plain LoRA.
    """

    key: str
    data: bytes
    summary: dict[str, Any]
    documents: frozenset[str]
    states: bool = True
    uploads: dict[str, Upload] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def upload_at(self, engine: EngineClient) -> Upload | None:
        """Where the engine should still have it, as far as is known here."""
        upload = self.uploads.get(engine.url)
        return upload if upload and time.monotonic() < upload.ends - _MARGIN else None


class AdapterCache:
    """Makes and uploads adapters. `capacity`: bytes of adapters to keep; at least the newest one is kept. round_to: as for
    `PromptBuilder.context`."""

    def __init__(self, prag: DistilledPRAG, engines: EngineReplicas, capacity: int = CAPACITY, round_to: int = 1) -> None:
        self._prag = prag
        self._engines = engines
        self._capacity, self._round_to = capacity, round_to
        self._kept: OrderedDict[str, Adapter] = OrderedDict()
        self._making: dict[str, asyncio.Task[Adapter]] = {}
        self._generator = asyncio.Lock()
        self._removals: set[asyncio.Task[None]] = set()
        base = prag.base.identity
        self._generator_identity = f"{prag.generator_identity} {' '.join(base.hashes)}"
        self._no_document: dict[bool, StateAdapter | LoraWeights] = {}  # by whether they are state adapters
        self._gone: set[str] = set()  # ids of documents that were deleted

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters that are kept."""
        return sum(len(adapter.data) for adapter in self._kept.values())

    async def get(self, passages: Sequence[str], whole: Sequence[str], documents: Sequence[str]) -> tuple[Adapter, bool]:
        """The adapter for these passages in this order, and whether it had to be made. Made once for callers at one time.

        whole: the passages that these hold chosen sentences of, or the same. documents: the id of the document that each is from.
        """
        states = self._engines.bounds.states
        parts = [self._generator_identity, states, *passages, *whole]
        key = hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key], False
        made = key not in self._making
        if made:
            self._making[key] = asyncio.create_task(self._make(key, list(passages), list(whole), frozenset(documents), states))
        return await asyncio.shield(self._making[key]), made

    async def uploaded(
        self, adapter: Adapter, engine: EngineClient, rows: int, protected: Protected, ledger: list[SentRequest]
    ) -> str:
        """The adapter's id at the engine, where it is put if it is not there. Errors as in `EngineClient.upload`.

        rows: that it must have, counted apart from the generator.
        """
        async with adapter.lock:
            upload = adapter.upload_at(engine)
            if upload is None:
                states = adapter.states
                if states not in self._no_document:
                    self._no_document[states] = await self._encode([_NO_DOCUMENT], [_NO_DOCUMENT], states)
                rule = AdapterRule(protected, _blank(self._no_document[states], rows))
                result = await self._upload(adapter, engine, rule, ledger)
                # A lifetime no longer than the margin (a clock that is wrong) would mean an upload for every question.
                known = result.lifetime is not None and result.lifetime > 2 * _MARGIN
                ends = time.monotonic() + result.lifetime if known and result.lifetime else float("inf")
                upload = adapter.uploads[engine.url] = Upload(result.id, ends)
            return upload.id

    async def _upload(
        self, adapter: Adapter, engine: EngineClient, rule: AdapterRule, ledger: list[SentRequest]
    ) -> UploadedAdapter:
        """Where the engine has no room, this key's oldest adapters make some: ours, or those of a gateway that was killed."""
        for _ in range(_MOST_REMOVED):
            try:
                return await engine.upload(adapter.data, rule, ledger)
            except AdapterQuotaError:
                there = await engine.uploaded()
                if not there:
                    raise
                for kept in self._kept.values():
                    self.lost(kept, engine, there[0])
                await engine.remove(there[0])
        return await engine.upload(adapter.data, rule, ledger)

    def lost(self, adapter: Adapter, engine: EngineClient, upload_id: str) -> None:
        """The engine said that it does not have this upload."""
        upload = adapter.uploads.get(engine.url)
        if upload and upload.id == upload_id:
            del adapter.uploads[engine.url]

    async def forget(self, document: str, texts: Sequence[str]) -> None:
        """Drop, here and at the engines, what was made from a document: adapters, and the generator's states of its passages'
        texts."""
        self._gone.add(document)
        for adapter in [adapter for adapter in self._kept.values() if document in adapter.documents]:
            self._drop(adapter)
        async with self._generator:
            await asyncio.to_thread(self._prag.states.forget, texts)

    async def close(self) -> None:
        """Drop everything; waits until the engines were told."""
        for adapter in list(self._kept.values()):
            self._drop(adapter)
        if self._removals:
            await asyncio.wait(self._removals, timeout=5)

    async def _make(self, key: str, passages: list[str], whole: list[str], documents: frozenset[str], states: bool) -> Adapter:
        try:
            made = await self._encode(passages, whole, states)
            if not self._gone.isdisjoint(documents):  # deleted after they were found: this answer is the last
                await asyncio.to_thread(self._prag.states.forget, whole)
            data = await asyncio.to_thread(made.to_bytes)
            adapter = self._kept[key] = Adapter(key, data, summary_of(made, len(data)), documents, states)
            while self.nbytes > self._capacity and len(self._kept) > 1:
                self._drop(next(iter(self._kept.values())))
            return adapter
        finally:
            del self._making[key]

    async def _encode(self, passages: list[str], whole: list[str], states: bool) -> StateAdapter | LoraWeights:
        """One generator pass at a time: more would only share the same cores."""
        encode = self._prag.encode_states if states else self._prag.encode
        async with self._generator:
            return await asyncio.to_thread(encode, passages, whole, round_to=self._round_to)

    def _drop(self, adapter: Adapter) -> None:
        self._kept.pop(adapter.key, None)
        for url, upload in adapter.uploads.items():
            task = asyncio.create_task(self._engines.at(url).remove(upload.id))
            self._removals.add(task)
            task.add_done_callback(self._removals.discard)
        adapter.uploads.clear()


def summary_of(adapter: StateAdapter | LoraWeights, size: int) -> dict[str, Any]:
    """The adapter's form: `rows` states of `width` numbers each, written after `layer`, in `bytes` bytes."""
    if isinstance(adapter, StateAdapter):
        width, layer = adapter.rows.shape[1], adapter.layer
    else:
        ((key, pair),) = adapter.modules.items()
        width, layer = pair.b.shape[0], split_module_key(key)[0]
    return {"rows": adapter.rank, "width": width, "layer": layer, "bytes": size}


def _blank(adapter: StateAdapter | LoraWeights, rows: int) -> bytes:
    """A file of the same generator with zeros for numbers: all of it that may be said in the open."""
    if isinstance(adapter, StateAdapter):
        return StateAdapter(torch.zeros(rows, adapter.rows.shape[1]), adapter.layer, adapter.base).to_bytes()
    return adapter.blank(rows).to_bytes()
