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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents import copies
from distilledprag.documents.passages import Passage
from distilledprag.errors import DiskFullError, InputError, StoreError, UnknownDocumentError
from distilledprag.words import PLAIN, WordRule, words_of

DEFAULT_COLLECTION = "default"
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_PIECES = 100  # looked for at a time
_MOST_ANSWERS = 100_000  # fingerprints kept
_COLUMNS = (
    "id, collection, name, source, hash, bytes, added, (SELECT count(*) FROM passages WHERE document = documents.id), notes, "
    "(SELECT json_group_array(name) FROM copies WHERE document = documents.id)"
)
READING = "reading-"  # begin of the names of folders in which uploads lie while they are read
FILE = "store.sqlite"
_VERSION = 3  # of the schema; 1 had no notes, 2 no copies and vectors, and words of another kind
_WAIT = 30.0  # seconds that a writer waits for another one (`dprag index` beside a running gateway)

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
    read of it; copies: other names under which the same bytes came."""

    id: str
    collection: str
    name: str
    source: str | None
    hash: str
    bytes: int
    added: float
    passages: int
    notes: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


class DocumentStore:
    """Documents in a folder on this machine; safe to share between threads, and with another process."""

    def __init__(self, folder: str | Path, rule: WordRule | None = None) -> None:
        """rule: how words are cut for searching, from now on; None: as before, in a new store `PLAIN`."""
        self.database = Database(folder, rule)
        self._answers = _AnswerLog(self.database)

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
        self._answers.close()
        self.database.close()

    def add(self, documents: Sequence[PreparedDocument], collection: str = DEFAULT_COLLECTION) -> list[str]:
        """Store documents, all or none, and return their ids.

        Equal bytes are one document, whose id comes back, and whose `copies` names the others; a new version of an indexed file
        takes the place of the old one. Raises DiskFullError (nothing was stored) and InputError for a wrong collection.
        """
        checked_collection(collection)
        with self.database.reading() as connection:
            rule = word_rule(connection)
            stored = [_is_stored(connection, document, collection) for document in documents]
        # Words are found before the transaction, during which nobody else can write, and for what is new only.
        rows = [None if old else _rows(new, rule) for old, new in zip(stored, documents, strict=True)]
        with self.database.writing() as connection:
            if word_rule(connection) != rule:  # another process changed it in between
                rows = [None] * len(documents)
            return [_store(connection, document, collection, own) for document, own in zip(documents, rows, strict=True)]

    def release(self, sources: Sequence[str], collection: str) -> None:
        """Indexed files are gone: a document that was nowhere else is deleted, as `delete` does it."""
        with self.database.writing() as connection:
            for source in sources:
                copies.release(connection, collection, source)
        if sources:
            with contextlib.suppress(DiskFullError):
                self.database.compact()

    def likenesses(self, ids: Sequence[str]) -> dict[str, copies.Likeness]:
        """Of these documents those that nearly repeat an earlier one of their collection, with that one."""
        with self.database.reading() as connection:
            return copies.likenesses(connection, ids)

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
                "SELECT source, id, hash FROM documents WHERE collection = ?1 AND source IS NOT NULL UNION ALL SELECT "
                "copies.source, id, hash FROM copies JOIN documents ON documents.id = document "
                "WHERE copies.collection = ?1 AND copies.source IS NOT NULL",
                (collection,),
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
        self._answers.add(_fingerprint(engine, answer))

    def wrote_answer(self, engine: str, answer: str) -> bool:
        """Whether `remember_answer` was called with the same, less surrounding space."""
        return self._answers.holds(_fingerprint(engine, answer))


class _AnswerLog:
    """Fingerprints of answers, known at once and written by a thread of their own: while a large document is stored nobody else
    can write, and no chat should wait for that. Those of the last moment before a kill, or on a full disk, are lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: set[bytes] = set()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def add(self, fingerprint: bytes) -> None:
        self._unwritten.add(fingerprint)
        self._threads.submit(self._write, fingerprint)

    def holds(self, fingerprint: bytes) -> bool:
        if fingerprint in self._unwritten:
            return True
        with self._database.reading() as connection:
            return connection.execute("SELECT 1 FROM answers WHERE fingerprint = ?", (fingerprint,)).fetchone() is not None

    def close(self) -> None:
        self._threads.shutdown()

    def _write(self, fingerprint: bytes) -> None:
        try:
            with self._database.writing() as connection:
                connection.execute("INSERT OR IGNORE INTO answers VALUES (?)", (fingerprint,))
                if connection.execute("SELECT count(*) FROM answers").fetchone()[0] > _MOST_ANSWERS:
                    connection.execute("DELETE FROM answers WHERE fingerprint IN (SELECT fingerprint FROM answers LIMIT 1000)")
        finally:
            self._unwritten.discard(fingerprint)


def checked_collection(name: str) -> str:
    """Raises InputError for what is no collection's name."""
    if not _COLLECTION.fullmatch(name):
        raise InputError("a collection's name has up to 64 letters, digits, dots, dashes and underscores; choose another")
    return name


def _stored(row: Sequence[Any]) -> StoredDocument:
    id, collection, name, source, hash, size, added, passages, notes, names = row
    lists = tuple(json.loads(notes)), tuple(json.loads(names))
    return StoredDocument(id, collection, name, source, hash, size, added, passages, *lists)


def word_rule(connection: sqlite3.Connection) -> WordRule:
    """How words are cut in this store."""
    return WordRule.parse(connection.execute("SELECT description FROM word_rule").fetchone()[0])


def _is_stored(connection: sqlite3.Connection, document: PreparedDocument, collection: str) -> bool:
    """Whether these bytes are stored already."""
    return copies.same_bytes(connection, collection, document.hash, document.name) is not None


@dataclass(frozen=True)
class _Rows:
    """What is written of a document beside its names. passages: each with its words; signature: see `copies`."""

    passages: list[tuple[Passage, list[str]]]
    signature: bytes


def _rows(document: PreparedDocument, rule: WordRule) -> _Rows:
    passages = [(passage, _words(passage.title, passage.text, rule)) for passage in document.passages]
    return _Rows(passages, copies.signature(words for _, words in passages))


def _words(title: str, text: str, rule: WordRule) -> list[str]:
    return words_of(f"{title} {text}", rule) or ["\0"]


def _store(connection: sqlite3.Connection, document: PreparedDocument, collection: str, rows: _Rows | None) -> str:
    """rows: of `_rows`; None: find them now, if the document is not stored yet."""
    held = None if document.source is None else copies.held_at(connection, collection, document.source)
    if held is not None and held[1] == document.hash:
        return held[0]
    same = copies.same_bytes(connection, collection, document.hash, document.name)
    freed = None if held is None else copies.release(connection, collection, str(document.source))
    if same is not None:
        copies.note_copy(connection, same, collection, document.name, document.source)
        return same
    id = freed or secrets.token_hex(8)  # a file that changed keeps its id
    connection.execute(
        "INSERT INTO documents (id, collection, name, source, hash, bytes, added, notes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id, collection, document.name, document.source, document.hash, document.size, time.time(),
            json.dumps(document.notes, ensure_ascii=False),
        ),
    )  # fmt: skip
    rows = _rows(document, word_rule(connection)) if rows is None else rows
    connection.execute("INSERT INTO signatures VALUES (?, ?)", (id, rows.signature))
    for passage, words in rows.passages:
        row = connection.execute(
            "INSERT INTO passages (document, place, title, text, words) VALUES (?, ?, ?, ?, ?)",
            (id, passage.index, passage.title, passage.text, len(words)),
        ).lastrowid
        connection.execute("INSERT INTO passage_words (rowid, words) VALUES (?, ?)", (row, " ".join(words)))
    return id


def _cut_words_again(connection: sqlite3.Connection, rule: WordRule) -> None:
    """Write all that the store knows of its passages' words, by this rule."""
    connection.execute("DELETE FROM word_rule")
    connection.execute("INSERT INTO word_rule VALUES (?)", (rule.describe(),))
    for (document,) in connection.execute("SELECT id FROM documents").fetchall():
        rows = connection.execute("SELECT id, title, text FROM passages WHERE document = ?", (document,)).fetchall()
        cut = [(id, _words(title, text, rule)) for id, title, text in rows]
        connection.executemany("DELETE FROM passage_words WHERE rowid = ?", [(id,) for id, _ in cut])
        connection.executemany("INSERT INTO passage_words (rowid, words) VALUES (?, ?)", [(id, " ".join(w)) for id, w in cut])
        connection.executemany("UPDATE passages SET words = ? WHERE id = ?", [(len(words), id) for id, words in cut])
        mark = copies.signature(words for _, words in cut)
        connection.execute("INSERT OR REPLACE INTO signatures VALUES (?, ?)", (document, mark))
    connection.execute("UPDATE totals SET words = (SELECT coalesce(sum(words), 0) FROM passages)")


def _fingerprint(engine: str, answer: str) -> bytes:
    return hashlib.sha256(f"{engine}\0{answer.strip()}".encode("utf-8", "surrogatepass")).digest()


def _missing() -> UnknownDocumentError:
    return UnknownDocumentError("there is no document with this id; list the documents to see their ids")


class Database:
    """The SQLite file: its connections, one per thread. Raises StoreError for a folder that holds something else."""

    def __init__(self, folder: str | Path, rule: WordRule | None = None) -> None:
        self.folder = Path(folder)
        self.file = self.folder / FILE
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._make_private()
        with self.writing() as connection:
            self._migrate(connection)
            known = connection.execute("SELECT description FROM word_rule").fetchone()
            rule = (WordRule.parse(known[0]) if known else PLAIN) if rule is None else rule
            if not known or known[0] != rule.describe():
                _cut_words_again(connection, rule)

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
        if version > _VERSION:
            raise StoreError(f"{self.file} was written by another version of this program (format {version}, not {_VERSION})")
        before = {0: _SCHEMA, 1: _FROM_1 + _FROM_2, 2: _FROM_2}.get(version, "")
        for statement in _statements(before + _SEARCH if version < _VERSION else ""):
            connection.execute(statement)

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
