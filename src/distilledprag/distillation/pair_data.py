"""Batches from files of question-answer pairs, as `dprag synthesize` writes them.

A row is `{documents: [str], question, answer, full_answer?, kind?}`. Rows about the same documents are packed into one
sequence. Batch number -> rows is a pure function, so a resumed run sees what the unbroken one would have seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field, ValidationError

from distilledprag.distillation.question_packing import TrainingRow, pack
from distilledprag.errors import InputError
from distilledprag.prompts import PromptBuilder


class Pair(Settings):
    """One question about one or more documents."""

    model_config = ConfigDict(extra="ignore")
    documents: tuple[str, ...] = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    full_answer: str = ""
    kind: str = "single"


class PairDataSettings(Settings):
    """`rows`: contexts in a batch; `questions`: at most so many packed with one context; `validation_share`: contexts
    held back for evaluation."""

    model_config = ConfigDict(extra="forbid")
    files: list[Path] = Field(min_length=1)
    rows: int = Field(4, gt=0)
    questions: int = Field(5, gt=0)
    validation_share: float = Field(0.02, ge=0, lt=1)
    seed: int = 0


def read_pairs(file: Path) -> Iterator[Pair]:
    """The pairs of a .jsonl or .parquet file. Raises InputError naming the line of the first unusable row."""
    if not file.exists():
        raise InputError(f"{file} does not exist; write it with `dprag synthesize`, or correct the recipe's data.files")
    for number, row in _raw_rows(file):
        try:
            yield Pair(**row)
        except (ValidationError, TypeError) as error:
            problems = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
            first = problems[0]
            place = ".".join(map(str, first["loc"])) or "row"
            raise InputError(f"{file}, row {number}: {place}: {first['msg']}") from error


def _raw_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(f"{file} is Parquet: install pyarrow, or convert it to .jsonl") from error
        yield from enumerate(pyarrow.parquet.read_table(file).to_pylist(), start=1)
        return
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{file}, line {number}: not JSON ({error})") from error


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
        first = number * self.settings.rows
        return [self._row(index) for index in range(first, first + self.settings.rows)]

    def _row(self, index: int) -> TrainingRow:
        epoch, place = divmod(index, len(self.groups))
        order = list(range(len(self.groups)))
        random.Random(f"epoch/{self.settings.seed}/{epoch}").shuffle(order)
        documents, pairs = self.groups[order[place]]
        rng = random.Random(f"questions/{self.settings.seed}/{index}")
        return self._pack(documents, rng.sample(pairs, min(len(pairs), self.settings.questions)))

    def _pack(self, documents: tuple[str, ...], pairs: list[Pair]) -> TrainingRow:
        encoded = [(self.prompts.question(pair.question), self.prompts.answer_ids(pair.answer)) for pair in pairs]
        return TrainingRow(documents, pack(self.prompts.context(documents), encoded))

    def validation_rows(self) -> dict[str, list[TrainingRow]]:
        """One question per row, grouped by the pairs' kind."""
        rows: dict[str, list[TrainingRow]] = {}
        for documents, pairs in self.held_back:
            for pair in pairs:
                rows.setdefault(f"{pair.kind}/{len(documents)}", []).append(self._pack(documents, [pair]))
        return rows
