"""Finding the passages for a question: BM25 (bm25s), behind a small protocol.

Knows nothing about files or models. Words are taken as they are (no stemming), in languages that write spaces between them.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.passages import Passage
from distilledprag.errors import InputError
from distilledprag.text import words_of

USUAL_TOP_K = 3
K1, B = 1.5, 0.75  # BM25: how fast repetition saturates, how much length counts


def best_places(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places (k,) of the `k` best of `scores` (N,), k <= N, best first; ties in order."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]  # the k-th best score
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


class Retriever(Protocol):
    """Anything that ranks passages for a question."""

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their scores, best first."""
        ...


def usual_k(retriever: Retriever) -> int:
    """How many passages to use where nobody says: 3, or all of a retriever that has fewer."""
    return min(USUAL_TOP_K, len(retriever)) if isinstance(retriever, Sized) else USUAL_TOP_K


class BM25Retriever:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over passages in memory; the heading counts as part of a passage.

    score(q, d) = sum over the words w of q of ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 (1 - b + b |d| / mean |d|)),
    f = how often w is in d, n_w = passages with w, N = passages, |d| = words in d (Robertson and Zaragoza 2009; Kamphuis et
    al. 2020). Raises InputError without passages.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s

        if not passages:
            raise InputError("there are no passages to search; give at least one document")
        self.passages = list(passages)
        vocabulary: dict[str, int] = {}
        ids = []
        for passage in self.passages:
            words = words_of(f"{passage.title} {passage.text}") or ["\0"]
            ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
        self._vocabulary = vocabulary
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self._index.index((ids, vocabulary), show_progress=False)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their scores, best first; ties keep the documents' order.

        Passages that share no word with the question score 0. Raises InputError for an empty question, and for a `k` below 1
        or above the number of passages.
        """
        if not question.strip():
            raise InputError("the question is empty; write one")
        if k < 1:
            raise InputError(f"top-k is {k}; it must be at least 1")
        if k > len(self.passages):
            raise InputError(
                f"top-k is {k} but there are only {len(self.passages)} passages; use --top-k {len(self.passages)} or less"
            )
        known = [self._vocabulary[word] for word in words_of(question) if word in self._vocabulary]
        scores = self._index.get_scores_from_ids(known) if known else np.zeros(len(self.passages), dtype=np.float32)
        return [(self.passages[int(place)], float(scores[place])) for place in best_places(scores, k)]
