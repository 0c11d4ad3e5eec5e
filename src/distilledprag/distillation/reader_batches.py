"""Batches of the reader's training: packed rows for teacher and student, and for the encoder of written states.

    R = rows   T = tokens of a row   N = document tokens of the batch that the student gets

    teacher  the passages in plain text        student  a mask for every kept document token, the rest alike
    encoder  every passage alone, behind the same opening, packed in rows of its own

Teacher and student have their questions in the same order, so answer tokens match one to one. A batch is a pure function of the
visit it begins with, so a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from distilledprag.distillation.contexts import NOT_FOUND, Context, ContextMixer
from distilledprag.distillation.packing import PackedRows, RowTable, TokenizedPair, packed_length
from distilledprag.errors import InputError
from distilledprag.prompts import PromptBuilder
from distilledprag.words import sentence_spans

_PATIENCE = 1000  # contexts that fit in no batch, one after the other, before a run gives up


@dataclass
class ContextBatch:
    """sources, targets: (N,) positions in the flattened encoder and student rows; numbers: (N,) of each mask in its context.
    contexts: how many the batch holds; stream, next_visit: see `ContextBatches`."""

    teacher: PackedRows
    student: PackedRows
    encoder: PackedRows
    sources: Tensor
    targets: Tensor
    numbers: Tensor
    contexts: int
    stream: int = 0
    next_visit: int = 0

    def to(self, device: torch.device | str) -> ContextBatch:
        """The same batch on another device."""
        return ContextBatch(
            self.teacher.to(device),
            self.student.to(device),
            self.encoder.to(device),
            self.sources.to(device),
            self.targets.to(device),
            self.numbers.to(device),
            self.contexts,
            self.stream,
            self.next_visit,
        )


@dataclass(frozen=True)
class TokenizedContext:
    """opening: ids before the first passage's label. passages: (label ids, document ids, kept by the student)."""

    opening: list[int]
    passages: list[tuple[list[int], list[int], list[bool]]]
    questions: list[TokenizedPair]

    def context(self, mask_id: int | None) -> list[int]:
        """Ids of the context: in plain text, or with a mask for every kept document token."""
        ids = list(self.opening)
        for label, document, kept in self.passages:
            ids += label + (document if mask_id is None else [mask_id] * sum(kept))
        return ids


class ContextTokenizer:
    """Contexts -> token ids as the prompt builder writes them."""

    def __init__(self, prompts: PromptBuilder, *, longest: int, most_masks: int, left_out: float = 0.3) -> None:
        """longest: tokens of a context with its questions. left_out: share of contexts of which the student gets some
        sentences only (those with an answer, and others at random)."""
        self._prompts, self._longest, self._most_masks, self._left_out = prompts, longest, most_masks, left_out

    def __call__(self, context: Context, draw: random.Random) -> TokenizedContext | None:
        """None for a context that is too long even with one question. draw: decides which sentences are left out."""
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
        opening_length = self._label_begins(parts[0][0])
        opening, parts[0] = parts[0][0][:opening_length], (parts[0][0][opening_length:], parts[0][1])
        if sum(len(document) for _, document in parts) > self._most_masks:
            return None
        questions: list[TokenizedPair] = []
        for question, answer in context.questions:
            pair = (self._prompts.question(question), self._prompts.answer_ids(answer))
            if packed_length(built.open_ids, [*questions, pair]) > self._longest:
                break
            questions.append(pair)
        if not questions:
            return None
        leave_out = draw.random() < self._left_out
        passages = [
            (label, document, self._kept(text, len(document), context, draw) if leave_out else [True] * len(document))
            for text, (label, document) in zip(context.passages, parts, strict=True)
        ]
        return TokenizedContext(opening, passages, questions)

    def _label_begins(self, before: list[int]) -> int:
        """Where the first passage's label begins in the ids before its text."""
        label = self._prompts.passage_label(1)
        assert before[-len(label) :] == label
        return len(before) - len(label)

    def _kept(self, text: str, size: int, context: Context, draw: random.Random) -> list[bool]:
        """Which of a passage's `size` tokens the student gets."""
        if any(answer == NOT_FOUND or answer.lower() in ("yes", "no") for _, answer in context.questions):
            return [True] * size
        keep = [False] * size
        for sentence, begin, end in sentence_spans(text, self._prompts.document_length):
            needed = any(answer.lower() in sentence.lower() for _, answer in context.questions)
            if needed or context.joint or draw.random() < 0.4:
                keep[begin:end] = [True] * (min(end, size) - min(begin, size))
        return keep if sum(keep) > 3 else [True] * size


def pack_contexts(
    items: Iterable[TokenizedContext | None], *, rows: int, length: int, mask_id: int, padding: int
) -> tuple[ContextBatch, int]:
    """A batch of as many contexts as fit in `rows` rows of `length` tokens, first fit, and how many items it took.

    The first context that does not fit ends the batch and is not taken. None is passed over, and so is a context that does not
    even fit in an empty batch. Raises InputError when a thousand in a row do not.
    """
    teacher, student, encoder = (RowTable(rows, length) for _ in range(3))
    sources: list[int] = []
    targets: list[int] = []
    numbers: list[int] = []
    owner = passages = taken = 0
    for item in items:
        if item is not None:
            plain = item.context(None)
            row = teacher.first_fit([packed_length(plain, item.questions)])
            places = encoder.first_fit([len(item.opening) + len(label) + len(document) for label, document, _ in item.passages])
            if row is None or places is None:
                if owner:
                    break
            else:
                masks = row[0] * length + student.used(row[0]) + len(item.opening)  # the flat position of what comes next
                teacher.add(row[0], owner, plain, item.questions)
                student.add(row[0], owner, item.context(mask_id), item.questions)
                first_label, number = item.passages[0][0], 0
                for (label, document, kept), place in zip(item.passages, places, strict=True):
                    begin = place * length + encoder.used(place) + len(item.opening) + len(first_label)
                    encoder.add(place, passages, [*item.opening, *first_label, *document])
                    passages += 1
                    masks += len(label)
                    for token in itertools.compress(range(len(document)), kept):
                        sources.append(begin + token)
                        targets.append(masks)
                        numbers.append(number)
                        masks, number = masks + 1, number + 1
                owner += 1
        taken += 1
        if not owner and taken == _PATIENCE:
            raise InputError(
                f"none of {taken} contexts fits in a row of {length} tokens with the masks that there are; give a larger "
                "training.sequence_length, more training.masks, or shorter passages"
            )
    index = [torch.tensor(values, dtype=torch.long) for values in (sources, targets, numbers)]
    tables = [table.tensors(padding) for table in (teacher, student, encoder)]
    return ContextBatch(tables[0], tables[1], tables[2], index[0], index[1], index[2], owner), taken


class ContextBatches(IterableDataset[ContextBatch]):
    """Batches without end, from where an earlier run stopped.

    `streams`: how many series of batches are interleaved, one for each worker process; stream s visits contexts s, s + streams,
    s + 2 streams, ... `position`: of each stream, the visit that its next batch begins with; `drawn`: batches drawn so far. A
    checkpoint must hold both.
    """

    def __init__(
        self,
        mixer: ContextMixer,
        tokenize: ContextTokenizer,
        *,
        rows: int,
        length: int,
        mask_id: int,
        padding: int,
        streams: int = 1,
    ) -> None:
        self._mixer, self._tokenize = mixer, tokenize
        self._rows, self._length, self._mask_id, self._padding = rows, length, mask_id, padding
        self.position = list(range(streams))
        self.drawn = 0

    def state_dict(self) -> dict[str, int | list[int]]:
        """What a resumed run needs to draw the batches that come next."""
        return {"position": list(self.position), "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.position, self.drawn = list(state["position"]), int(state["drawn"])

    def draw(self) -> Iterator[ContextBatch]:
        """The batches, drawn one by one; `state_dict` then says where the run is."""
        workers = len(self.position) if len(self.position) > 1 else 0
        for batch in DataLoader(self, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None):
            self.position[batch.stream] = batch.next_visit
            self.drawn += 1
            yield batch

    def __iter__(self) -> Iterator[ContextBatch]:
        """One worker's batches. The loader takes turns, so worker w goes on with stream (drawn + w) mod streams."""
        worker, streams = get_worker_info(), len(self.position)
        stream = (self.drawn + (worker.id if worker else 0)) % streams
        visit = self.position[stream]
        while True:
            contexts = map(self._context, itertools.count(visit, streams))
            batch, taken = pack_contexts(
                contexts, rows=self._rows, length=self._length, mask_id=self._mask_id, padding=self._padding
            )
            visit += taken * streams
            batch.stream, batch.next_visit = stream, visit
            yield batch

    def _context(self, visit: int) -> TokenizedContext | None:
        return self._tokenize(self._mixer.visit(visit), random.Random(f"sentences/{self._mixer.seed}/{visit}"))
