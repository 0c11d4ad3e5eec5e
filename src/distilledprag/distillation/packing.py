"""Packed batches: rows of one fixed length, each holding several contexts with all of their questions.

    R = rows, T = tokens a row, N = document tokens of the batch that the student gets, K = answer tokens of the batch

    row      [context 1: passages | question | question ...] [context 2 ...] padding
    teacher  the passages in plain text        student  a mask for every kept document token, the rest alike
    encoder  every passage alone, behind the same opening, packed in rows of its own

A token sees the context that it belongs to and its own question, never other questions or contexts. Teacher and student
have their questions in the same order, so answer tokens match one to one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distilledprag.distillation.examples import NOT_FOUND, Context
from distilledprag.prompts import PromptBuilder
from distilledprag.text import sentences

IGNORED = -100


@dataclass
class PackedRows:
    """ids, positions, owners (which context), segments (0: context, k: its k-th question), labels of the next token: (R, T)."""

    ids: Tensor
    positions: Tensor
    owners: Tensor
    segments: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> PackedRows:
        return PackedRows(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))

    def attention(self, dtype: torch.dtype) -> Tensor:
        """(R, 1, T, T) 0 where a token sees another, the dtype's lowest number elsewhere. Padding sees itself."""
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        same = self.owners[:, :, None] == self.owners[:, None, :]
        visible = (self.segments[:, None, :] == 0) | (self.segments[:, :, None] == self.segments[:, None, :])
        allowed = causal & same & visible
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)[
            :, None
        ]


@dataclass
class PackedBatch:
    """sources, targets: (N,) positions in the flattened encoder and student rows; numbers: (N,) of each mask in its context."""

    teacher: PackedRows
    student: PackedRows
    encoder: PackedRows
    sources: Tensor
    targets: Tensor
    numbers: Tensor
    contexts: int

    def to(self, device: torch.device | str) -> PackedBatch:
        parts = [getattr(self, name).to(device) for name in ("teacher", "student", "encoder", "sources", "targets", "numbers")]
        return PackedBatch(*parts, self.contexts)


@dataclass(frozen=True)
class TokenizedContext:
    """opening: ids before the first passage's label. passages: (label ids, document ids, kept). questions: (ids, answer ids)."""

    opening: list[int]
    passages: list[tuple[list[int], list[int], list[bool]]]
    questions: list[tuple[list[int], list[int]]]

    def context(self, mask_id: int | None) -> list[int]:
        ids = list(self.opening)
        for label, document, kept in self.passages:
            ids += label + (document if mask_id is None else [mask_id] * sum(kept))
        return ids


class ContextTokenizer:
    """Contexts -> token ids as the prompt builder writes them."""

    def __init__(self, prompts: PromptBuilder, *, longest: int, most_masks: int, seed: int, left_out: float = 0.3) -> None:
        """longest: tokens of a context with its questions. left_out: share of contexts of which the student gets some
        sentences only (those with an answer, and others at random)."""
        self._prompts, self._longest, self._most_masks, self._left_out = prompts, longest, most_masks, left_out
        self._random = random.Random(seed)

    def __call__(self, context: Context) -> TokenizedContext | None:
        """None for a context that is too long even with one question."""
        built = self._prompts.context(context.passages)
        parts: list[tuple[list[int], list[int]]] = []
        label: list[int] = []
        document: list[int] = []
        for index, hidden in zip(built.open_ids, built.is_document, strict=True):
            if hidden:
                document.append(index)
            elif document:
                parts.append((label, document))
                label, document = [index], []
            else:
                label.append(index)
        parts.append((label, document))
        first = self._label_length(parts[0][0])
        opening, parts[0] = parts[0][0][:first], (parts[0][0][first:], parts[0][1])
        if sum(len(document) for _, document in parts) > self._most_masks:
            return None
        questions = []
        size = len(built.open_ids)
        for question, answer in context.questions:
            pair = (self._prompts.question(question), self._prompts.answer_ids(answer))
            size += sum(map(len, pair))
            if size > self._longest:
                break
            questions.append(pair)
        if not questions:
            return None
        leave_out = self._random.random() < self._left_out
        kept = [
            self._kept(text, document, context, leave_out) for text, (_, document) in zip(context.passages, parts, strict=True)
        ]
        return TokenizedContext(opening, [(a, d, k) for (a, d), k in zip(parts, kept, strict=True)], questions)

    def _label_length(self, before: list[int]) -> int:
        """Where the first passage's label begins in the ids before its text."""
        label = self._prompts.passage_label(1)
        assert before[-len(label) :] == label
        return len(before) - len(label)

    def _kept(self, text: str, document: list[int], context: Context, leave_out: bool) -> list[bool]:
        if not leave_out or any(answer == NOT_FOUND or answer.lower() in ("yes", "no") for _, answer in context.questions):
            return [True] * len(document)
        spans, begin = [], 0
        parts = sentences(text)
        for part in parts:
            end = min(begin + len(self._prompts.document_ids(part)), len(document))
            spans.append((begin, end, part))
            begin = end
        keep = [False] * len(document)
        for begin, end, part in spans:
            needed = any(answer.lower() in part.lower() for _, answer in context.questions)
            if needed or context.joint or self._random.random() < 0.4:
                keep[begin:end] = [True] * (end - begin)
        return keep if sum(keep) > 3 else [True] * len(document)


class _Rows:
    """Rows being filled, first fit."""

    def __init__(self, rows: int, length: int) -> None:
        self.free = [length] * rows
        self.length = length
        self.columns: list[list[list[int]]] = [[[], [], [], [], []] for _ in range(rows)]

    def place(self, size: int) -> int | None:
        return next((row for row, free in enumerate(self.free) if free >= size), None)

    def begin(self, row: int) -> int:
        """Flat position of the row's next token."""
        return row * self.length + len(self.columns[row][0])

    def add(
        self, row: int, owner: int, ids: Sequence[int], start: int, segment: int, labels: Sequence[int] | None = None
    ) -> None:
        count = len(ids)
        labels = labels or [IGNORED] * count
        new = (ids, range(start, start + count), [owner] * count, [segment] * count, labels)
        for column, values in zip(self.columns[row], new, strict=True):
            column.extend(values)
        self.free[row] -= count

    def tensors(self, padding: int) -> PackedRows:
        fill = (padding, 0, -1, 0, IGNORED)
        parts = []
        for place, value in enumerate(fill):
            table = torch.full((len(self.free), self.length), value)
            for row, columns in enumerate(self.columns):
                table[row, : len(columns[place])] = torch.tensor(columns[place], dtype=torch.long)
            parts.append(table)
        # Padding: every token an owner of its own, so that it sees itself alone.
        lone = -1 - torch.arange(self.length)
        parts[2] = torch.where(parts[2] < 0, lone, parts[2])
        return PackedRows(*parts)


def packed_batches(
    contexts: Iterator[TokenizedContext | None], *, rows: int, length: int, mask_id: int, padding: int
) -> Iterator[PackedBatch]:
    """Batches of `rows` rows of `length` tokens for teacher and student, and as many for the encoder."""
    waiting: TokenizedContext | None = None
    while True:
        teacher, student, encoder = (_Rows(rows, length) for _ in range(3))
        sources: list[int] = []
        targets: list[int] = []
        numbers: list[int] = []
        owner = passages = 0
        while True:
            item = waiting or next(contexts)
            waiting = None
            if item is None:
                continue
            plain, masked = item.context(None), item.context(mask_id)
            size = len(plain) + sum(len(q) + len(a) for q, a in item.questions)
            row = teacher.place(size)
            lengths = [len(item.opening) + len(label) + len(document) for label, document, _ in item.passages]
            places = _reserve(encoder, lengths)
            if row is None or places is None:
                waiting = item
                break
            begin = student.begin(row)
            for rows_of, ids in ((teacher, plain), (student, masked)):
                rows_of.add(row, owner, ids, 0, 0)
                for number, (question, answer) in enumerate(item.questions, start=1):
                    whole = [*question, *answer]
                    labels = [*[IGNORED] * (len(question) - 1), *answer, IGNORED]
                    rows_of.add(row, owner, whole, len(ids), number, labels)
            number, offset = 0, begin + len(item.opening)
            for (label, document, kept), place in zip(item.passages, places, strict=True):
                first_label = item.passages[0][0]
                ids = [*item.opening, *first_label, *document]
                start = encoder.begin(place) + len(item.opening) + len(first_label)
                encoder.add(place, passages, ids, 0, 0)
                passages += 1
                offset += len(label)
                for token in (token for token, keep in enumerate(kept) if keep):
                    sources.append(start + token)
                    targets.append(offset)
                    numbers.append(number)
                    offset, number = offset + 1, number + 1
            owner += 1
        if not owner:
            waiting = None  # longer than an empty batch
            continue
        index = [torch.tensor(values, dtype=torch.long) for values in (sources, targets, numbers)]
        yield PackedBatch(teacher.tensors(padding), student.tensors(padding), encoder.tensors(padding), *index, owner)


def _reserve(rows: _Rows, sizes: list[int]) -> list[int] | None:
    """Rows for all of the sizes, or None; nothing is filled yet."""
    free, places = list(rows.free), []
    for size in sizes:
        row = next((row for row, left in enumerate(free) if left >= size), None)
        if row is None:
            return None
        free[row] -= size
        places.append(row)
    return places
