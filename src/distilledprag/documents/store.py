"""Documents at rest: one SQLite file with documents, their passages and a full-text index, readable by its owner only.

Every change is one transaction, and on the disk when the method returns: a process killed at any moment leaves what was
committed, whole. The file is not encrypted. `indexing.py` fills a store, `retrieval/sqlite.py` searches it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents.passages import Passage
from distilledprag.errors import DiskFullError, InputError, StoreError, UnknownDocumentError
from distilledprag.text import words_of

DEFAULT_COLLECTION = "default"
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_PIECES = 100  # looked for at a time
_MOST_ANSWERS = 100_000  # fingerprints kept
_COLUMNS = (
    "id, collection, name, source, hash, bytes, added, (SELECT count(*) FROM passages WHERE document = documents.id), notes"
)
READING = "reading-"  # begin of the names of folders in which uploads lie while they are read
FILE = "store.sqlite"
_VERSION = 2  # of the schema; 1 had no notes
_WAIT = 30.0  # seconds that a writer waits for another one (`dprag index` beside a running gateway)

# passage_words holds each passage's words as `words_of` writes them, split by spaces; rowid = passages.id. The tokenizer
# keeps such words whole. (No content-less table: deleting from one needs a newer SQLite than Debian has.)
_SCHEMA = f"""
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


@dataclass(frozen=True)
class PreparedDocument:
    """hash: of the content and how it is cut; size: bytes of the content; source: absolute path of an indexed file; notes: what
    could not be read of it."""

    name: str
    passages: list[Passage]
    hash: str
    size: int
    source: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredDocument:
    """A document without its text. bytes: of the original; added: Unix seconds; passages: how many; notes: what could not be
    read of it."""

    id: str
    collection: str
    name: str
    source: str | None
    hash: str
    bytes: int
    added: float
    passages: int
    notes: tuple[str, ...] = ()


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
        rows = [_rows(document) for document in documents]  # before the transaction, during which nobody else can write
        with self.database.writing() as connection:
            return [_store(connection, document, collection, own) for document, own in zip(documents, rows, strict=True)]

    def document(self, id: str) -> StoredDocument:
        """Raises UnknownDocumentError."""
        with self.database.reading() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM documents WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise _missing()
        return _stored(row)

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
        return [_stored(row) for row in rows]

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

        Raises UnknownDocumentError when one is not there.
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


def _stored(row: Sequence[Any]) -> StoredDocument:
    *values, notes = row
    return StoredDocument(*values, notes=tuple(json.loads(notes)))


def _rows(document: PreparedDocument) -> list[tuple[Passage, list[str]]]:
    """Its passages with their words."""
    return [(passage, words_of(f"{passage.title} {passage.text}") or ["\0"]) for passage in document.passages]


def _store(
    connection: sqlite3.Connection, document: PreparedDocument, collection: str, rows: list[tuple[Passage, list[str]]]
) -> str:
    if document.source is not None:
        where, values = "source = ?", [document.source]
    else:
        where, values = "source IS NULL AND hash = ? AND name = ?", [document.hash, document.name]
    found = connection.execute(
        f"SELECT id, hash FROM documents WHERE collection = ? AND {where}", (collection, *values)
    ).fetchone()
    if found is not None and found[1] == document.hash:
        return found[0]
    if found is not None:
        connection.execute("DELETE FROM documents WHERE id = ?", (found[0],))
    id = found[0] if found is not None else secrets.token_hex(8)
    connection.execute(
        "INSERT INTO documents (id, collection, name, source, hash, bytes, added, notes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id, collection, document.name, document.source, document.hash, document.size, time.time(),
            json.dumps(document.notes, ensure_ascii=False),
        ),
    )  # fmt: skip
    for passage, words in rows:
        row = connection.execute(
            "INSERT INTO passages (document, place, title, text, words) VALUES (?, ?, ?, ?, ?)",
            (id, passage.index, passage.title, passage.text, len(words)),
        ).lastrowid
        connection.execute("INSERT INTO passage_words (rowid, words) VALUES (?, ?)", (row, " ".join(words)))
    return id


def _fingerprint(engine: str, answer: str) -> bytes:
    return hashlib.sha256(f"{engine}\0{answer.strip()}".encode("utf-8", "surrogatepass")).digest()


def _missing() -> UnknownDocumentError:
    return UnknownDocumentError("there is no document with this id; list the documents to see their ids")


class Database:
    """The SQLite file: its connections, one per thread. Raises StoreError for a folder that holds something else."""

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
        elif version == 1:
            connection.execute("ALTER TABLE documents ADD COLUMN notes TEXT NOT NULL DEFAULT '[]'")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
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
