"""What PRAG trains an adapter from: a document, the same in other words, and questions about it with answers.

Knows nothing about models. On the record world, rewrite and questions are drawn from the world's own templates; elsewhere
questions come from synthesized pairs (there is no rewrite then) or from PRAG's own files.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distilledprag.synthesis.world import Kind, World
from distilledprag.synthesis.world.examples import PassageWriter
from distilledprag.synthesis.world.records import Record, write
from distilledprag.training.pair_data import Pair, read_pairs


@dataclass(frozen=True)
class AugmentedDocument:
    """rewrite: the document in other words, or "" without one. questions: (question, answer) pairs, at least one."""

    text: str
    rewrite: str
    questions: tuple[tuple[str, str], ...]


def world_documents(world: World, index: int, kind: Kind, documents: int) -> tuple[AugmentedDocument, ...]:
    """The passages of `world.example(index, kind, documents)`, each with a rewrite of the same facts and a question about each.

    Templates are drawn anew, never the held-out ones: an LLM that augments a document does not know how it will be asked.
    """
    # The example holds texts only; its writer, with the example's own random stream, also knows the facts behind them.
    writer = PassageWriter(world, random.Random(f"{world.split}/{world.seed}/{index}"), documents)
    writer.write(kind)
    rng = random.Random(f"augment/{world.split}/{world.seed}/{index}")
    return tuple(_augment(rng, world, record) for record in writer.records)


def _augment(rng: random.Random, world: World, record: Record) -> AugmentedDocument:
    entity = record.entity
    count = len(record.stated)
    style = replace(world.style, held_out_templates=False, facts=(count, count), fewest_words=0)
    rewritten = write(rng, entity, style, record.stated)
    questions = [
        (rng.choice(entity.family.attributes[key].ask).format(n=entity.name), entity.values[key][0]) for key in record.stated
    ]
    rng.shuffle(questions)
    return AugmentedDocument(record.text, rewritten.text, tuple(questions))


def documents_of_pairs(files: Sequence[Path]) -> dict[str, AugmentedDocument]:
    """The documents of `dprag synthesize` files by their text, each with its single-document questions.

    Raises InputError as `read_pairs` does.
    """
    return grouped(pair for file in files for pair in read_pairs(file))


def grouped(pairs: Iterable[Pair]) -> dict[str, AugmentedDocument]:
    """Single-document pairs by document; PRAG makes an adapter of one document, so cross-document pairs are left out."""
    found: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        if len(pair.documents) == 1:
            found.setdefault(pair.documents[0], []).append((pair.question, pair.answer))
    return {text: AugmentedDocument(text, "", tuple(questions)) for text, questions in found.items()}
