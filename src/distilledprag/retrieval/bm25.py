"""Finding the passages for a question by BM25, in memory (bm25s) or over a document store, and the protocol of everything that
ranks passages.

No database ranks as `BM25Retriever` does: SQLite gives a word no weight that is in more than half of the passages, such as the
name that all documents of a small store are about, and PostgreSQL counts no words. So a store's full-text index only proposes
candidates (in a small store: all passages that share a word with the question); their scores are those of `BM25Retriever` over
all passages of the store. Changes to the store count at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.database import Database
from distilledprag.documents.passages import Passage
from distilledprag.documents.store import word_rule
from distilledprag.errors import ConfigError, InputError
from distilledprag.words import PLAIN, WordRule, words_of

USUAL_TOP_K = 3
K1, B = 1.5, 0.75  # BM25: how fast repetition saturates, how much length counts
CANDIDATES = 500  # of a store
_MOST_WORDS = 64  # of a question; the rarest are used


def check_request(question: str, k: int, passages: int | None = None) -> None:
    """Raise InputError for an empty question, and for a `k` below 1 or above the number of passages (None: not known)."""
    if not question.strip():
        raise InputError("the question is empty; write one")
    if k < 1:
        raise InputError(f"top-k is {k}; it must be at least 1")
    if passages is not None and k > passages:
        raise InputError(f"top-k is {k} but there are only {passages} passages; use at most {passages}")


def load_bm25s() -> Any:
    """The library `bm25s`, imported when it is needed. Raises ConfigError when it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError("searching passages needs bm25s: pip install 'distilledprag[retrieval]'") from error
    return bm25s


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


def size_of(retriever: Retriever) -> int | None:
    """How many passages it has, where it says so."""
    return len(retriever) if isinstance(retriever, Sized) else None


def usual_k(retriever: Retriever) -> int:
    """How many passages to use by default: 3, or all of a retriever that has fewer."""
    count = size_of(retriever)
    return USUAL_TOP_K if count is None else min(USUAL_TOP_K, count)


class BM25Retriever:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over passages in memory; the heading counts as part of a passage.

    score(q, d) = sum over the words w of q of ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 (1 - b + b |d| / mean |d|)),
    f = how often w is in d, n_w = passages with w, N = passages, |d| = words in d (Robertson and Zaragoza 2009; Kamphuis et
    al. 2020). Raises InputError without passages.
    """

    def __init__(self, passages: Sequence[Passage], rule: WordRule = PLAIN) -> None:
        """rule: how words are cut; a language's has its stems and stop words."""
        if not passages:
            raise InputError("there are no passages to search; give at least one document")
        bm25s = load_bm25s()
        self.passages, self._rule = list(passages), rule
        vocabulary: dict[str, int] = {}
        ids = []
        for passage in self.passages:
            words = words_of(f"{passage.title} {passage.text}", rule) or ["\0"]
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
        check_request(question, k, len(self))
        known = [self._vocabulary[word] for word in words_of(question, self._rule) if word in self._vocabulary]
        scores = self._index.get_scores_from_ids(known) if known else np.zeros(len(self.passages), dtype=np.float32)
        return [(self.passages[int(place)], float(scores[place])) for place in best_places(scores, k)]


class Finder(Retriever, Protocol):
    """A Retriever over a store, that also says whose passages it found."""

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """At most `k` passages with their scores and the ids of their documents, best first."""
        ...


def passages_with(database: Database, question: str) -> dict[str, int]:
    """Of each word of a question, as it is searched, the number of passages of the store that have it."""
    with database.reading() as connection:
        words = list(dict.fromkeys(words_of(question, word_rule(connection))))
        found = database.frequencies(connection, words)
    return {word: found.get(word, 0) for word in words}


class StoreRetriever:
    """A Retriever over a store, or over one collection of it."""

    def __init__(self, database: Database, collection: str | None = None) -> None:
        self._database = database
        self._collection = collection

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their scores, best first; ties in the order of storing. Passage.source is the document's
        name.

        Unlike `BM25Retriever` it leaves out passages that share no word with the question, so there may be fewer than `k`,
        or none. Raises InputError for an empty question and a `k` below 1.
        """
        return [(passage, score) for passage, score, _ in self.find(question, k)]

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """As `retrieve`, but each passage also with the id of its document."""
        check_request(question, k)
        with self._database.reading() as connection:
            passages, words = connection.execute("SELECT passages, words FROM totals").fetchone()
            rule = word_rule(connection)
            counts = Counter(words_of(question, rule))
            frequencies = self._database.frequencies(connection, list(counts))
            rarest = sorted(frequencies, key=frequencies.__getitem__)[:_MOST_WORDS]
            importance = {
                word: counts[word] * math.log(1 + (passages - frequencies[word] + 0.5) / (frequencies[word] + 0.5))
                for word in rarest
            }
            limit = max(k, CANDIDATES)
            rows = self._database.candidates(connection, importance, self._collection, limit) if importance else []
        scored = []
        for id, document, name, place, title, text, length, kept in rows:
            found = Counter(words_of(f"{title} {text}", rule) if kept is None else kept.split(" "))
            shrink = K1 * (1 - B + B * length * passages / words)
            score = sum(weight * found[word] / (found[word] + shrink) for word, weight in importance.items())
            scored.append((-score, id, Passage(text, name, title, place), document))
        scored.sort(key=lambda entry: entry[:2])
        return [(passage, -negative, document) for negative, _, passage, document in scored[:k]]
