"""The store's file: SQLite with a write-ahead log, readable by its owner only, every commit on the disk before it returns.

A process killed at any moment leaves what was committed, whole. Knows tables, not what is in them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from distilledprag.gateway.failures import DiskFullError, StoreError

FILE = "store.sqlite"
_VERSION = 1
_WAIT = 30.0  # seconds that a writer waits for another one (`dprag index` beside a running gateway)

# passage_words holds each passage's words as `words_of` writes them, split by spaces; rowid = passages.id. The tokenizer
# keeps such words whole. (No content-less table: deleting from one needs a newer SQLite than Debian has.)
_SCHEMA = f"""
CREATE TABLE documents (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL, name TEXT NOT NULL, source TEXT, hash TEXT NOT NULL,
    bytes INTEGER NOT NULL, added REAL NOT NULL, UNIQUE (collection, source)
);
CREATE INDEX documents_by_hash ON documents (collection, hash);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY, document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    place INTEGER NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, words INTEGER NOT NULL
);
CREATE INDEX passages_by_document ON passages (document, place);
CREATE VIRTUAL TABLE passage_words USING fts5 (words, tokenize = "unicode61 remove_diacritics 0 tokenchars '-@._'");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (passage_words, row);
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
PRAGMA user_version = {_VERSION};
"""


class Database:
    """The store's connections, one per thread. Raises StoreError for a folder that holds something else."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.file = self.folder / FILE
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._make_private()
        with self.writing() as connection:
            self._migrate(connection)

    def _make_private(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"the store {self.folder} is a file; name a folder")
        if self.folder.is_dir() and not self.file.exists() and any(self.folder.iterdir()):
            raise StoreError(f"{self.folder} holds something else than a store; name an empty or a new folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            # SQLite gives its log the permissions of the database file, so this one is made first.
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
            self.file.chmod(0o600)
        except OSError as error:
            raise StoreError(f"the store {self.folder} cannot be made or opened ({error.strerror}); check its path") from error

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
        elif version != _VERSION:
            raise StoreError(f"{self.file} was written by another version of this program (format {version}, not {_VERSION})")

    def connection(self) -> sqlite3.Connection:
        """This thread's connection. Raises StoreError when the file is no database."""
        found = getattr(self._local, "connection", None)
        if found is None:
            with self._explained():
                found = sqlite3.connect(self.file, timeout=_WAIT, isolation_level=None, check_same_thread=False)
                found.execute("PRAGMA journal_mode = WAL")
                found.execute("PRAGMA synchronous = FULL")
                found.execute("PRAGMA foreign_keys = ON")
                found.execute("PRAGMA recursive_triggers = ON")
                found.execute("PRAGMA secure_delete = ON")
            self._local.connection = found
            with self._lock:
                self._open.append(found)
        return found

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the store while the block runs."""
        connection = self.connection()
        with self._explained():
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: when the block ends well all of it is on the disk, otherwise none of it."""
        connection = self.connection()
        with self._explained():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

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
        """Rewrite the index and empty the log, so that words of deleted documents are no longer in the files."""
        with self.writing() as connection:
            connection.execute("INSERT INTO passage_words (passage_words) VALUES ('optimize')")
        with self._explained():
            self.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close every thread's connection. For the end of the program."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()


def _statements(script: str) -> Iterator[str]:
    """The statements of an SQL script one by one, so that they can run inside a transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
