"""Batches of a generator's training, from files of question-answer pairs.

    B = contexts of a batch   T = tokens of the longest row

A line is `{documents: [str], question, answer, full_answer?, kind?}`, as `dprag synthesize` writes it, or a row of a question set
as `dprag evaluate --data` reads it: `{documents: [{title, text}], question, answers}`. Questions about the same documents are
packed behind one context. Batch number -> rows is a pure function, so a resumed run sees what the unbroken one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from distilledprag.distillation.contexts import is_question_row, question_of
from distilledprag.distillation.packing import PackedRows, RowTable, TokenizedPair
from distilledprag.errors import InputError
from distilledprag.json_lines import json_rows
from distilledprag.prompts import Prompt, PromptBuilder


class Pair(Settings):
    """One question about one or more documents."""

    model_config = ConfigDict(extra="ignore")
    documents: tuple[str, ...] = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    full_answer: str = ""
    kind: str = "single"


class PairDataSettings(Settings):
    """`batch_size`: contexts in a batch; `questions_per_context`: at most so many are packed behind one context;
    `validation_share`: contexts held back for evaluation."""

    model_config = ConfigDict(extra="forbid")
    files: list[Path] = Field(min_length=1)
    batch_size: int = Field(4, gt=0)
    questions_per_context: int = Field(5, gt=0)
    validation_share: float = Field(0.02, ge=0, lt=1)
    seed: int = 0


def read_pairs(file: Path) -> Iterator[Pair]:
    """The pairs of a .jsonl, .jsonl.gz or .parquet file. Raises InputError naming the line of the first unusable row.

    Rows of a question set that have no answer, or a long one, are left out.
    """
    if not file.exists():
        raise InputError(f"{file} does not exist; write it with `dprag synthesize`, or correct the recipe's data.files")
    for number, row in _raw_rows(file):
        try:
            of_question_set = isinstance(row, dict) and "answers" in row
            pair = _of_question_row(file, number, row) if of_question_set else Pair.model_validate(row)
            if pair is not None:
                yield pair
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "row"
            raise InputError(f"{file}, row {number}: {place}: {first['msg']}") from error


def _of_question_row(file: Path, number: int, row: dict[str, Any]) -> Pair | None:
    """A row of a question set as a pair; None where `question_of` leaves it out."""
    if not is_question_row(row):
        raise InputError(f"{file}, row {number}: not a row with documents, question and answers")
    found = question_of(row)
    if found is None:
        return None
    documents, question, answer = found
    return Pair(documents=documents, question=question, answer=answer, kind="single" if len(documents) == 1 else "cross")


def _raw_rows(file: Path) -> Iterator[tuple[int, Any]]:
    if file.suffix != ".parquet":
        yield from json_rows(file)
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{file} is Parquet: install pyarrow, or convert it to .jsonl") from error
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise InputError(f"{file} is not a readable Parquet file ({error}); write or copy it again") from error
    yield from enumerate(rows, start=1)


@dataclass(frozen=True)
class TrainingRow:
    """The passages of one prompt, their context, open and masked, and the questions about them."""

    passages: tuple[str, ...]
    context: Prompt
    questions: list[TokenizedPair]


@dataclass
class Batch:
    """One context a row. teacher, student: (B, T) packed rows of open and masked prompts, alike but for the document tokens,
    which are where `is_document` (B, T) is True. passages: what each row was made from."""

    teacher: PackedRows
    student: PackedRows
    is_document: Tensor
    passages: list[tuple[str, ...]]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.teacher.to(device), self.student.to(device), self.is_document.to(device), self.passages)


def collate(rows: Sequence[TrainingRow], pad_id: int) -> Batch:
    """Pad rows on the right with `pad_id`."""
    teacher, student = RowTable(len(rows)), RowTable(len(rows))
    for number, row in enumerate(rows):
        teacher.add(number, 0, row.context.open_ids, row.questions)
        student.add(number, 0, row.context.masked_ids, row.questions)
    packed = teacher.tensors(pad_id)
    is_document = torch.zeros(packed.ids.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        is_document[number, : len(row.context)] = torch.tensor(row.context.is_document)
    return Batch(packed, student.tensors(pad_id), is_document, [row.passages for row in rows])


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """0 to `count` - 1, shuffled anew for each epoch; kept, since shuffling thousands takes as long as a step on a GPU."""
    order = list(range(count))
    random.Random(f"epoch/{seed}/{epoch}").shuffle(order)
    return order


class PairData:
    """Draws batches from pair files: contexts in a seeded order, a new order every epoch."""

    def __init__(self, prompts: PromptBuilder, settings: PairDataSettings) -> None:
        self.prompts = prompts
        self.settings = settings
        grouped: dict[tuple[str, ...], list[Pair]] = {}
        for file in settings.files:
            for pair in read_pairs(file):
                grouped.setdefault(pair.documents, []).append(pair)
        groups = list(grouped.items())
        random.Random(f"split/{settings.seed}").shuffle(groups)
        held_back = min(round(len(groups) * settings.validation_share), len(groups) - 1)
        self.held_back, self.groups = groups[:held_back], groups[held_back:]
        if not self.groups:
            raise InputError(f"{', '.join(map(str, settings.files))}: no question-answer pairs found")

    def rows(self, number: int) -> list[TrainingRow]:
        """The contexts of a batch with their questions."""
        first = number * self.settings.batch_size
        return [self._row(index) for index in range(first, first + self.settings.batch_size)]

    def _row(self, index: int) -> TrainingRow:
        epoch, place = divmod(index, len(self.groups))
        documents, pairs = self.groups[epoch_order(len(self.groups), self.settings.seed, epoch)[place]]
        rng = random.Random(f"questions/{self.settings.seed}/{index}")
        return self._tokenized(documents, rng.sample(pairs, min(len(pairs), self.settings.questions_per_context)))

    def _tokenized(self, documents: tuple[str, ...], pairs: list[Pair]) -> TrainingRow:
        questions = [(self.prompts.question(pair.question), self.prompts.answer_ids(pair.answer)) for pair in pairs]
        return TrainingRow(documents, self.prompts.context(documents), questions)

    def validation_rows(self) -> dict[str, list[TrainingRow]]:
        """One question per row, grouped by the pairs' kind."""
        rows: dict[str, list[TrainingRow]] = {}
        for documents, pairs in self.held_back:
            for pair in pairs:
                rows.setdefault(f"{pair.kind}/{len(documents)}", []).append(self._tokenized(documents, [pair]))
        return rows
