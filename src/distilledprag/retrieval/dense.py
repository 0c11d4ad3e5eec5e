"""Passages by meaning (dense), and by words and meaning together (hybrid), behind the protocol of BM25.

A dense retriever ranks all passages by the cosine between their vectors and the question's. A hybrid one fuses the ranks of
several retrievers: score = sum over them of 1 / (60 + rank) (Cormack, Clarke and Buettcher 2009), which needs no scales to agree.

N = passages, D = width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.database import Connection, Database
from distilledprag.documents.passages import Passage
from distilledprag.errors import ConfigError, InputError
from distilledprag.retrieval.bm25 import BM25Retriever, Finder, Retriever, StoreRetriever, best_places, check_request
from distilledprag.retrieval.encoder import SentenceEncoder
from distilledprag.words import PLAIN, WordRule

Kind = Literal["bm25", "dense", "hybrid"]
KINDS: tuple[Kind, ...] = ("bm25", "dense", "hybrid")
RANK_CONSTANT = 60
DEPTH = 100  # ranks that are fused; deeper ones weigh next to nothing
_AT_ONCE = 256  # passages encoded between two writes

Ranked = TypeVar("Ranked", bound=tuple[Any, ...])  # (Passage, score, ...)


class DenseRetriever:
    """Cosine over passages in memory; the heading counts as part of a passage. Raises InputError without passages."""

    def __init__(self, passages: Sequence[Passage], encoder: SentenceEncoder) -> None:
        if not passages:
            raise InputError("there are no passages to search; give at least one document")
        self.passages, self._encoder = list(passages), encoder
        self._vectors = encoder.passages([_text(passage.title, passage.text) for passage in passages])  # (N, D)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their cosines, best first. Errors as `BM25Retriever.retrieve`."""
        check_request(question, k, len(self))
        scores = self._vectors @ self._encoder.question(question)
        return [(self.passages[int(place)], float(scores[place])) for place in best_places(scores, k)]


class HybridRetriever:
    """The ranks of several retrievers over the same passages, fused."""

    def __init__(self, parts: Sequence[Retriever], passages: Sequence[Passage]) -> None:
        self.passages, self._parts = list(passages), list(parts)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where fewer match), best first. Errors as `BM25Retriever.retrieve`."""
        check_request(question, k, len(self))
        depth = min(max(k, DEPTH), len(self))
        return fused((part.retrieve(question, depth) for part in self._parts), k)


class StoreDenseRetriever:
    """Cosine over a document store, or over one collection of it. Vectors are kept in the store; those that are missing are
    computed when a question is asked, or before by `update`."""

    def __init__(self, database: Database, encoder: SentenceEncoder, collection: str | None = None) -> None:
        self._database, self._encoder, self._collection = database, encoder, collection

    def update(self, on_passages: Callable[[int], None] = lambda done: None) -> None:
        """Compute the vectors of all passages of the store that have none by this encoder. on_passages: told how many were."""
        missing = (
            "SELECT id, title, text FROM passages LEFT JOIN vectors ON passage = id WHERE encoder IS NULL OR encoder != ? LIMIT ?"
        )
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(missing, (self._encoder.identity, _AT_ONCE)).fetchall()
            if not rows:
                return
            vectors = self._encoder.passages([_text(title, text) for _, title, text in rows])
            with self._database.writing() as connection:
                # A passage may have been deleted meanwhile, and its number given to another one.
                given = [(vector, *row) for vector, row in zip(vectors, rows, strict=True)]
                self._database.add_vectors(connection, self._encoder.identity, given)
            on_passages(len(rows))

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where there are fewer) with their cosines, best first."""
        return [(passage, score) for passage, score, _ in self.find(question, k)]

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """As `retrieve`, but each passage also with the id of its document."""
        check_request(question, k)
        self.update()
        asked = self._encoder.question(question)
        with self._database.reading() as connection:
            best = self._database.nearest(connection, self._encoder.identity, asked, self._collection, k)
            found = []
            for id, score in self._compared(connection, asked, k) if best is None else best:
                document, name, number, title, text = connection.execute(
                    "SELECT document, name, place, title, text FROM passages JOIN documents ON documents.id = document "
                    "WHERE passages.id = ?",
                    (id,),
                ).fetchone()
                found.append((Passage(text, name, title, number), score, document))
        return found

    def _compared(self, connection: Connection, asked: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """The `k` nearest passages, best first, all vectors being read."""
        ids, vectors = _columns(
            connection.execute(
                "SELECT passage, vector FROM vectors JOIN passages ON passages.id = passage JOIN documents ON documents.id = "
                "document WHERE encoder = ? AND (CAST(? AS TEXT) IS NULL OR collection = ?) ORDER BY passage",
                (self._encoder.identity, self._collection, self._collection),
            )
        )
        if not ids:
            return []
        scores = np.frombuffer(vectors, dtype=np.float32).reshape(len(ids), -1) @ asked
        return [(ids[int(place)], float(scores[place])) for place in best_places(scores, min(k, len(ids)))]


class HybridFinder:
    """The ranks of several finders over the same store, fused."""

    def __init__(self, parts: Sequence[Finder]) -> None:
        self._parts = list(parts)

    def find(self, question: str, k: int) -> list[tuple[Passage, float, str]]:
        """The `k` best passages (fewer where fewer match), best first."""
        return fused((part.find(question, max(k, DEPTH)) for part in self._parts), k)


def fused(rankings: Iterable[Sequence[Ranked]], k: int) -> list[Ranked]:
    """The `k` best of several rankings, each with its fused score. What does not match (score 0 or less) has no rank; ties keep
    the order of the first ranking."""
    scores: dict[Hashable, float] = {}
    items: dict[Hashable, Ranked] = {}
    for ranking in rankings:
        for rank, item in enumerate((one for one in ranking if one[1] > 0), start=1):
            key = (item[0], *item[2:])
            items.setdefault(key, item)
            scores[key] = scores.get(key, 0.0) + 1 / (RANK_CONSTANT + rank)
    best = sorted(items, key=lambda key: -scores[key])[:k]
    return [(items[key][0], scores[key], *items[key][2:]) for key in best]  # type: ignore[misc]


def checked_kind(name: str) -> Kind:
    """Raises ConfigError for what is no kind of retriever."""
    found = next((kind for kind in KINDS if kind == name), None)
    if found is None:
        raise ConfigError(f"--retriever is {name!r}; use one of {', '.join(KINDS)}")
    return found


def memory_retriever(
    kind: Kind, passages: Sequence[Passage], encoder: SentenceEncoder | None = None, rule: WordRule = PLAIN
) -> BM25Retriever | DenseRetriever | HybridRetriever:
    """A retriever of a kind over passages in memory. encoder: None takes the default one where one is needed."""
    if kind == "bm25":
        return BM25Retriever(passages, rule)
    dense = DenseRetriever(passages, encoder or SentenceEncoder())
    return dense if kind == "dense" else HybridRetriever([BM25Retriever(passages, rule), dense], passages)


def store_finder(kind: Kind, database: Database, encoder: SentenceEncoder | None) -> Callable[[str], Finder]:
    """What finds the passages of a collection of the store, by its name. encoder: as in `memory_retriever`."""
    if kind == "bm25":
        return lambda collection: StoreRetriever(database, collection)
    loaded = encoder or SentenceEncoder()
    if kind == "dense":
        return lambda collection: StoreDenseRetriever(database, loaded, collection)
    return lambda collection: HybridFinder(
        [StoreRetriever(database, collection), StoreDenseRetriever(database, loaded, collection)]
    )


def _text(title: str, text: str) -> str:
    return f"{title}\n{text}" if title else text


def _columns(rows: Iterable[tuple[int, bytes]]) -> tuple[list[int], bytes]:
    ids, parts = [], []
    for id, vector in rows:
        ids.append(id)
        parts.append(vector)
    return ids, b"".join(parts)
