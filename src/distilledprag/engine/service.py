"""The engine without HTTP: one base model, its adapters, its queue and the thread that serves them.

`tenant` is the name of an API key, as the HTTP side tells it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from distilledprag.base.llm import BaseLLM
from distilledprag.engine.adapter_store import AdapterStore, Quotas, StoredAdapter
from distilledprag.engine.backend import Backend, EmbeddedBackend, Limits
from distilledprag.engine.jobs import Event, FairQueue, Job, Sampling
from distilledprag.engine.tokenization import Grammar, Tokenization
from distilledprag.errors import AdapterError, Rejection
from distilledprag.http.errors import BusyError, RequestError, StoppingError
from distilledprag.lora.states import StateAdapter, is_state_adapter
from distilledprag.lora.validation import AdapterSpec, check_adapter
from distilledprag.lora.weights import LoraWeights


@dataclass(frozen=True)
class Settings:
    """served_model_name: public; "" takes the base's. max_queue, max_queue_per_tenant: waiting requests. request_timeout: seconds
    for one answer, waiting included. max_answer_tokens; default_answer_tokens: where a chat request names none. max_lora_rank: of
    LoRA adapters. max_rows: of state adapters, which never have more than the model reads tokens."""

    served_model_name: str = ""
    limits: Limits = field(default_factory=Limits)
    quotas: Quotas = field(default_factory=Quotas)
    max_queue: int = 256
    max_queue_per_tenant: int = 64
    request_timeout: float = 120.0
    max_answer_tokens: int = 1024
    default_answer_tokens: int = 256
    max_lora_rank: int = 256
    max_rows: int = 8192


class Engine:
    """Start with `start`; `stop` ends it.

    base: its tokenizer reads and writes text, its configuration says which adapters fit. backend: what serves the jobs; without
    one, the base itself in this process, and `on_step` is told how many rows are decoded at every step. context_length: tokens
    that the backend reads, if fewer than the base. numbered: ids of the base's numbered masks; the masks of a prompt become these
    where its adapter is a LoRA that writes states. spec: of the adapters that are accepted; None: they may change any of the
    base's MLP projections.
    """

    def __init__(
        self,
        base: BaseLLM,
        settings: Settings | None = None,
        *,
        backend: Backend | None = None,
        on_step: Callable[[int], None] = lambda rows: None,
        context_length: int | None = None,
        numbered: range = range(0),
        spec: AdapterSpec | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.tokenization = Tokenization(base)
        self.name = self.settings.served_model_name or base.id
        self.context_length = min(base.context_length, context_length or base.context_length)
        self.spec = spec or AdapterSpec.from_config(
            base.model.config, identity=base.identity, maximum_rank=self.settings.max_lora_rank
        )
        self._hidden, self._layers = int(base.model.config.hidden_size), int(base.model.config.num_hidden_layers)
        self._numbered = numbered
        self.max_rows = min(self.settings.max_rows, self.context_length)
        self.max_adapter_bytes = max(self.spec.byte_limit, self.max_rows * self._hidden * 2 + self.spec.header_limit)  # bytes
        self.queue = FairQueue(self.settings.max_queue, self.settings.max_queue_per_tenant)
        self._backend: Backend = backend or EmbeddedBackend(
            base, self.tokenization.stop_ids, self.settings.limits, on_step=on_step
        )
        self.takes_states = self._backend.takes_states
        if self._backend.numbers_masks:
            self.max_rows = min(self.max_rows, self.spec.maximum_rank, len(numbered))
        self.adapters = AdapterStore(self.settings.quotas, self._backend.release)
        self._thread = threading.Thread(target=self._backend.serve, args=(self.queue,), name="decoding", daemon=True)
        self._stopping = False

    @property
    def ready(self) -> bool:
        return self._thread.is_alive() and self._backend.ready and not self._stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End everything, and the thread."""
        self._stopping = True
        self._backend.abort()
        self.queue.close()
        self._thread.join()

    def accept(self, tenant: str, data: bytes) -> StoredAdapter:
        """Check the bytes of a LoRA or state adapter and keep it. Raises AdapterError or IncompatibleBaseError as
        `check_adapter` does, BusyError when a quota is full."""
        weights = self._checked_states(data) if is_state_adapter(data) else check_adapter(data, self.spec)
        self.adapters.require_room(tenant, weights.nbytes)
        handle = self._backend.prepare(weights)
        masks = weights.count if isinstance(weights, StateAdapter) else None
        numbers = weights.writes_states if isinstance(weights, LoraWeights) else self._backend.numbers_masks
        try:
            return self.adapters.add(tenant, handle, weights.rank, handle.nbytes, masks, numbers)
        except BusyError:  # the last room went to another upload
            self._backend.release(handle)
            raise

    def _checked_states(self, data: bytes) -> StateAdapter:
        if not self.takes_states:
            raise AdapterError(
                Rejection.FORM,
                "This engine serves plain LoRA adapters only. Make one with `DistilledPRAG.encode` or `dprag encode`.",
            )
        try:
            states = StateAdapter.from_bytes(data, hidden=self._hidden, layers=self._layers, most=self.max_rows)
        except RecursionError as error:
            raise AdapterError(Rejection.RECORD, "The state adapter's record is nested too deeply. Export it again.") from error
        if self.spec.identity is not None:
            states.base.require(self.spec.identity)
        return states

    def submit(
        self,
        tenant: str,
        prompt: list[int],
        max_tokens: int,
        adapter: StoredAdapter | None,
        sampling: Sampling,
        listener: Callable[[Event], None],
        alternatives: int | None = None,
        grammar: Grammar | None = None,
    ) -> Job:
        """Put a request into the queue. `listener` is called from other threads. Raises RequestError."""
        if self._stopping:
            raise StoppingError("the engine is shutting down; ask again in a moment", retry_after=1)
        if max_tokens > self.settings.max_answer_tokens:
            raise RequestError(
                f"max_tokens may be at most {self.settings.max_answer_tokens} here (the engine's --max-answer-tokens)",
                code="max_tokens_too_large",
                param="max_tokens",
            )
        if len(prompt) + max_tokens > self.context_length:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and the answer may have {max_tokens}; the model reads "
                f"{self.context_length} in all",
                code="context_length_exceeded",
            )
        masks = prompt.count(self.tokenization.mask_id)
        if adapter is not None and adapter.masks is not None and adapter.masks != masks:
            raise RequestError(
                f"the adapter has {adapter.masks} rows, the prompt {masks} masks; send the masked prompt of the passages that "
                "the adapter was made from",
                code="mask_count",
                param="prompt",
            )
        if adapter is not None and adapter.numbers:
            prompt = self._with_numbered_masks(prompt)
        deadline = time.monotonic() + self.settings.request_timeout
        handle = None if adapter is None else adapter.handle
        job = Job(tenant, prompt, max_tokens, handle, sampling, deadline, listener, alternatives, grammar)
        self.queue.put(job)
        return job

    def _with_numbered_masks(self, prompt: list[int]) -> list[int]:
        """The prompt with numbered masks in place of the one."""
        mask = self.tokenization.mask_id
        count = prompt.count(mask)
        if count > len(self._numbered):
            raise RequestError(
                f"the prompt has {count} masks, the base {len(self._numbered)} numbered ones for LoRA; use fewer passages",
                code="mask_count",
                param="prompt",
            )
        numbers = iter(self._numbered)
        return [next(numbers) if id == mask else id for id in prompt]
