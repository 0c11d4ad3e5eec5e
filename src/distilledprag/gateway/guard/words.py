"""Texts as the guard compares them: case-folded words, runs of three, rare words. Knows nothing of where they come from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

RUN = 3  # words or tokens in a row that must not leave

# Chinese and Japanese are written without spaces: each character counts as a word.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+", re.UNICODE)
_CHARACTER = re.compile(f"[{_UNSPACED}]")


def written_words(text: str) -> list[str]:
    """The words of a text (letters and digits; NFKC), as they are written."""
    return _WORD.findall(unicodedata.normalize("NFKC", text))


def words(text: str) -> list[str]:
    """The words of a text, case-folded."""
    return [word.casefold() for word in written_words(text)]


def is_character(word: str) -> bool:
    """Whether a word is one character of a language that writes no spaces."""
    return _CHARACTER.fullmatch(word) is not None


def runs(items: Sequence, length: int = RUN) -> set[tuple]:
    """All runs of `length` neighbouring items."""
    return {tuple(items[start : start + length]) for start in range(len(items) - length + 1)}


def rare_words(text: str) -> set[str]:
    """Names, numbers and identifiers of a text, case-folded: words with a digit or a capital letter."""
    return {
        word.casefold()
        for word in written_words(text)
        if any(character.isdigit() or character.isupper() for character in word)
    }  # fmt: skip
