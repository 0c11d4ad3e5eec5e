"""What serves jobs: the protocol, and the backend in this process.

The embedded backend runs a transformers model that decodes all its rows at once; rows join and leave between two steps. The other
one, vllm_backend.py, hands jobs to a vLLM that is reachable from here only. Nothing about a prompt or an answer is logged, also
not when a step fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from distilledprag.base.llm import BaseLLM
from distilledprag.engine.batch import DecodingBatch, Sampler, likeliest, next_tokens, stacked_bytes
from distilledprag.engine.jobs import FairQueue, Job
from distilledprag.http.errors import InternalError, RequestError, StoppingError
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraPair, LoraWeights

_logger = logging.getLogger(__name__)
_NAP = 0.5  # seconds between two looks at the stop flag while nothing is to be done


class Prepared(Protocol):
    """An adapter as a backend holds it; `nbytes`: the memory that this takes, for quotas."""

    @property
    def nbytes(self) -> int: ...


class Backend(Protocol):
    """All adapters it is given have passed the gate (`lora.validation.check_adapter`, `StateAdapter.from_bytes`) for its base
    model; a job with a state adapter has a prompt of as many masks as that has rows. `serve` runs in a thread of its own; the
    other methods are called from other threads meanwhile.

    takes_states: whether it serves state adapters, or LoRA only. numbers_masks: whether these, too, need numbered masks.
    """

    @property
    def takes_states(self) -> bool: ...

    @property
    def numbers_masks(self) -> bool: ...

    @property
    def ready(self) -> bool:
        """Whether jobs are answered now."""
        ...

    def prepare(self, weights: LoraWeights | StateAdapter) -> Prepared:
        """What a job carries as its `adapter`. Holds until `release`, and for jobs under way longer than that."""
        ...

    def release(self, adapter: Any) -> None:
        """No further job will carry this adapter. A backend that keeps files drains its jobs, unloads it, then deletes."""
        ...

    def serve(self, queue: FairQueue) -> None:
        """Serve the queue's jobs until it is closed and empty, or until `abort`.

        Every job that it takes ends with exactly one `Job.end` and one `FairQueue.ended`, whatever happens. Jobs that are
        `Job.dropped` are served no longer. No job may change another's answer. Greedy answers are the base model's, or the
        likeliest that `Job.grammar` allows; there are at most `Job.max_tokens` `Token`s, none of which ends an answer
        (`Tokenization.stop_ids`), with probabilities where `Job.alternatives` asks for them.
        """
        ...

    def abort(self) -> None:
        """Have `serve` end all jobs soon, also those that wait, with a StoppingError, and return once the queue is closed."""
        ...


@dataclass(frozen=True)
class Limits:
    """max_num_seqs: rows that decode together. batch_tokens: rows times the longest row's tokens. prefill_tokens: that are read
    between two steps of the rows under way, padding included (one prompt is always allowed). adapter_bytes: of the rows' adapters
    side by side (one is always allowed)."""

    max_num_seqs: int = 32
    batch_tokens: int = 131_072
    prefill_tokens: int = 4096
    adapter_bytes: int = 2048 * 2**20


@dataclass(eq=False)
class _Row:
    job: Job
    sampler: Sampler
    token: int = -1  # the last one chosen, to be read next


def suppressed_tokens(base: BaseLLM) -> frozenset[int]:
    """What no answer may hold: the mask, and what the base's generation settings name."""
    return frozenset({base.mask_token_id, *(base.model.generation_config.suppress_tokens or [])})  # type: ignore[union-attr]


class EmbeddedBackend:
    """stop_ids: tokens that end an answer. What the base's generation settings suppress, and the mask, is never written."""

    takes_states, numbers_masks, ready = True, False, True

    def __init__(
        self,
        base: BaseLLM,
        stop_ids: frozenset[int],
        limits: Limits | None = None,
        *,
        on_step: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._base, self._stop_ids, self._limits, self._on_step = base, stop_ids, limits or Limits(), on_step
        self._suppressed = sorted(suppressed_tokens(base) - stop_ids)
        self._batch = DecodingBatch(base.model, base.mask_token_id)
        self._rows: list[_Row] = []
        self._aborted = False

    def prepare(self, weights: LoraWeights | StateAdapter) -> LoraWeights | StateAdapter:
        """The adapter in the model's precision and on its device, a LoRA's scaling taken into B: what is computed for a row does
        not depend on the scalings and dtypes of the adapters beside it."""
        dtype, device = self._base.model.dtype, self._base.device
        if isinstance(weights, StateAdapter):
            return replace(weights, rows=weights.rows.to(device, dtype))
        modules = {
            key: LoraPair(pair.a.to(device, dtype), (pair.b.float() * weights.scaling).to(device, dtype))
            for key, pair in weights.modules.items()
        }
        return LoraWeights(modules, float(weights.rank), weights.base, weights.generator)

    def release(self, adapter: LoraWeights | StateAdapter) -> None:
        """Nothing to do: the tensors go with the last job that holds them."""

    def abort(self) -> None:
        """End what is under way or waits, at the next step."""
        self._aborted = True

    def serve(self, queue: FairQueue) -> None:
        while True:
            if self._aborted:
                self._end_all(queue, StoppingError("the engine stopped before the answer was finished; ask again", retry_after=1))
            try:
                self._leave(queue)
                joining = self._taken(queue)
                if joining:
                    self._join(joining)
                elif self._rows:
                    self._step()
                elif not queue.wait(_NAP):
                    return
            except Exception as error:
                _logger.error("a decoding step failed", exc_info=error)
                self._end_all(queue, InternalError("the engine failed while it wrote this answer; ask again"))

    def _taken(self, queue: FairQueue) -> list[_Row]:
        """Jobs from the queue that may join now, already among the rows."""
        joining: list[_Row] = []
        running = list(self._rows)

        def fits(job: Job) -> bool:
            rows = len(self._rows) + 1
            longest = max(job.longest, *(row.job.longest for row in self._rows)) if self._rows else job.longest
            if rows > 1 and (rows > self._limits.max_num_seqs or rows * longest > self._limits.batch_tokens):
                return False
            adapters = [job.adapter, *(row.job.adapter for row in self._rows)]
            if rows > 1 and stacked_bytes(adapters) > self._limits.adapter_bytes:
                return False
            prompts = [len(job.prompt), *(len(row.job.prompt) for row in joining)]
            return len(prompts) == 1 or max(prompts) * len(prompts) <= self._limits.prefill_tokens

        while (job := queue.take(fits)) is not None:
            row = _Row(job, Sampler(job.sampling))
            joining.append(row)
            self._rows.append(row)
        assert self._rows == running + joining
        return joining

    def _join(self, rows: list[_Row]) -> None:
        logits = self._batch.join([row.job.prompt for row in rows], [row.job.adapter for row in rows])
        self._advance(rows, logits)

    def _step(self) -> None:
        self._on_step(len(self._rows))
        self._advance(self._rows, self._batch.step([row.token for row in self._rows]))

    def _advance(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Choose every row's next token from `logits` (rows, V), and tell its job."""
        asked = [number for number, row in enumerate(rows) if row.job.alternatives is not None]
        raw = torch.log_softmax(logits[asked], dim=-1) if asked else logits
        forbidden = self._forbidden(rows, logits.shape[1])
        chosen = next_tokens(logits, [row.sampler for row in rows], self._suppressed, forbidden)
        for number, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            job = row.job
            if job.dropped():  # its grammar became too complex
                continue
            if token is None:
                message = "with this adapter the model's values are no longer finite; make the adapter again"
                job.end(error=RequestError(message, code="not_finite_answer", status=422))
            elif token in self._stop_ids:
                job.end("stop")
            else:
                row.token = token
                if job.grammar is not None:
                    job.grammar.advance(token)
                if job.alternatives is None:
                    job.token(token)
                else:
                    job.token(token, *likeliest(raw[asked.index(number)], token, job.alternatives))
                if job.produced >= job.max_tokens:
                    job.end("length")

    def _forbidden(self, rows: list[_Row], vocabulary: int) -> dict[int, torch.Tensor]:
        """By number of the row, what its grammar forbids next. A job whose grammar has become too complex ends."""
        found = {}
        for number, row in enumerate(rows):
            if row.job.grammar is not None:
                try:
                    found[number] = row.job.grammar.forbidden(vocabulary)
                except RequestError as error:
                    row.job.end(error=error)
        return found

    def _leave(self, queue: FairQueue) -> None:
        """Drop the rows whose jobs have ended, were cancelled or have no time left."""
        kept = [number for number, row in enumerate(self._rows) if not row.job.dropped()]
        if len(kept) < len(self._rows):
            for row in self._rows:
                if row.job.dropped():
                    queue.ended(row.job)
            self._rows = [self._rows[number] for number in kept]
            self._batch.keep(kept)

    def _end_all(self, queue: FairQueue, error: RequestError) -> None:
        for row in self._rows:
            row.job.end(error=error)
            queue.ended(row.job)
        self._rows = []
        self._batch.clear()
        if self._aborted:
            for job in queue.abandon():
                job.end(error=error)
