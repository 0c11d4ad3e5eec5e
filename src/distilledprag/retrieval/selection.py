"""Which of the ranked passages an answer rests on: those that match the question, each text once.

    ranked -> without what does not match -> without what nearly repeats a better one -> the best k

It knows nothing of how passages are ranked. A ranking is a list of (passage, score, ...), best first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import regex

from distilledprag.documents.passages import Passage
from distilledprag.retrieval.bm25 import Retriever, size_of
from distilledprag.words import folded, words_of

Ranked = TypeVar("Ranked", bound=tuple[Any, ...])  # (Passage, score, ...)
NO_MATCH = "no passage shares a word with the question, so it was asked without documents"
FEW = "no passage shares a word with the question; all passages were read, since there are no more than --top-k"
DIFFERING = 0.1  # most of the words of two texts that nearly repeat each other
_ORDINARY = regex.compile(r"\p{Ll}+")
_WRITTEN = regex.compile(r"[\p{L}\p{M}\p{N}]+")


def select(retriever: Retriever, question: str, k: int) -> tuple[list[tuple[Passage, float]], list[str]]:
    """At most `k` passages, best first, and notes for the reader of the answer.

    Passages that do not match (score 0) are left out, unless all passages are no more than `k`: whoever gives a document or two
    wants them read, whatever the question's words. Errors as the retriever's.
    """
    count = size_of(retriever)
    if count is not None and k >= count:
        ranked = retriever.retrieve(question, k)
        kept, repeated = without_repeats(ranked, k)
        notes = [] if any(score > 0 for _, score in ranked) else [FEW]
    else:
        kept, repeated, missed = best_of(lambda n: retriever.retrieve(question, n if count is None else min(n, count)), k)
        notes = [] if kept else [NO_MATCH]
        if kept and missed:
            notes.append(f"only {len(kept)} of {k} passages were used: the others share no word with the question")
    return kept, notes + repeat_notes([passage for passage, *_ in repeated])


def best_of(ranking: Callable[[int], Sequence[Ranked]], k: int) -> tuple[list[Ranked], list[Ranked], int]:
    """(the best k that match and repeat no better one, those passed over as repeats, how many of k found no match).

    ranking: the best n passages, or fewer where there are no more.
    """
    wanted = 2 * k
    while True:
        ranked = ranking(wanted)
        matching = [one for one in ranked if one[1] > 0]
        kept, repeated = without_repeats(matching, k)
        if len(kept) == k or len(matching) < wanted:  # enough, or there are no more that match
            return kept, repeated, max(0, min(k, len(ranked)) - len(kept) - len(repeated))
        wanted *= 4


def without_repeats(ranked: Sequence[Ranked], k: int) -> tuple[list[Ranked], list[Ranked]]:
    """(the best `k` that nearly repeat no better one, those that were passed over on the way)."""
    kept: list[Ranked] = []
    repeated: list[Ranked] = []
    for one in ranked:
        if len(kept) == k:
            break
        (repeated if any(nearly_equal(one[0], other[0]) for other in kept) else kept).append(one)
    return kept, repeated


def nearly_equal(one: Passage, other: Passage) -> bool:
    """Whether two passages say the same: the same words in any order, case and punctuation, but for a tenth of them at most.

    Those may be ordinary words in small letters only. Texts that differ in a number, a name or a word of a script without small
    letters are different facts: two invoices, two versions of a contract.
    """
    if one.text == other.text and one.title == other.title:
        return True
    texts = f"{one.title} {one.text}", f"{other.title} {other.text}"
    words, others = (set(words_of(text)) for text in texts)
    differing = words ^ others
    if not differing:
        return True
    if len(differing) > DIFFERING * len(words | others) or not all(_ORDINARY.fullmatch(word) for word in differing):
        return False
    written = {word for text in texts for word in _WRITTEN.findall(text)}
    return not any(word[0].isupper() and not differing.isdisjoint({folded(word)}) for word in written)


def repeat_notes(repeated: Sequence[Passage]) -> list[str]:
    """What to say of passages that were passed over; nothing of none."""
    if not repeated:
        return []
    sources = ", ".join(dict.fromkeys(passage.source for passage in repeated))
    return [f"{len(repeated)} passages that nearly repeat a better one were passed over (of {sources})"]
