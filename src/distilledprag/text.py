"""Words and sentences of a text, by rules that are the same in training, retrieval and use (languages with spaces)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

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


WORD = re.compile(r"\w+(?:[-@.]\w+)*", re.UNICODE)
_STOP_WORDS = (
    "a an and are as at be by can did do does for from had has have how in is it its of on or that the their they this to "
    "was were what when where which who whom whose will with s"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


def words_of(text: str) -> list[str]:
    """Lower-case words; identifiers (K-4821) and e-mail addresses count whole and in their parts."""
    words: list[str] = []
    for match in WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        parts = re.split(r"[-@.]", match)
        words += [match, *parts] if len(parts) > 1 else [match]
    return [word for word in words if word not in STOP_WORDS]
