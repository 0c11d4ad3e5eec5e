"""Several questions about the same passages in one sequence, each seeing the passages and itself only.

B = batch rows, T = tokens of the longest row. Segment 0 is the context (everything before the question), segments 1, 2,
... are the questions with their answers. Every question's positions continue right after the context, so a packed
question is computed exactly as if it stood alone. This module knows nothing of models and losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distilledprag.prompts import Prompt

IGNORED = -100


@dataclass(frozen=True)
class PackedRow:
    """One context with its questions. All lists have the same length.

    `targets[t]` is the token that position t must predict, or IGNORED; supervised are exactly the positions that
    predict an answer token or the end-of-turn token after it.
    """

    open_ids: list[int]
    masked_ids: list[int]
    is_document: list[bool]
    positions: list[int]
    segments: list[int]
    targets: list[int]


@dataclass(frozen=True)
class TrainingRow:
    """The passages of one prompt and the packed row made from them."""

    passages: tuple[str, ...]
    packed: PackedRow


def pack(context: Prompt, pairs: Sequence[tuple[list[int], list[int]]]) -> PackedRow:
    """Pack `context` with (question ids, answer ids) pairs; the answer ids end with the end-of-turn token."""
    length = len(context.open_ids)
    open_ids, masked_ids, is_document = list(context.open_ids), list(context.masked_ids), list(context.is_document)
    positions, segments, targets = list(range(length)), [0] * length, [IGNORED] * length
    for number, (question, answer) in enumerate(pairs, start=1):
        tokens = question + answer[:-1]
        open_ids += tokens
        masked_ids += tokens
        is_document += [False] * len(tokens)
        positions += range(length, length + len(tokens))
        segments += [number] * len(tokens)
        targets += [IGNORED] * (len(question) - 1) + answer
    return PackedRow(open_ids, masked_ids, is_document, positions, segments, targets)


@dataclass
class PackedBatch:
    """`open_ids`, `masked_ids`, `positions`, `targets`: (B, T) int64; `is_document`: (B, T) bool; `segments`: (B, T)
    int64, 0 for the context, 1, 2, ... for the questions, -1 for padding;
    `attention`: (B, 1, T, T) float, 0 where a query (third axis) may look at a key (last axis) and -inf elsewhere."""

    open_ids: Tensor
    masked_ids: Tensor
    positions: Tensor
    is_document: Tensor
    targets: Tensor
    segments: Tensor
    attention: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        return PackedBatch(**{name: value.to(device) for name, value in vars(self).items()})

    def without_documents(self) -> PackedBatch:
        """Nobody sees the documents' tokens, and positions count as if they were not there."""
        hidden = self.is_document[:, None, None, :] & ~torch.eye(
            self.is_document.size(1), dtype=torch.bool, device=self.is_document.device
        )
        gone = self.is_document.sum(dim=1, keepdim=True)  # (B, 1): all of a row's documents stand before its questions
        before = torch.where(self.is_question, gone, self.is_document.cumsum(dim=1))
        positions = (self.positions - before).clamp(min=0)
        return replace(self, attention=self.attention.masked_fill(hidden, float("-inf")), positions=positions)

    @property
    def is_supervised(self) -> Tensor:
        """(B, T) bool: positions that predict an answer token."""
        return self.targets != IGNORED

    @property
    def is_token(self) -> Tensor:
        """(B, T) bool: False on padding."""
        return self.segments >= 0

    @property
    def is_question(self) -> Tensor:
        """(B, T) bool: questions and their answers."""
        return self.segments > 0


def exact_rows(logits: Tensor, batch: PackedBatch) -> Tensor:
    """(B,) bool: rows whose every answer token (end of turn included) is the argmax of logits (N, vocabulary).

    N are the batch's supervised positions, row by row. For rows with one question this equals exact match of greedy
    decoding.
    """
    right = torch.ones_like(batch.is_supervised)
    right[batch.is_supervised] = logits.argmax(-1) == batch.targets[batch.is_supervised]
    return right.all(dim=1)


def collate(rows: Sequence[PackedRow], pad_id: int) -> PackedBatch:
    """Pad rows on the right and build the block-causal attention mask."""
    longest = max(len(row.open_ids) for row in rows)

    def padded(name: str, filler: int) -> Tensor:
        return torch.tensor([getattr(row, name) + [filler] * (longest - len(row.open_ids)) for row in rows])

    segments = padded("segments", -1)  # (B, T)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    visible = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])  # (B, T query, T key)
    allowed = causal & visible & (segments[:, None, :] >= 0)
    allowed |= torch.eye(longest, dtype=torch.bool)  # padding looks at itself: no row of the softmax is empty
    attention = torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))[:, None]
    return PackedBatch(
        open_ids=padded("open_ids", pad_id),
        masked_ids=padded("masked_ids", pad_id),
        positions=padded("positions", 0),
        is_document=padded("is_document", False).bool(),
        targets=padded("targets", IGNORED),
        segments=segments,
        attention=attention,
    )
