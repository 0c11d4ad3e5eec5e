"""Sentences of a text, by rules that are the same in training and use, and how many words two answers share.

Words for searching are in `words.py`; the words here are those of the official scripts of SQuAD and HotpotQA.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])")


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text, in order, none of them empty."""
    return [part for line in text.split("\n") for part in _SENTENCE.split(line) if part.strip()]


def sentence_spans(text: str, count: Callable[[str], int]) -> list[tuple[str, int, int]]:
    """(sentence, begin, end) of each sentence of a passage, in tokens. count: tokens of a text."""
    spans, begin = [], 0
    for sentence in sentences(text):
        end = begin + count(sentence)
        spans.append((sentence, begin, end))
        begin = end
    return spans


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as the official scripts of SQuAD and HotpotQA compare it: lower case, no punctuation, no articles."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


class TokenScores(NamedTuple):
    """How the words of a prediction and an answer overlap, as multisets; each in 0..1."""

    f1: float
    precision: float
    recall: float


NONE_RIGHT = TokenScores(0.0, 0.0, 0.0)
ALL_RIGHT = TokenScores(1.0, 1.0, 1.0)


def token_overlap(ours: list[str], theirs: list[str]) -> TokenScores:
    """Of the words of a prediction with those of an answer; none right without a common word."""
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return NONE_RIGHT
    precision, recall = common / len(ours), common / len(theirs)
    return TokenScores(2 * precision * recall / (precision + recall), precision, recall)
