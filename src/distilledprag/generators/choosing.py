"""Sentence selection: only the sentences that a question seems to need leave the trusted side.

Whole sentences are kept, in their order, by the words that they share with the question; rare words count more. Short
passages are kept whole: where a document has a handful of sentences, the one with the answer often shares no word with the
question ("he").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from distilledprag.errors import InputError
from distilledprag.text import sentences, words_of

FEWEST = 60  # rows; passages that have fewer altogether are kept whole


def sentence_spans(text: str, count: Callable[[str], int]) -> list[tuple[str, int, int]]:
    """(sentence, begin, end) of each sentence of a passage, in tokens. count: tokens of a text."""
    spans, begin = [], 0
    for sentence in sentences(text):
        end = begin + count(sentence)
        spans.append((sentence, begin, end))
        begin = end
    return spans


def chosen_sentences(question: str, passages: Sequence[str], rows: float, count: Callable[[str], int]) -> list[str]:
    """The passages with their chosen sentences only; one of which nothing is chosen becomes empty, and keeps its number.

    rows: a share of all rows (up to 1) or a number of rows. count: tokens of a text. Raises InputError for rows <= 0.
    """
    if not rows > 0:
        raise InputError(f"rows must be a share up to 1, or a number of rows; got {rows:g}")
    parts = [(number, *span) for number, passage in enumerate(passages) for span in sentence_spans(passage, count)]
    sizes = [end - begin for _, _, begin, end in parts]
    budget = max(FEWEST, rows * sum(sizes) if rows <= 1 else rows)
    if sum(sizes) <= budget:
        return list(passages)
    words = [set(words_of(text)) for _, text, _, _ in parts]
    frequency = Counter(word for found in words for word in found)
    asked = set(words_of(question))

    def score(index: int) -> float:
        shared = words[index] & asked
        return sum(math.log(1 + len(parts) / frequency[word]) for word in shared) / (1 + 0.3 * math.log(1 + sizes[index]))

    kept: set[int] = set()
    used = 0
    for index in sorted(range(len(parts)), key=score, reverse=True):
        if not kept or used + sizes[index] <= budget:
            kept.add(index)
            used += sizes[index]
    return [
        " ".join(text for index, (owner, text, _, _) in enumerate(parts) if owner == number and index in kept)
        for number in range(len(passages))
    ]
