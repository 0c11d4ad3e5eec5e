"""What must not leave: runs of words and of tokens, and rare words, of passages - less what the user's own words contain.

T = tokens. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from distilledprag.gateway.failures import WireGuardError
from distilledprag.gateway.guard.views import views
from distilledprag.gateway.guard.words import RUN, rare_words, runs, words

LONG_ENOUGH = 4  # characters of a rare word that is looked for in bytes that are not a prompt
_LONG_IN_BINARY = 7  # characters; random bytes hold a given word of so many once in some million adapters


@dataclass(frozen=True)
class Protected:
    """word_runs and token_runs: of three each; rare: case-folded names, numbers and identifiers."""

    word_runs: frozenset[tuple[str, ...]]
    token_runs: frozenset[tuple[int, ...]]
    rare: frozenset[str]

    @classmethod
    def of(
        cls, passages: Iterable[str], passage_ids: Iterable[Sequence[int]], allowed_text: str, allowed_ids: Sequence[int]
    ) -> Protected:
        """passages with their token ids; allowed: the same prompt made without any passage (question, history, our words)."""
        word_runs: set[tuple[str, ...]] = set()
        token_runs: set[tuple[int, ...]] = set()
        rare: set[str] = set()
        for passage in passages:
            word_runs |= runs(words(passage))
            rare |= rare_words(passage)
        for ids in passage_ids:
            token_runs |= runs(ids)
        allowed = words(allowed_text)
        return cls(
            frozenset(word_runs - runs(allowed)), frozenset(token_runs - runs(allowed_ids)), frozenset(rare - set(allowed))
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
        """As `check_text`, over all texts that `data` may carry in any encoding.

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

    def check_tensors(self, data: bytes, where: str) -> None:
        """As `check_text`, over raw numbers: text in any encoding, and token ids of 16, 32 and 64 bits.

        Weights are noise to this check: only words and runs too long to be there by chance count.
        """
        wanted = {word for word in self.rare if len(word) >= _LONG_IN_BINARY}
        for text in views(_without_long_zeros(data)):
            found = words(text)
            hits = self._word_runs_in(found)
            if any(sum(map(len, run)) >= _LONG_IN_BINARY for run in hits) or not wanted.isdisjoint(found):
                raise _leak("words of a document", where)
        for kind in ("<u2", "<u4", "<u8"):
            self._check_numbers(data, np.dtype(kind), where)

    def _word_runs_in(self, found: Sequence[str]) -> set[tuple[str, ...]]:
        """The protected runs among neighbouring words."""
        first = {run[0] for run in self.word_runs}
        places = [place for place, word in enumerate(found) if word in first]
        return {run for place in places if (run := tuple(found[place : place + RUN])) in self.word_runs}

    def _check_numbers(self, data: bytes, kind: np.dtype, where: str) -> None:
        """Looks numbers up in one table for each place in a run, and only where all three agree in the set of runs."""
        if not self.token_runs:
            return
        known = np.array(sorted(self.token_runs), dtype=np.int64)
        largest = int(known.max())
        tables = np.zeros((RUN, largest + 2), dtype=bool)  # the last column stands for every number that is no token
        for place in range(RUN):
            tables[place, known[:, place]] = True
        limit = kind.type(min(largest + 1, np.iinfo(kind).max))
        for shift in range(kind.itemsize):
            size = (len(data) - shift) // kind.itemsize
            if size < RUN:
                continue
            numbers = np.minimum(np.frombuffer(data, dtype=kind, count=size, offset=shift), limit)
            count = size - RUN + 1
            hits = np.logical_and.reduce([tables[place][numbers[place : place + count]] for place in range(RUN)])
            for begin in np.flatnonzero(hits):
                run = tuple(int(number) for number in numbers[begin : begin + RUN])
                # A run of one number only (weights that are all zero) says nothing.
                if run in self.token_runs and len(set(run)) > 1:
                    raise _leak(f"{RUN} tokens of a document in a row", where)


def _without_long_zeros(data: bytes) -> bytes:
    """At most two zero bytes in a row: an adapter is mostly zeros, which hold no text and hide none."""
    numbers = np.frombuffer(data, dtype=np.uint8)
    zero = numbers == 0
    idle = zero.copy()
    idle[1:] &= zero[:-1]
    idle[2:] &= zero[:-2]
    idle[:2] = False
    return numbers[~idle].tobytes()


def _leak(what: str, where: str) -> WireGuardError:
    return WireGuardError(
        f"the guard found {what} in {where} and sent nothing; this is a fault of the program, please report it without the "
        "document"
    )
