"""What serves jobs. The embedded backend runs transformers in this process; another one can hand them to a server that is
reachable from here only (vLLM's own HTTP interface must never be, see docs/engine.md).

Knows nothing of HTTP, keys or text.
"""

from __future__ import annotations

from typing import Any, Protocol

from distilledprag.engine.queue import FairQueue
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights


class Prepared(Protocol):
    """An adapter as a backend holds it; `nbytes`: the memory that this takes, for quotas."""

    @property
    def nbytes(self) -> int: ...


class Backend(Protocol):
    """All adapters it is given have passed the gate (`lora.validation.check_adapter`, `StateAdapter.from_bytes`) for its base
    model; a job with a state adapter has a prompt of as many masks as that has rows. `serve` runs in a thread of its own; the
    other methods are called from other threads meanwhile."""

    def prepare(self, weights: LoraWeights | StateAdapter) -> Prepared:
        """What a job carries as its `adapter`. Holds until `release`, and for jobs under way longer than that."""
        ...

    def release(self, adapter: Any) -> None:
        """No further job will carry this adapter. A backend that keeps files drains its jobs, unloads it, then deletes."""
        ...

    def serve(self, queue: FairQueue) -> None:
        """Serve the queue's jobs until it is closed and empty, or until `abort`.

        Every job that it takes ends with exactly one `Job.end` and one `FairQueue.ended`, whatever happens. Jobs that are
        `Job.dropped` are served no longer. No job may change another's answer. Greedy answers are the base model's; there are
        at most `Job.max_tokens` `Token`s, none of which ends an answer (`TextSide.stop_ids`).
        """
        ...

    def abort(self) -> None:
        """Have `serve` end all jobs soon, also those that wait, with a StoppingError, and return once the queue is closed."""
        ...
