"""What must not leave: runs of words and of tokens, and rare words, of passages - less what the user's own words contain.

Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from distilledprag.gateway.failures import WireGuardError
from distilledprag.gateway.guard.numbers import holds_token_run
from distilledprag.gateway.guard.sources import Sources
from distilledprag.gateway.guard.views import spread_texts, views
from distilledprag.gateway.guard.words import RUN, rare_words, runs, words

LONG_ENOUGH = 4  # characters of a rare word that is looked for in bytes that are not a prompt
_LONG_IN_BINARY = 7  # bytes; random ones hold a given word of so many once in some million adapters
_LONG_RUN = 8  # token ids that an adapter's numbers do not hold by chance
_ZEROS = 3  # in a row that are kept of an adapter's numbers: UTF-32 has so many


@dataclass(frozen=True)
class Protected:
    """word_runs and token_runs: of three each; rare: case-folded names, numbers and identifiers."""

    word_runs: frozenset[tuple[str, ...]]
    token_runs: frozenset[tuple[int, ...]]
    rare: frozenset[str]

    @classmethod
    def of(
        cls, passages: Iterable[str], passage_ids: Iterable[Sequence[int]], allowed_words: Sources, allowed_ids: Sources
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
