"""The engine without HTTP: one base model, its adapters, its queue and the thread that serves them.

Knows nothing of HTTP, request bodies or keys; owners are names that the web side gives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from distilledprag.base.llm import BaseLLM
from distilledprag.engine.adapters import AdapterStore, Quotas, StoredAdapter
from distilledprag.engine.backend import Backend
from distilledprag.engine.embedded import EmbeddedBackend, Limits
from distilledprag.engine.failures import RequestError, StoppingError
from distilledprag.engine.job import Event, Job, Sampling
from distilledprag.engine.queue import FairQueue
from distilledprag.engine.text import TextSide
from distilledprag.errors import AdapterError, Rejection
from distilledprag.lora.states import StateAdapter, is_state_adapter
from distilledprag.lora.validation import AdapterSpec, check_adapter


@dataclass(frozen=True)
class Settings:
    """name: the model's public name; "" takes the base's. waiting, waiting_per_owner: longest queue. request_seconds: for one
    answer, waiting included. longest_answer, usual_answer: tokens; the latter where a chat request names none.
    maximum_rank: of LoRA adapters. maximum_rows: of state adapters, which never have more than the model reads tokens."""

    name: str = ""
    limits: Limits = field(default_factory=Limits)
    quotas: Quotas = field(default_factory=Quotas)
    waiting: int = 256
    waiting_per_owner: int = 64
    request_seconds: float = 120.0
    longest_answer: int = 1024
    usual_answer: int = 256
    maximum_rank: int = 256
    maximum_rows: int = 8192


class Engine:
    """Start with `start`; `stop` ends it.

    base: its tokenizer reads and writes text, its configuration says which adapters fit. backend: what serves the jobs; without
    one, the base itself in this process, and `on_step` is told how many rows are decoded at every step.
    """

    def __init__(
        self,
        base: BaseLLM,
        settings: Settings | None = None,
        *,
        backend: Backend | None = None,
        on_step: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.settings = settings or Settings()
        self.text = TextSide(base)
        self.name = self.settings.name or base.id
        self.context_length = base.context_length
        self.spec = AdapterSpec.from_config(base.model.config, identity=base.identity, maximum_rank=self.settings.maximum_rank)
        self._hidden, self._layers = int(base.model.config.hidden_size), int(base.model.config.num_hidden_layers)
        self._most_rows = min(self.settings.maximum_rows, base.context_length)
        self.longest_adapter = max(self.spec.byte_limit, self._most_rows * self._hidden * 2 + self.spec.header_limit)  # bytes
        self.queue = FairQueue(self.settings.waiting, self.settings.waiting_per_owner)
        self._backend: Backend = backend or EmbeddedBackend(base, self.text.stop_ids, self.settings.limits, on_step=on_step)
        self.adapters = AdapterStore(self.settings.quotas, self._backend.release)
        self._thread = threading.Thread(target=self._backend.serve, args=(self.queue,), name="decoding", daemon=True)
        self._stopping = False

    @property
    def ready(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End everything, and the thread."""
        self._stopping = True
        self._backend.abort()
        self.queue.close()
        self._thread.join()

    def accept(self, owner: str, data: bytes) -> StoredAdapter:
        """Check the bytes of a LoRA or state adapter and keep it. Raises AdapterError or IncompatibleBaseError as
        `check_adapter` does, BusyError when a quota is full."""
        weights = self._checked_states(data) if is_state_adapter(data) else check_adapter(data, self.spec)
        self.adapters.require_room(owner, weights.nbytes)
        handle = self._backend.prepare(weights)
        masks = weights.count if isinstance(weights, StateAdapter) else None
        return self.adapters.add(owner, handle, weights.rank, handle.nbytes, masks)

    def _checked_states(self, data: bytes) -> StateAdapter:
        try:
            states = StateAdapter.from_bytes(data, hidden=self._hidden, layers=self._layers, most=self._most_rows)
        except RecursionError as error:
            raise AdapterError(Rejection.RECORD, "The state adapter's record is nested too deeply. Export it again.") from error
        if self.spec.identity is not None:
            states.base.require(self.spec.identity)
        return states

    def submit(
        self,
        owner: str,
        prompt: list[int],
        max_tokens: int,
        adapter: StoredAdapter | None,
        sampling: Sampling,
        listener: Callable[[Event], None],
    ) -> Job:
        """Put a request into the queue. `listener` is called from other threads. Raises RequestError."""
        if self._stopping:
            raise StoppingError("the engine is shutting down; ask again in a moment", retry_after=1)
        if max_tokens > self.settings.longest_answer:
            raise RequestError(f"max_tokens may be at most {self.settings.longest_answer}", param="max_tokens")
        if len(prompt) + max_tokens > self.context_length:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and the answer may have {max_tokens}; the model reads "
                f"{self.context_length} in all",
                code="context_length_exceeded",
            )
        if adapter is not None and adapter.masks is not None and adapter.masks != (masks := prompt.count(self.text.mask_id)):
            raise RequestError(
                f"the adapter has {adapter.masks} rows, the prompt {masks} masks; send the masked prompt of the passages that "
                "the adapter was made from",
                code="mask_count",
                param="prompt",
            )
        deadline = time.monotonic() + self.settings.request_seconds
        handle = None if adapter is None else adapter.handle
        job = Job(owner, prompt, max_tokens, handle, sampling, deadline, listener)
        self.queue.put(job)
        return job
