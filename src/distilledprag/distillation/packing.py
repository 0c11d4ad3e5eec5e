"""Packed rows: contexts with several questions each, where a question sees its context and itself only.

    R = rows   T = tokens of a row   N = supervised positions   V = vocabulary

    row   [context 1: passages | question | question ...] [context 2 ...] padding

Every question's positions continue right after its context, so a packed question is computed exactly as if it stood alone.
Distillation of a generator has one context a row (each row gets an adapter of its own); the reader's training fills rows of one
fixed length with as many contexts as fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100

TokenizedPair = tuple[list[int], list[int]]
"""Ids of a question (from its label to the answer prefix) and of its answer (which ends with the end-of-turn token)."""


@dataclass
class PackedRows:
    """All (R, T) int64: token ids, positions, `owners` (which context; below 0: padding), `segments` (0: context, k: its k-th
    question with its answer), `labels` (the token that a position must predict, or IGNORED). Supervised are exactly the positions
    that predict an answer token or the end-of-turn token after it. `hidden`: bool, tokens that no other token sees."""

    ids: Tensor
    positions: Tensor
    owners: Tensor
    segments: Tensor
    labels: Tensor
    hidden: Tensor | None = None

    def to(self, device: torch.device | str) -> PackedRows:
        """The same rows on another device."""

        def moved(table: Tensor) -> Tensor:
            return table.to(device, non_blocking=True)

        hidden = None if self.hidden is None else moved(self.hidden)
        rest = (moved(self.positions), moved(self.owners), moved(self.segments), moved(self.labels))
        return PackedRows(moved(self.ids), *rest, hidden)

    @property
    def is_token(self) -> Tensor:
        """(R, T) bool: False on padding."""
        return self.owners >= 0

    @property
    def is_question(self) -> Tensor:
        """(R, T) bool: questions and their answers."""
        return self.segments > 0

    @property
    def is_supervised(self) -> Tensor:
        """(R, T) bool: positions that predict an answer token."""
        return self.labels != IGNORED

    def without(self, hidden: Tensor) -> PackedRows:
        """Other tokens as if the `hidden` ones (R, T) were not there: unseen, and positions count without them.

        For rows of one context, whose hidden tokens all stand before its questions.
        """
        gone = hidden.sum(dim=1, keepdim=True)  # (R, 1)
        before = torch.where(self.is_question, gone, hidden.cumsum(dim=1))
        return replace(self, positions=(self.positions - before).clamp(min=0), hidden=hidden)

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a model of this dtype reads."""
        return {"input_ids": self.ids, "position_ids": self.positions, "attention_mask": self.attention(dtype)}

    def all_right(self, logits: Tensor) -> Tensor:
        """(R,) bool: rows whose every answer token (end of turn included) is the argmax. logits: (N, V) at the supervised
        positions.

        For rows with one question this equals exact match of greedy decoding.
        """
        right = torch.ones_like(self.is_supervised)
        right[self.is_supervised] = logits.argmax(-1) == self.labels[self.is_supervised]
        return right.all(dim=1)

    def attention(self, dtype: torch.dtype) -> Tensor:
        """(R, 1, T, T): 0 where a token (third axis) sees another (last axis), the dtype's lowest number elsewhere.

        Every token sees itself, padding too, so that no row of the softmax is empty.
        """
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        same = self.owners[:, :, None] == self.owners[:, None, :]
        visible = (self.segments[:, None, :] == 0) | (self.segments[:, :, None] == self.segments[:, None, :])
        allowed = causal & same & visible
        if self.hidden is not None:
            allowed &= ~self.hidden[:, None, :] | torch.eye(length, dtype=torch.bool, device=self.ids.device)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def packed_length(context: Sequence[int], questions: Sequence[TokenizedPair]) -> int:
    """Tokens of a context with its questions. An answer's last token is predicted, but never read."""
    return len(context) + sum(len(question) + len(answer) - 1 for question, answer in questions)


class RowTable:
    """Rows being filled with contexts. length: of every row; None: as long as the longest turns out."""

    def __init__(self, rows: int, length: int | None = None) -> None:
        self.length = length
        self.columns: list[list[list[int]]] = [[[], [], [], [], []] for _ in range(rows)]

    def used(self, row: int) -> int:
        """Tokens in a row so far."""
        return len(self.columns[row][0])

    def first_fit(self, sizes: Sequence[int]) -> list[int] | None:
        """A row for each of the sizes, all of them placed together; None where there is no room. Nothing is filled yet."""
        assert self.length is not None
        free = [self.length - self.used(row) for row in range(len(self.columns))]
        places = []
        for size in sizes:
            row = next((row for row, left in enumerate(free) if left >= size), None)
            if row is None:
                return None
            free[row] -= size
            places.append(row)
        return places

    def add(self, row: int, owner: int, context: Sequence[int], questions: Sequence[TokenizedPair] = ()) -> None:
        """Append a context and its questions to a row."""
        self._append(row, owner, context, 0, 0, [IGNORED] * len(context))
        for number, (question, answer) in enumerate(questions, start=1):
            labels = [IGNORED] * (len(question) - 1) + answer
            self._append(row, owner, [*question, *answer[:-1]], len(context), number, labels)

    def _append(self, row: int, owner: int, ids: Sequence[int], start: int, segment: int, labels: Sequence[int]) -> None:
        count = len(ids)
        new = (ids, range(start, start + count), [owner] * count, [segment] * count, labels)
        for column, values in zip(self.columns[row], new, strict=True):
            column.extend(values)

    def tensors(self, padding: int) -> PackedRows:
        """padding: id of what fills the rows' ends."""
        length = self.length or max(self.used(row) for row in range(len(self.columns)))
        tables = []
        for place, filler in enumerate((padding, 0, -1, 0, IGNORED)):
            table = torch.full((len(self.columns), length), filler)
            for row, columns in enumerate(self.columns):
                table[row, : len(columns[place])] = torch.tensor(columns[place], dtype=torch.long)
            tables.append(table)
        # Every padding token has an owner of its own, so that it sees itself alone.
        tables[2] = torch.where(tables[2] < 0, -1 - torch.arange(length), tables[2])
        return PackedRows(*tables)
