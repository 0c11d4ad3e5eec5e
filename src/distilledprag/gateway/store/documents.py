"""DocumentStore: the documents. Every change is one transaction; when a method returns, what it did is on the disk.

Knows nothing of files, searching or models.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distilledprag.documents import Passage
from distilledprag.errors import InputError
from distilledprag.gateway.failures import DiskFullError, NotFoundError
from distilledprag.gateway.store.database import Database
from distilledprag.gateway.store.preparing import READING, PreparedDocument
from distilledprag.text import words_of

DEFAULT_COLLECTION = "default"
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_PIECES = 100  # looked for at a time
_MOST_ANSWERS = 100_000  # fingerprints kept
_COLUMNS = "id, collection, name, source, hash, bytes, added, (SELECT count(*) FROM passages WHERE document = documents.id)"


@dataclass(frozen=True)
class StoredDocument:
    """A document without its text. bytes: of the original; added: Unix seconds; passages: how many."""

    id: str
    collection: str
    name: str
    source: str | None
    hash: str
    bytes: int
    added: float
    passages: int


class DocumentStore:
    """Documents in a folder on this machine; safe to share between threads, and with another process."""

    def __init__(self, folder: str | Path) -> None:
        self.database = Database(folder)

    @property
    def reading_folder(self) -> Path:
        """Where uploaded files may lie while they are read: as private as the store itself."""
        return self.database.folder

    def clear_readings(self) -> None:
        """Remove uploads that a killed gateway was reading. For the start of a gateway, of which a store has one."""
        for left in self.reading_folder.glob(f"{READING}*"):
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """For the end of the program."""
        self.database.close()

    def add(self, documents: Sequence[PreparedDocument], collection: str = DEFAULT_COLLECTION) -> list[str]:
        """Store documents, all or none, and return their ids.

        The same content under the same name again is the same document; a new version of an indexed file takes the place
        of the old one. Raises DiskFullError (nothing was stored) and InputError for a wrong collection.
        """
        checked_collection(collection)
        with self.database.writing() as connection:
            return [_store(connection, document, collection) for document in documents]

    def document(self, id: str) -> StoredDocument:
        """Raises NotFoundError."""
        with self.database.reading() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM documents WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise _missing()
        return StoredDocument(*row)

    def passages(self, id: str) -> list[Passage]:
        """The passages of a document, in reading order; of an unknown one none."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT text, name, title, place FROM passages JOIN documents ON documents.id = document "
                "WHERE document = ? ORDER BY place",
                (id,),
            ).fetchall()
        return [Passage(*row) for row in rows]

    def texts_with(self, pieces: Sequence[str], limit: int = 100) -> list[str]:
        """Texts and titles of at most `limit` passages that hold one of `pieces` as it is; looks through the whole store."""
        wanted = [piece for piece in pieces if piece][:_MOST_PIECES]
        if not wanted:
            return []
        holds = " OR ".join(["instr(text, ?) OR instr(title, ?)"] * len(wanted))
        values = [piece for piece in wanted for _ in range(2)]
        with self.database.reading() as connection:
            rows = connection.execute(f"SELECT text, title FROM passages WHERE {holds} LIMIT ?", (*values, limit)).fetchall()
        return [text for row in rows for text in row if text]

    def listed(
        self, collection: str | None = None, *, limit: int = 100, offset: int = 0, newest_first: bool = True
    ) -> list[StoredDocument]:
        """At most `limit` documents of a collection (None: of all), after the first `offset`."""
        order = "DESC" if newest_first else "ASC"
        with self.database.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM documents WHERE ? IS NULL OR collection = ? "
                f"ORDER BY added {order}, rowid {order} LIMIT ? OFFSET ?",
                (collection, collection, limit, offset),
            ).fetchall()
        return [StoredDocument(*row) for row in rows]

    def collections(self) -> dict[str, int]:
        """How many documents each collection has."""
        with self.database.reading() as connection:
            return dict(connection.execute("SELECT collection, count(*) FROM documents GROUP BY collection ORDER BY 1"))

    def count(self, collection: str | None = None) -> int:
        """How many documents a collection has (None: all)."""
        with self.database.reading() as connection:
            return connection.execute(
                "SELECT count(*) FROM documents WHERE ? IS NULL OR collection = ?", (collection, collection)
            ).fetchone()[0]

    def indexed(self, collection: str) -> dict[str, tuple[str, str]]:
        """Of each indexed file of a collection: path -> (document id, hash)."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT source, id, hash FROM documents WHERE collection = ? AND source IS NOT NULL", (collection,)
            )
            return {source: (id, hash) for source, id, hash in rows}

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents, all or none; their words are gone from the store's files then (on a full disk: later).

        Raises NotFoundError when one is not there.
        """
        with self.database.writing() as connection:
            for id in ids:
                if not connection.execute("DELETE FROM documents WHERE id = ?", (id,)).rowcount:
                    raise _missing()
        if ids:
            with contextlib.suppress(DiskFullError):  # they are deleted; the index cannot be rewritten without room
                self.database.compact()

    def remember_answer(self, engine: str, answer: str) -> None:
        """Note that `engine` wrote this answer, so that it may be sent back there as history. Keeps a hash only."""
        with self.database.writing() as connection:
            connection.execute("INSERT OR IGNORE INTO answers VALUES (?)", (_fingerprint(engine, answer),))
            if connection.execute("SELECT count(*) FROM answers").fetchone()[0] > _MOST_ANSWERS:
                connection.execute("DELETE FROM answers WHERE fingerprint IN (SELECT fingerprint FROM answers LIMIT 1000)")

    def wrote_answer(self, engine: str, answer: str) -> bool:
        """Whether `remember_answer` was called with the same, less surrounding space."""
        with self.database.reading() as connection:
            found = connection.execute("SELECT 1 FROM answers WHERE fingerprint = ?", (_fingerprint(engine, answer),))
            return found.fetchone() is not None


def checked_collection(name: str) -> str:
    """Raises InputError for what is no collection's name."""
    if not _COLLECTION.fullmatch(name):
        raise InputError("a collection's name has up to 64 letters, digits, dots, dashes and underscores; choose another")
    return name


def _store(connection: sqlite3.Connection, document: PreparedDocument, collection: str) -> str:
    if document.source is not None:
        where, values = "source = ?", (collection, document.source)
    else:
        where, values = "source IS NULL AND hash = ? AND name = ?", (collection, document.hash, document.name)  # type: ignore[assignment]
    found = connection.execute(f"SELECT id, hash FROM documents WHERE collection = ? AND {where}", values).fetchone()
    if found is not None and found[1] == document.hash:
        return found[0]
    if found is not None:
        connection.execute("DELETE FROM documents WHERE id = ?", (found[0],))
    id = found[0] if found is not None else secrets.token_hex(8)
    connection.execute(
        "INSERT INTO documents (id, collection, name, source, hash, bytes, added) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (id, collection, document.name, document.source, document.hash, document.size, time.time()),
    )
    for passage in document.passages:
        words = words_of(f"{passage.title} {passage.text}") or ["\0"]
        row = connection.execute(
            "INSERT INTO passages (document, place, title, text, words) VALUES (?, ?, ?, ?, ?)",
            (id, passage.index, passage.title, passage.text, len(words)),
        ).lastrowid
        connection.execute("INSERT INTO passage_words (rowid, words) VALUES (?, ?)", (row, " ".join(words)))
    return id


def _fingerprint(engine: str, answer: str) -> bytes:
    return hashlib.sha256(f"{engine}\0{answer.strip()}".encode("utf-8", "surrogatepass")).digest()


def _missing() -> NotFoundError:
    return NotFoundError("there is no document with this id; list the documents to see their ids")
