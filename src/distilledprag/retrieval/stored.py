"""BM25 over a document store: the database's full-text index proposes candidates, the formula of `BM25Retriever` ranks them.

No database ranks as `BM25Retriever` does: SQLite gives a word no weight that is in more than half of the passages, such as the
name that all documents of a small store are about, and PostgreSQL counts no words. So they only pick candidates (in a small
store: all passages that share a word with the question); their scores are those of `BM25Retriever` over all passages of the
store. Changes to the store count at once.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol

from distilledprag.documents import Passage
from distilledprag.documents.database import Database
from distilledprag.documents.store import word_rule
from distilledprag.retrieval.bm25 import K1, B, check_request
from distilledprag.words import words_of

CANDIDATES = 500
_MOST_WORDS = 64  # of a question; the rarest are used


class Finder(Protocol):
    """A Retriever over a store, that also says whose passages it found."""

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """At most `k` passages with their scores and the ids of their documents, best first."""
        ...


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
