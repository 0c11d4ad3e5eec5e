"""What to ask about: every document alone, and every document with random others (paper, "QA synthesis")."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distilledprag.synthesis.sources import Document

Kind = Literal["single", "cross"]
DRAWS = 20  # attempts to find a partner that the document has not been paired with yet


@dataclass(frozen=True)
class Item:
    """The documents that one group of questions is about: one for `single`, two for `cross`."""

    kind: Kind
    documents: tuple[Document, ...]

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]


def plan_items(documents: Sequence[Document], partners: int, seed: int) -> list[Item]:
    """Each document alone and with `partners` random others; no two documents are paired twice.

    The paper has about 5 cross-document questions per document, which is one partner. The plan is a pure function of its
    arguments. With few documents there are fewer pairs than asked for.
    """
    rng = random.Random(f"partners/{seed}")
    paired: set[frozenset[int]] = set()
    items: list[Item] = []
    for index, document in enumerate(documents):
        items.append(Item("single", (document,)))
        for _ in range(partners):
            other = _partner(index, len(documents), paired, rng)
            if other is not None:
                paired.add(frozenset((index, other)))
                items.append(Item("cross", (document, documents[other])))
    return items


def _partner(index: int, count: int, paired: set[frozenset[int]], rng: random.Random) -> int | None:
    for _ in range(DRAWS if count > 1 else 0):
        other = rng.randrange(count - 1)
        other += other >= index
        if frozenset((index, other)) not in paired:
            return other
    return None
