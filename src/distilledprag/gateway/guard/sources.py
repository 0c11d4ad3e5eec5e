"""What may stand in a prompt: sequences of words (or of tokens) of the frame and of the user's own messages.

A run is allowed where it lies in one of them, and where it only comes about at a joint: the end of a message and then the frame,
for instance. Knows nothing of where the sequences come from.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from distilledprag.gateway.guard.words import RUN, runs

assert RUN == 3  # `allows` spells out the ways in which a run of three can be cut


class Sources:
    """`frame`: what the prompt's form writes, which may be cut anywhere; `messages`: the user's, each kept whole."""

    def __init__(self, frame: Iterable[Sequence[Hashable]], messages: Iterable[Sequence[Hashable]]) -> None:
        frame, messages = [list(items) for items in frame], [list(items) for items in messages if items]
        self.items: frozenset[Any] = frozenset(item for items in [*frame, *messages] for item in items)
        self._inside = {run for items in [*frame, *messages] for run in runs(items)}
        single = {(item,) for items in frame for item in items}
        double = {pair for items in frame for pair in pairwise(items)}
        self._begins = single | double | {tuple(items[:size]) for items in messages for size in (1, 2)}
        self._ends = single | double | {tuple(items[-size:]) for items in messages for size in (1, 2)}
        self._wholes = single | {tuple(items) for items in messages if len(items) == 1}

    def allows(self, run: Sequence[Hashable]) -> bool:
        """Whether a run of three can be written with these sequences alone."""
        run = tuple(run)
        return (
            run in self._inside
            or any(run[:cut] in self._ends and run[cut:] in self._begins for cut in (1, 2))
            or (run[:1] in self._ends and run[1:2] in self._wholes and run[2:] in self._begins)
        )
