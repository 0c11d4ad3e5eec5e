"""What must not leave: runs of words and of tokens, and rare words, of passages - less what the user's own words contain.

Texts are compared as case-folded words. What may stand in a prompt (`AllowedRuns`) are runs of the frame and of the user's own
messages, also those that only come about at a joint: the end of a message and then the frame, for instance.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from distilledprag.gateway.guard.encodings import RUN, holds_token_run, spread_texts, views
from distilledprag.http.errors import RequestError

LONG_ENOUGH = 4  # characters of a rare word that is looked for in bytes that are not a prompt
_LONG_IN_BINARY = 7  # bytes; random ones hold a given word of so many once in some million adapters
_LONG_RUN = 8  # token ids that an adapter's numbers do not hold by chance
_ZEROS = 3  # in a row that are kept of an adapter's numbers: UTF-32 has so many

# Chinese and Japanese are written without spaces: each character counts as a word.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+", re.UNICODE)
_CHARACTER = re.compile(f"[{_UNSPACED}]")


def written_words(text: str) -> list[str]:
    """The words of a text (letters and digits; NFKC), as they are written."""
    return _WORD.findall(unicodedata.normalize("NFKC", text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """(begin, end) of the words of a text in NFKC."""
    return [match.span() for match in _WORD.finditer(text)]


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


class WireGuardError(RequestError):
    """The guard stopped a request to the engine; nothing was sent."""

    status, kind, code = 500, "server_error", "wire_guard"


class AllowedRuns:
    """Sequences of words, or of tokens, that may stand in a prompt.

    `frame`: what the prompt's form writes, which may be cut anywhere; `messages`: the user's, each kept whole.
    """

    def __init__(self, frame: Iterable[Sequence[Hashable]], messages: Iterable[Sequence[Hashable]]) -> None:
        assert RUN == 3  # `allows` spells out the ways in which a run of three can be cut
        frame, messages = [list(items) for items in frame], [list(items) for items in messages if items]
        self.items: frozenset[Any] = frozenset(item for items in [*frame, *messages] for item in items)
        self._inside = {run for items in [*frame, *messages] for run in runs(items)}
        single = {(item,) for items in frame for item in items}
        double = {pair for items in frame for pair in pairwise(items)}
        self._begins = single | double | {tuple(items[:size]) for items in messages for size in (1, 2)}
        self._ends = single | double | {tuple(items[-size:]) for items in messages for size in (1, 2)}
        self._wholes = single | {tuple(items) for items in messages if len(items) == 1}

    def allows(self, run: Sequence[Hashable]) -> bool:
        """Whether a run of three can be written with these sequences alone."""
        run = tuple(run)
        return (
            run in self._inside
            or any(run[:cut] in self._ends and run[cut:] in self._begins for cut in (1, 2))
            or (run[:1] in self._ends and run[1:2] in self._wholes and run[2:] in self._begins)
        )


@dataclass(frozen=True)
class Protected:
    """word_runs and token_runs: of three each; rare: case-folded names, numbers and identifiers."""

    word_runs: frozenset[tuple[str, ...]]
    token_runs: frozenset[tuple[int, ...]]
    rare: frozenset[str]

    @classmethod
    def of(
        cls, passages: Iterable[str], passage_ids: Iterable[Sequence[int]], allowed_words: AllowedRuns, allowed_ids: AllowedRuns
    ) -> Protected:
        """passages with their token ids; allowed: what the prompt's frame and the user's own messages say."""
        word_runs: set[tuple[str, ...]] = set()
        token_runs: set[tuple[int, ...]] = set()
        rare: set[str] = set()
        for passage in passages:
            word_runs |= runs(words(passage))
            rare |= rare_words(passage)
        for ids in passage_ids:
            token_runs |= runs(ids)
        return cls(
            frozenset(run for run in word_runs if not allowed_words.allows(run)),
            frozenset(run for run in token_runs if not allowed_ids.allows(run)),
            frozenset(rare - allowed_words.items),
        )

    def check_text(self, text: str, where: str) -> None:
        """Raise WireGuardError when `text`, which should be free of documents, is not. Never says what was found."""
        found = words(text)
        if self._word_runs_in(found):
            raise _leak(f"{RUN} words of a document in a row", where)
        if not self.rare.isdisjoint(found):
            raise _leak("a name or number of a document", where)

    def check_ids(self, ids: Sequence[int], where: str) -> None:
        """As `check_text`, for token ids."""
        if not self.token_runs.isdisjoint(runs(ids)):
            raise _leak(f"{RUN} tokens of a document in a row", where)

    def check_bytes(self, data: bytes, where: str, harmless: Iterable[str] = ()) -> None:
        """As `check_text`, over all texts that `data` may carry in the encodings of `views`.

        Numbers and short words are left to the checks of structure, since token ids are numbers too; `harmless`: words
        that belong to the form of the request.
        """
        wanted = {word for word in self.rare - set(harmless) if len(word) >= LONG_ENOUGH and not word.isdecimal()}
        for text in views(data):
            found = words(text)
            if any(not all(word.isdecimal() for word in run) for run in self._word_runs_in(found)):
                raise _leak(f"{RUN} words of a document in a row", where)
            if not wanted.isdisjoint(found):
                raise _leak("a name of a document", where)

    def check_tensors(self, data: bytes, where: str, widths: Iterable[int] = ()) -> None:
        """As `check_text`, over raw numbers: text forwards and backwards, and token ids as numbers. `widths`: of the rows.

        Weights are noise to this check: only words and runs too long to be there by chance count.
        """
        wanted = {word for word in self.rare if len(word.encode()) >= _LONG_IN_BINARY}
        for text in (*views(_without_long_zeros(data)), *spread_texts(data)):
            forwards = words(text)
            backwards = [word[::-1] for word in reversed(forwards)]
            for found in (forwards, backwards):
                hits = self._word_runs_in(found)
                if any(len("".join(run).encode()) >= _LONG_IN_BINARY for run in hits) or not wanted.isdisjoint(found):
                    raise _leak("words of a document", where)
        if holds_token_run(data, self.token_runs, widths, _LONG_RUN):
            raise _leak(f"{_LONG_RUN} tokens of a document in a row", where)

    def _word_runs_in(self, found: Sequence[str]) -> set[tuple[str, ...]]:
        """The protected runs among neighbouring words."""
        first = {run[0] for run in self.word_runs}
        places = [place for place, word in enumerate(found) if word in first]
        return {run for place in places if (run := tuple(found[place : place + RUN])) in self.word_runs}


def _without_long_zeros(data: bytes) -> bytes:
    """At most three zero bytes in a row: an adapter is mostly zeros, which hold no text and hide none."""
    numbers = np.frombuffer(data, dtype=np.uint8)
    zero = numbers == 0
    idle = zero.copy()
    for back in range(1, _ZEROS + 1):
        idle[back:] &= zero[:-back]
    idle[:_ZEROS] = False
    return numbers[~idle].tobytes()


def _leak(what: str, where: str) -> WireGuardError:
    return WireGuardError(
        f"the guard found {what} in {where} and sent nothing; this is a fault of the program, please report it without the "
        "document"
    )
