"""The embedded database of a document store: one SQLite file with a full-text index, readable by its owner only.

The file is not encrypted. A process killed at any moment leaves what was committed, whole.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents import copies
from distilledprag.documents.database import READING, Connection, no_store
from distilledprag.documents.passages import Passage
from distilledprag.errors import DiskFullError, StoreError
from distilledprag.sqlite_file import SqliteFile

FILE = "store.sqlite"
_VERSION = 3  # of the schema; 1 had no notes, 2 no copies and vectors, and words of another kind
_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON")

# passage_words holds each passage's words as `words_of` writes them, split by spaces; rowid = passages.id. The tokenizer
# splits at spaces only: all that is in a word, marks of any script included, is a letter to it. (No content-less table: deleting
# from one needs a newer SQLite than Debian has.) vectors: of passages, written by a dense retriever.
_SEARCH = f"""
CREATE VIRTUAL TABLE passage_words USING fts5 (words, tokenize = "ascii tokenchars '-@._'");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (passage_words, row);
CREATE TABLE word_rule (description TEXT NOT NULL);
CREATE TABLE vectors (
    passage INTEGER PRIMARY KEY REFERENCES passages (id) ON DELETE CASCADE, encoder TEXT NOT NULL, vector BLOB NOT NULL
);
{copies.SCHEMA}
PRAGMA user_version = {_VERSION};
"""
_SCHEMA = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL, name TEXT NOT NULL, source TEXT, hash TEXT NOT NULL,
    bytes INTEGER NOT NULL, added REAL NOT NULL, notes TEXT NOT NULL DEFAULT '[]', UNIQUE (collection, source)
);
CREATE INDEX documents_by_hash ON documents (collection, hash);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY, document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    place INTEGER NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, words INTEGER NOT NULL
);
CREATE INDEX passages_by_document ON passages (document, place);
CREATE TABLE totals (passages INTEGER NOT NULL, words INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0);
CREATE TRIGGER passage_added AFTER INSERT ON passages BEGIN
    UPDATE totals SET passages = passages + 1, words = words + new.words;
END;
CREATE TRIGGER passage_removed AFTER DELETE ON passages BEGIN
    UPDATE totals SET passages = passages - 1, words = words - old.words;
    DELETE FROM passage_words WHERE rowid = old.id;
END;
CREATE TABLE answers (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_FROM_1 = "ALTER TABLE documents ADD COLUMN notes TEXT NOT NULL DEFAULT '[]';\n"
_FROM_2 = "DROP TABLE vocabulary;\nDROP TABLE passage_words;\n"


class SqliteDatabase:
    """The file and its connections, one per thread. Raises StoreError for a folder that holds something else, and unless `make`
    for one without a store."""

    copied_names = "(SELECT json_group_array(name) FROM copies WHERE document = documents.id)"

    def __init__(self, folder: str | Path, make: bool = True) -> None:
        self.folder = Path(folder)
        self.file = self.folder / FILE
        if not make and not self.file.is_file():
            raise no_store(self.folder)
        self._file = SqliteFile(self.file, _SETTINGS)
        self._make_private()

    def _make_private(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"the store {self.folder} is a file; name a folder")
        if self.folder.is_dir() and not self.file.exists() and any(self.folder.iterdir()):
            raise StoreError(f"{self.folder} holds something else than a store; name an empty or a new folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            self._file.make_private()
        except OSError as error:
            raise StoreError(f"the store {self.folder} cannot be made or opened ({error.strerror}); check its path") from error

    def clear_readings(self) -> None:
        for left in self.folder.glob(f"{READING}*"):
            shutil.rmtree(left, ignore_errors=True)

    def migrate(self, connection: Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise StoreError(f"{self.file} was written by another version of this program (format {version}, not {_VERSION})")
        before = {0: _SCHEMA, 1: _FROM_1 + _FROM_2, 2: _FROM_2}.get(version, "")
        for statement in _statements(before + _SEARCH if version < _VERSION else ""):
            connection.execute(statement)

    def connection(self) -> sqlite3.Connection:
        """This thread's connection. Raises StoreError when the file is no database."""
        with self._explained():
            return self._file.connection()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        connection = self.connection()
        with self._explained():
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._file.transaction() as connection:
            yield connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours. Their own texts name tables at most, never content."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
                raise DiskFullError(
                    f"the disk of the store {self.folder} is full or failing ({error}); nothing of this was stored, and what "
                    "was stored before is unharmed. Make room and try again"
                ) from error
            if name in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise StoreError("the store is being written by another process for long; try again when it has ended") from error
            if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise StoreError(f"{self.file} is not a store or is damaged ({error}); restore it from a backup") from error
            raise StoreError(f"the store {self.folder} cannot be used ({error})") from error

    def compact(self) -> None:
        """Rewrites the index and empties the log: words of deleted documents are no longer in the files."""
        with self.writing() as connection:
            connection.execute("INSERT INTO passage_words (passage_words) VALUES ('optimize')")
        with self._explained():
            self.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._file.close()

    def add_passages(self, connection: Connection, document: str, passages: Sequence[tuple[Passage, list[str]]]) -> None:
        for passage, words in passages:
            number = connection.execute(
                "INSERT INTO passages (document, place, title, text, words) VALUES (?, ?, ?, ?, ?)",
                (document, passage.index, passage.title, passage.text, len(words)),
            ).lastrowid
            connection.execute("INSERT INTO passage_words (rowid, words) VALUES (?, ?)", (number, " ".join(words)))

    def replace_words(self, connection: Connection, words: Sequence[tuple[int, list[str]]]) -> None:
        connection.executemany("DELETE FROM passage_words WHERE rowid = ?", [(number,) for number, _ in words])
        connection.executemany(
            "INSERT INTO passage_words (rowid, words) VALUES (?, ?)", [(number, " ".join(cut)) for number, cut in words]
        )
        connection.executemany("UPDATE passages SET words = ? WHERE id = ?", [(len(cut), number) for number, cut in words])

    def frequencies(self, connection: Connection, words: Sequence[str]) -> dict[str, int]:
        found = {word: connection.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone() for word in words}
        return {word: row[0] for word, row in found.items() if row}

    def candidates(
        self, connection: Connection, importance: Mapping[str, float], collection: str | None, limit: int
    ) -> list[tuple[Any, ...]]:
        """Those that SQLite ranks highest. Its ranking gives a word no weight that is in more than half of the passages."""
        query = " OR ".join('"' + word.replace('"', '""') + '"' for word in importance)
        chosen = "SELECT rowid FROM passage_words WHERE passage_words MATCH ?"
        values: tuple[Any, ...] = (query,)
        if collection is not None:
            chosen += (  # "+": with a plain rowid SQLite would look the words up anew for each passage of the collection
                " AND +rowid IN (SELECT passages.id FROM passages JOIN documents ON documents.id = document WHERE collection = ?)"
            )
            values = (query, collection)
        rows: list[tuple[Any, ...]] = connection.execute(
            "SELECT passages.id, document, name, place, title, text, passages.words, passage_words.words FROM passages "
            "JOIN passage_words ON passage_words.rowid = passages.id "
            f"JOIN documents ON documents.id = document WHERE passages.id IN ({chosen} ORDER BY rank LIMIT ?)",
            (*values, limit),
        ).fetchall()
        return rows

    def add_vectors(
        self, connection: Connection, encoder: str, rows: Sequence[tuple[NDArray[np.float32], int, str, str]]
    ) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO vectors SELECT id, ?, ? FROM passages WHERE id = ? AND title = ? AND text = ?",
            [(encoder, vector.tobytes(), *passage) for vector, *passage in rows],
        )

    def nearest(
        self, connection: Connection, encoder: str, vector: NDArray[np.float32], collection: str | None, k: int
    ) -> list[tuple[int, float]] | None:
        return None


def _statements(script: str) -> Iterator[str]:
    """The statements of an SQL script one by one, so that they can run inside a transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
