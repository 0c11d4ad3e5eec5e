"""BM25 over a document store: SQLite's full-text index proposes candidates, the formula of `BM25Retriever` ranks them.

SQLite's own ranking gives a word no weight that is in more than half of the passages, such as the name that all documents of a
small store are about. So it only picks candidates (in a small store: all passages that share a word with the question); their
scores are those of `BM25Retriever` over all passages of the store. Changes to the store count at once.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from typing import Protocol

from distilledprag.documents import Passage
from distilledprag.documents.store import Database, word_rule
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
            frequencies = {word: n for word in counts if (n := _frequency(connection, word))}
            rarest = sorted(frequencies, key=frequencies.__getitem__)[:_MOST_WORDS]
            rows = self._candidates(connection, rarest, max(k, CANDIDATES)) if rarest else []
        importance = {
            word: counts[word] * math.log(1 + (passages - frequencies[word] + 0.5) / (frequencies[word] + 0.5)) for word in rarest
        }
        scored = []
        for id, document, name, place, title, text, length in rows:
            found = Counter(words_of(f"{title} {text}", rule))
            shrink = K1 * (1 - B + B * length * passages / words)
            score = sum(weight * found[word] / (found[word] + shrink) for word, weight in importance.items())
            scored.append((-score, id, Passage(text, name, title, place), document))
        scored.sort(key=lambda entry: entry[:2])
        return [(passage, -negative, document) for negative, _, passage, document in scored[:k]]

    def _candidates(self, connection: sqlite3.Connection, words: list[str], limit: int) -> list[tuple]:
        """The passages that the index ranks highest among those with one of `words`."""
        query = " OR ".join('"' + word.replace('"', '""') + '"' for word in words)
        chosen = "SELECT rowid FROM passage_words WHERE passage_words MATCH ?"
        values: tuple = (query,)
        if self._collection is not None:
            chosen += (
                " AND rowid IN (SELECT passages.id FROM passages JOIN documents ON documents.id = document WHERE collection = ?)"
            )
            values = (query, self._collection)
        return connection.execute(
            "SELECT passages.id, document, name, place, title, text, passages.words FROM passages "
            f"JOIN documents ON documents.id = document WHERE passages.id IN ({chosen} ORDER BY rank LIMIT ?)",
            (*values, limit),
        ).fetchall()


def _frequency(connection: sqlite3.Connection, word: str) -> int:
    """The number of passages in the whole store that have the word."""
    row = connection.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone()
    return row[0] if row else 0
