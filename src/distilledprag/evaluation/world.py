"""The record world's table: every method on every split, kind of question and number of documents.

Each question is the first of its example and kind (for single facts: a seeded choice), answered greedily.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from distilledprag.baselines.augmented import world_documents
from distilledprag.decoding import greedy_texts
from distilledprag.evaluation.methods import METHODS, NEEDS, Item, Setting, mask_row, prepare_adapters
from distilledprag.evaluation.metrics import exact_match, token_f1, wilson_interval
from distilledprag.evaluation.partial import PartialRows
from distilledprag.generator.mask_kind import mask_embedded_as
from distilledprag.synthesis.world import FEWEST_DOCUMENTS, Kind, Split, World

BATCH = 50
ANSWER_TOKENS = 24
ROW_KEY = ("method", "split", "kind", "documents")


@dataclass(frozen=True)
class Cell:
    """One row group of the table."""

    split: Split
    kind: Kind
    documents: int


def cells() -> Iterator[Cell]:
    """Test: all kinds at up to 3 documents, and multi-hop kinds at 4; held-out splits: the main ones of these."""
    for kind in ("single", "comparison", "compositional", "bridge"):
        fewest = max(FEWEST_DOCUMENTS[kind], 1 if kind == "single" else 2)  # type: ignore[index]
        for documents in range(fewest, 4 if kind == "single" else 5):
            yield Cell("test", kind, documents)  # type: ignore[arg-type]
    for split in ("held_out_templates", "held_out_family"):
        for documents in (1, 2, 3):
            yield Cell(split, "single", documents)  # type: ignore[arg-type]
        for kind in ("comparison", "compositional", "bridge"):
            yield Cell(split, kind, 3)  # type: ignore[arg-type]


def items_of(cell: Cell, n: int, seed: int) -> list[Item]:
    """The cell's `n` questions; each one's `other_documents` are those of the next example."""
    world = World(cell.split, seed)
    examples = [world.example(index, cell.kind, cell.documents) for index in range(n + 1)]
    items = []
    for index, example in enumerate(examples[:n]):
        fitting = [question for question in example.questions if question.kind == cell.kind]
        chosen = random.Random(f"{seed}/{index}").choice(fitting) if cell.kind == "single" else fitting[0]
        items.append(Item(chosen.text, chosen.answer, example.documents, examples[index + 1].documents))
    return items


def augmented_items(cell: Cell, items: list[Item], seed: int) -> list[Item]:
    """The cell's items with what PRAG trains on."""
    world = World(cell.split, seed)
    made = [world_documents(world, index, cell.kind, cell.documents) for index in range(len(items) + 1)]
    return [replace(item, augmented=made[index], other_augmented=made[index + 1]) for index, item in enumerate(items)]


def answers(setting: Setting, method: str, items: list[Item]) -> list[str]:
    """Greedy answers in the items' order; batches are of similar length, which changes no answer."""
    order = sorted(range(len(items)), key=lambda place: sum(map(len, items[place].documents)))
    texts = [""] * len(items)
    for begin in range(0, len(order), BATCH):
        places = order[begin : begin + BATCH]
        prepare_adapters(setting, method, [items[place] for place in places])
        prompts, adapters = METHODS[method](setting, [items[place] for place in places])
        with torch.no_grad(), mask_embedded_as(setting.base, mask_row(setting, method)):
            made = greedy_texts(setting.base, prompts, adapters, setting.prompts.end_of_turn_id, ANSWER_TOKENS)
        for place, text in zip(places, made, strict=True):
            texts[place] = text
    return texts


def evaluate_world(
    setting: Setting,
    methods: list[str],
    n: int,
    seed: int,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    partial: PartialRows | None = None,
) -> list[dict[str, Any]]:
    """One row per cell and method: exact_match, f1 and a 95 % interval of the exact match. Rows that `partial` already has
    are not measured again."""
    partial = partial or PartialRows(None, {}, ROW_KEY)
    rows = []
    for cell in cells():
        missing = [method for method in methods if partial.get(method=method, **vars(cell)) is None]
        items = items_of(cell, n, seed) if missing else []
        if any(NEEDS.get(method) == "prag" for method in missing):
            items = augmented_items(cell, items, seed)
        for method in methods:
            row = partial.get(method=method, **vars(cell)) or measure(setting, method, cell, items)
            if method in missing:
                partial.add(row)
            rows.append(row)
            if on_row:
                on_row(row)
    return rows


def measure(setting: Setting, method: str, cell: Cell, items: list[Item]) -> dict[str, Any]:
    """One row of the table."""
    n = len(items)
    made = answers(setting, method, items)
    exact = sum(exact_match(text, item.answer) for text, item in zip(made, items, strict=True)) / n
    f1 = sum(token_f1(text, item.answer) for text, item in zip(made, items, strict=True)) / n
    low, high = wilson_interval(exact, n)
    row = {"method": method, **vars(cell), "n": n, "exact_match": round(exact, 4), "f1": round(f1, 4)}
    return {**row, "interval": [round(low, 4), round(high, 4)]}
