"""Documents that come more than once: equal bytes are kept once, with every name and path that they came by, and of a document
that nearly repeats another one the store can tell which.

How much two documents repeat each other is estimated by MinHash over runs of three words (Broder 1997; datasketch).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.database import Connection
from distilledprag.errors import ConfigError

PERMUTATIONS = 128  # an estimate of 0.9 has a standard error of 0.03
RUN = 3  # words
ALIKE = 0.8  # similarity of documents that nearly repeat each other

# Further names and paths of a document; one with a source is an indexed file.
SCHEMA = """
CREATE TABLE copies (
    document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE, collection TEXT NOT NULL, name TEXT NOT NULL,
    source TEXT, UNIQUE (collection, source)
);
CREATE INDEX copies_by_document ON copies (document);
CREATE TABLE signatures (document TEXT PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE, signature BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Likeness:
    """A document that another one nearly repeats. similarity: estimated share of runs of words that both have, 0..1."""

    id: str
    name: str
    similarity: float


def held_at(connection: Connection, collection: str, source: str) -> tuple[str, str] | None:
    """(id, hash) of the document that is at this path, as itself or as a copy."""
    found: tuple[str, str] | None = connection.execute(
        "SELECT id, hash FROM documents WHERE collection = ? AND source = ? UNION ALL SELECT id, hash FROM copies "
        "JOIN documents ON documents.id = document WHERE copies.collection = ? AND copies.source = ?",
        (collection, source) * 2,
    ).fetchone()
    return found


def same_bytes(connection: Connection, collection: str, hash: str, name: str) -> str | None:
    """The id of a document with the same bytes, of the same type: a .md is read in another way than a .txt."""
    rows = connection.execute("SELECT id, name FROM documents WHERE collection = ? AND hash = ?", (collection, hash))
    return next((id for id, other in rows if _type(other) == _type(name)), None)


def _type(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def note_copy(connection: Connection, id: str, collection: str, name: str, source: str | None) -> None:
    """The document came again, by this name or path."""
    known = "SELECT name FROM documents WHERE id = ? UNION ALL SELECT name FROM copies WHERE document = ?"
    if source is None and (name,) in connection.execute(known, (id, id)).fetchall():
        return
    connection.execute(
        "INSERT INTO copies (document, collection, name, source) VALUES (?, ?, ?, ?)", (id, collection, name, source)
    )


def release(connection: Connection, collection: str, source: str) -> str | None:
    """The document is no longer at this path. Returns its id when it was nowhere else, and is deleted now."""
    if connection.execute("DELETE FROM copies WHERE collection = ? AND source = ?", (collection, source)).rowcount:
        return None
    found = connection.execute("SELECT id FROM documents WHERE collection = ? AND source = ?", (collection, source)).fetchone()
    if found is None:
        return None
    other = connection.execute(
        "SELECT rowid, name, source FROM copies WHERE document = ? ORDER BY rowid LIMIT 1", found
    ).fetchone()
    if other is None:
        connection.execute("DELETE FROM documents WHERE id = ?", found)
        return str(found[0])
    row, name, place = other
    connection.execute("DELETE FROM copies WHERE rowid = ?", (row,))
    connection.execute("UPDATE documents SET name = ?, source = ? WHERE id = ?", (name, place, found[0]))
    return None


def signature(passages: Iterable[Sequence[str]]) -> bytes:
    """The MinHash signature of a document, from its passages' words. Raises ConfigError without datasketch."""
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise ConfigError("a document store needs datasketch: pip install 'distilledprag[retrieval]'") from error
    made: Any = MinHash(num_perm=PERMUTATIONS)
    runs = {" ".join(words[begin : begin + RUN]) for words in passages for begin in range(max(1, len(words) - RUN + 1))}
    made.update_batch([run.encode("utf-8", "surrogatepass") for run in runs])
    return np.asarray(made.hashvalues, dtype="<u4").tobytes()


def likenesses(connection: Connection, ids: Sequence[str]) -> dict[str, Likeness]:
    """Of the documents `ids` those that nearly repeat one that was stored before them in the same collection, with the most
    similar one."""
    if not ids:
        return {}
    wanted = set(ids)
    groups: dict[str, list[tuple[str, str, bytes]]] = {}
    rows = connection.execute(
        "SELECT collection, id, name, signature FROM documents JOIN signatures ON document = id WHERE collection IN "
        f"(SELECT collection FROM documents WHERE id IN ({', '.join('?' * len(ids))})) ORDER BY added, documents.rowid",
        list(ids),
    )
    for collection, *row in rows:
        groups.setdefault(collection, []).append(tuple(row))
    found: dict[str, Likeness] = {}
    for group in groups.values():
        signatures = np.frombuffer(b"".join(row[2] for row in group), dtype="<u4").reshape(len(group), PERMUTATIONS)
        for place, (id, _, _) in enumerate(group):
            if id in wanted and place:
                best = _most_similar(signatures[:place], signatures[place])
                if best[1] >= ALIKE:
                    found[id] = Likeness(*group[best[0]][:2], round(best[1], 2))
    return found


def _most_similar(others: NDArray[np.uint32], one: NDArray[np.uint32]) -> tuple[int, float]:
    shares = (others == one).mean(axis=1)
    best = int(shares.argmax())
    return best, float(shares[best])
