"""State adapters that were made apart, put side by side: documents are encoded once and combined later.

    A: passages of 53 and 47 tokens, masks 0 to 99      B: 30 tokens, masks 0 to 29
    A + B: masks 0 to 99 are A's, 100 to 129 are B's; the prompt has passages of 53, 47 and 30 masks

Rows of a state adapter are the states themselves, so those of B follow those of A. A PEFT adapter holds what a mask lacks to its
state, in one prompt, so its rows are made anew for their new masks. PEFT's own `cat` cannot do that: it leaves both adapters at
masks 0, 1, 2, ..., where their states add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distilledprag.errors import CheckpointError
from distilledprag.generators.state import StateGenerator
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights


@dataclass(frozen=True)
class Part:
    """An adapter and the tokens of each of its passages, in order. name: for messages."""

    adapter: LoraWeights | StateAdapter
    passages: Sequence[int]
    name: str = "an adapter"

    def __post_init__(self) -> None:
        if sum(self.passages) != self.adapter.rank:
            raise CheckpointError(
                f"{self.name} has {self.adapter.rank} rows, but its passages have {sum(self.passages)} tokens: files of two "
                "adapters are mixed; encode the documents again"
            )


def joined_states(parts: Sequence[Part]) -> StateAdapter:
    """The exact path's adapter of all parts in their order. Raises CheckpointError for parts that do not belong together."""
    adapters = [part.adapter for part in parts if isinstance(part.adapter, StateAdapter)]
    first = adapters[0]
    for part, other in zip(parts, adapters, strict=True):
        first.base.require(other.base, part.name)
        if other.layer != first.layer:
            raise CheckpointError(f"{part.name} was written after layer {other.layer}, the first after {first.layer}")
    return StateAdapter(torch.cat([adapter.rows for adapter in adapters]), first.layer, first.base)


def joined_lora(states: StateGenerator, parts: Sequence[Part]) -> LoraWeights:
    """The PEFT adapter of all parts in their order, as if their passages had been encoded together.

    Raises InputError for more tokens than the base has masks, CheckpointError for an adapter of another base or generator.
    """
    wanted = []
    for part in parts:
        adapter = part.adapter
        if not isinstance(adapter, LoraWeights) or not adapter.writes_states:
            raise CheckpointError(
                f"{part.name} is no state adapter, so it has no rows of its own; put its documents in one adapter"
            )
        adapter.base.require(states.base.identity, part.name)
        (pair,) = adapter.modules.values()
        wanted.append(states.present(part.passages) + adapter.scaling * pair.b.float().T)
    return states.lora_of(torch.cat(wanted), [length for part in parts for length in part.passages])
