"""What PRAG trains an adapter from: a document, the same in other words, and questions about it with answers.

Knows nothing about models. Questions come from synthesized pairs (there is no rewrite then) or from PRAG's own files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distilledprag.distillation.pair_data import Pair, read_pairs


@dataclass(frozen=True)
class AugmentedDocument:
    """rewrite: the document in other words, or "" without one. questions: (question, answer) pairs, at least one."""

    text: str
    rewrite: str
    questions: tuple[tuple[str, str], ...]


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
