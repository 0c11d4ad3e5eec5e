"""Documents at rest: documents, their passages and a full-text index, in a SQLite file (`sqlite.py`) or a PostgreSQL database
(`postgres.py`).

Every change is one transaction, and on the disk when the method returns: a process killed at any moment leaves what was
committed, whole. `indexing.py` fills a store, `retrieval/bm25.py` searches it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents import copies
from distilledprag.documents.database import Connection, Database
from distilledprag.documents.passages import Passage
from distilledprag.documents.sqlite import SqliteDatabase
from distilledprag.errors import DiskFullError, InputError, UnknownDocumentError
from distilledprag.words import PLAIN, WordRule, words_of

DEFAULT_COLLECTION = "default"
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ADDRESSES = ("postgresql://", "postgres://")
_MOST_PIECES = 100  # looked for at a time
_MOST_ANSWERS = 100_000  # fingerprints kept


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


def open_database(place: str | Path, make: bool = True) -> Database:
    """The database at a place: an address that begins with postgresql:// or postgres://, or a folder on this machine.

    Raises StoreError for a place that cannot be used and, unless `make`, for one without a store."""
    if str(place).startswith(ADDRESSES):
        from distilledprag.documents.postgres import PostgresDatabase

        return PostgresDatabase(str(place), make)
    return SqliteDatabase(place, make)


class DocumentStore:
    """Documents in a database; safe to share between threads, and with other processes."""

    def __init__(self, place: str | Path, rule: WordRule | None = None, *, make: bool = True) -> None:
        """place: of `open_database`. rule: how words are cut for searching, from now on; None: as before, in a new store
        `PLAIN`. make: a store where there is none. Raises StoreError for a place that cannot be used or holds something else,
        and unless `make` for one without a store."""
        self.database = open_database(place, make)
        self._columns = (
            "id, collection, name, source, hash, bytes, added, (SELECT count(*) FROM passages WHERE document = documents.id), "
            f"notes, {self.database.copied_names}"
        )
        with self.database.writing() as connection:
            self.database.migrate(connection)
            known = connection.execute("SELECT description FROM word_rule").fetchone()
            rule = (WordRule.parse(known[0]) if known else PLAIN) if rule is None else rule
            if not known or known[0] != rule.describe():
                self._cut_words_again(connection, rule)
        self._answers = _AnswerLog(self.database)

    @property
    def reading_folder(self) -> Path:
        """Where uploaded files may lie while they are read, private."""
        return self.database.folder

    def clear_readings(self) -> None:
        """Remove uploads that a killed gateway was reading. For the start of a gateway, of which a store has one."""
        self.database.clear_readings()

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
            return [self._store(connection, document, collection, own) for document, own in zip(documents, rows, strict=True)]

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
            row = connection.execute(f"SELECT {self._columns} FROM documents WHERE id = ?", (id,)).fetchone()
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
        holds = " OR ".join(["instr(text, ?) > 0 OR instr(title, ?) > 0"] * len(wanted))
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
                f"SELECT {self._columns} FROM documents WHERE CAST(? AS TEXT) IS NULL OR collection = ? "
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
            found: int = connection.execute(
                "SELECT count(*) FROM documents WHERE CAST(? AS TEXT) IS NULL OR collection = ?", (collection, collection)
            ).fetchone()[0]
            return found

    def indexed(self, collection: str) -> dict[str, tuple[str, str]]:
        """Of each indexed file of a collection: path -> (document id, hash)."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT source, id, hash FROM documents WHERE collection = ? AND source IS NOT NULL UNION ALL SELECT "
                "copies.source, id, hash FROM copies JOIN documents ON documents.id = document "
                "WHERE copies.collection = ? AND copies.source IS NOT NULL",
                (collection, collection),
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

    def _store(self, connection: Connection, document: PreparedDocument, collection: str, rows: _Rows | None) -> str:
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
        self.database.add_passages(connection, id, rows.passages)
        return id

    def _cut_words_again(self, connection: Connection, rule: WordRule) -> None:
        """Write all that the store knows of its passages' words, by this rule."""
        connection.execute("DELETE FROM word_rule")
        connection.execute("INSERT INTO word_rule VALUES (?)", (rule.describe(),))
        for (document,) in connection.execute("SELECT id FROM documents").fetchall():
            rows = connection.execute("SELECT id, title, text FROM passages WHERE document = ?", (document,)).fetchall()
            cut = [(id, _words(title, text, rule)) for id, title, text in rows]
            self.database.replace_words(connection, cut)
            mark = copies.signature(words for _, words in cut)
            connection.execute(
                "INSERT INTO signatures VALUES (?, ?) ON CONFLICT (document) DO UPDATE SET signature = excluded.signature",
                (document, mark),
            )
        connection.execute("UPDATE totals SET words = (SELECT coalesce(sum(words), 0) FROM passages)")


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
                connection.execute("INSERT INTO answers VALUES (?) ON CONFLICT DO NOTHING", (fingerprint,))
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


def word_rule(connection: Connection) -> WordRule:
    """How words are cut in this store."""
    return WordRule.parse(connection.execute("SELECT description FROM word_rule").fetchone()[0])


def _is_stored(connection: Connection, document: PreparedDocument, collection: str) -> bool:
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


def _fingerprint(engine: str, answer: str) -> bytes:
    return hashlib.sha256(f"{engine}\0{answer.strip()}".encode("utf-8", "surrogatepass")).digest()


def _missing() -> UnknownDocumentError:
    return UnknownDocumentError("there is no document with this id; list the documents to see their ids")
