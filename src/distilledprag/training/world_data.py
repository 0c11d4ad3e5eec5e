"""Batches from the record world: which examples, in which mixture, at which step.

Batch number -> examples is a pure function, so a resumed run sees what the unbroken one would have seen.
"""

from __future__ import annotations

import random
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from distilledprag.prompts import PromptBuilder
from distilledprag.synthesis.world import FEWEST_DOCUMENTS, KINDS, Example, Kind, Question, Split, Style, World
from distilledprag.training.packing import TrainingRow, pack


class Phase(BaseModel):
    """A stage of the curriculum. `until`: share of the steps at which it ends. `documents` and `kinds` are weights;
    `copy_share` is the share of batches that only repeat a random token string (base model only)."""

    model_config = ConfigDict(extra="forbid")
    until: float = Field(1.0, gt=0, le=1)
    documents: dict[int, float] = {1: 1.0}
    kinds: dict[Kind, float] = {"single": 1.0}
    copy_share: float = Field(0.0, ge=0, le=1)


class WorldDataSettings(BaseModel):
    """`rows`: rows of a batch by the number of documents (shorter contexts allow more rows)."""

    model_config = ConfigDict(extra="forbid")
    seed: int = 0
    questions: int = Field(6, gt=0)
    rows: dict[int, int] = {1: 64, 2: 40, 3: 28, 4: 22}
    phases: list[Phase] = [Phase()]
    facts: tuple[int, int] = (3, 5)
    fewest_words: int = 20
    rivals: float = Field(0.0, ge=0, le=1)

    @property
    def style(self) -> Style:
        """How the world's passages are written, for evaluation too (`rivals` is of training only)."""
        return Style(facts=self.facts, fewest_words=self.fewest_words)


def choose_questions(rng: random.Random, example: Example, count: int) -> list[Question]:
    """Up to `count` questions in random order, half of them of the example's own kind where it has so many."""
    special = [q for q in example.questions if q.kind != "single"][: max(1, count // 2)]
    singles = [q for q in example.questions if q.kind == "single"]
    chosen = special + rng.sample(singles, min(len(singles), count - len(special)))
    rng.shuffle(chosen)
    return chosen


def pack_example(prompts: PromptBuilder, example: Example, questions: list[Question]) -> TrainingRow:
    """Tokenize an example's passages and the chosen questions into one training row."""
    pairs = [(prompts.question(q.text), prompts.answer_ids(q.answer)) for q in questions]
    packed = pack(prompts.context(example.documents), pairs)
    return TrainingRow(example.documents, packed, tuple(q.documents for q in questions), example.entities)


class WorldData:
    """Draws the batches of one split."""

    def __init__(self, prompts: PromptBuilder, settings: WorldDataSettings, split: Split, steps: int) -> None:
        self.prompts = prompts
        self.settings = settings
        self.world = World(split, settings.seed, replace(settings.style, rivals=settings.rivals))
        self.steps = steps

    def phase(self, number: int) -> Phase:
        share = number / self.steps
        return next((phase for phase in self.settings.phases if share < phase.until), self.settings.phases[-1])

    def is_copy(self, number: int) -> bool:
        return random.Random(f"copy/{self.settings.seed}/{number}").random() < self.phase(number).copy_share

    def examples(self, number: int) -> list[Example]:
        """The examples of batch `number`: all with the same number of documents, of mixed kinds."""
        rng, phase = random.Random(f"batch/{self.settings.seed}/{number}"), self.phase(number)
        documents = rng.choices(list(phase.documents), weights=list(phase.documents.values()))[0]
        fitting = {k: w for k, w in phase.kinds.items() if FEWEST_DOCUMENTS[k] <= documents} or {"single": 1.0}
        kinds = rng.choices(list(fitting), weights=list(fitting.values()), k=self.settings.rows[documents])
        return [self.world.example(number * 1000 + row, kind, documents) for row, kind in enumerate(kinds)]

    def rows(self, number: int) -> list[TrainingRow]:
        rng = random.Random(f"questions/{self.settings.seed}/{number}")
        return [
            pack_example(self.prompts, example, choose_questions(rng, example, self.settings.questions))
            for example in self.examples(number)
        ]


def validation_rows(prompts: PromptBuilder, style: Style, count: int, seed: int = 1) -> dict[str, list[TrainingRow]]:
    """One question per row, `count` rows for each (kind, documents) of the validation world; keys like `single/2`."""
    world = World("validation", seed, style)
    rows: dict[str, list[TrainingRow]] = {}
    for kind in KINDS:
        for documents in range(max(FEWEST_DOCUMENTS[kind], 1 if kind == "single" else 2), 4):
            examples = [world.example(index, kind, documents) for index in range(count)]
            rows[f"{kind}/{documents}"] = [
                pack_example(prompts, example, [next(q for q in example.questions if q.kind == kind)]) for example in examples
            ]
    return rows
