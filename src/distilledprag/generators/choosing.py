"""Sentence selection: only the sentences that a question seems to need leave the trusted side.

Whole sentences are kept, in their order, by a small trained scorer (sentence_scorer.py). Short passages are kept whole: where
a document has a handful of sentences, the one with the answer often shares no word with the question ("he").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distilledprag.errors import InputError
from distilledprag.generators.sentence_scorer import Sentence, SentenceScorer
from distilledprag.text import sentence_spans

FEWEST = 60  # rows; passages that have fewer altogether are kept whole


def cut(passages: Sequence[str], count: Callable[[str], int]) -> list[Sentence]:
    """All sentences of the passages, in order. count: tokens of a text."""
    return [
        Sentence(number, place, text, end - begin)
        for number, passage in enumerate(passages)
        for place, (text, begin, end) in enumerate(sentence_spans(passage, count))
    ]


def choose(scores: NDArray[np.float64], parts: Sequence[Sentence], rows: float) -> set[int]:
    """Places of the sentences to keep: the best first, as long as they fit. rows: a share up to 1, or a number of rows."""
    budget = _budget(parts, rows)
    kept: set[int] = set()
    used = 0
    for index in np.argsort(-scores, kind="stable"):
        if not kept or used + parts[index].size <= budget:
            kept.add(int(index))
            used += parts[index].size
    return kept


def _budget(parts: Sequence[Sentence], rows: float) -> float:
    """The most rows that are sent."""
    return max(FEWEST, rows * sum(part.size for part in parts) if rows <= 1 else rows)


def fitting_sentences(question: str, passages: Sequence[str], room: int, count: Callable[[str], int]) -> list[str]:
    """The passages as they are when their tokens fit into `room`; else with those sentences only that the question seems to need.

    One whose only chosen sentence is longer than `room` alone is left as it is, so that the prompt is refused for its length.
    """
    texts = list(passages)
    for share in (1.0, 0.9, 0.8):  # sentences are counted one by one, and encoded side by side
        if sum(map(count, texts)) <= room or room * share < 2:
            break
        texts = chosen_sentences(question, passages, room * share, count)
    return texts


def chosen_sentences(question: str, passages: Sequence[str], rows: float, count: Callable[[str], int]) -> list[str]:
    """The passages with their chosen sentences only; one of which nothing is chosen becomes empty, and keeps its number.

    rows: a share of all rows (up to 1) or a number of rows. count: tokens of a text. Raises InputError for rows <= 0.
    """
    if not rows > 0:
        raise InputError(f"rows must be a share up to 1, or a number of rows; got {rows:g}")
    parts = cut(passages, count)
    if sum(part.size for part in parts) <= _budget(parts, rows):
        return list(passages)
    kept = choose(SentenceScorer.default().scores(question, parts), parts, rows)
    return [
        " ".join(part.text for index, part in enumerate(parts) if part.passage == number and index in kept)
        for number in range(len(passages))
    ]
