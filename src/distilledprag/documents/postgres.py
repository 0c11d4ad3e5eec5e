"""A PostgreSQL database under a document store: for several gateways over the same documents, or more of them than one machine
should hold. Words are found by its full-text search, meaning by pgvector where that extension is there.

All tables are in the schema `dprag`. Words are cut here, by the same rules as everywhere, and stored as they are (`tsvector`
without a dictionary). The database holds the documents in plain text: it belongs on the trusted side. What is deleted is removed
from its tables by VACUUM; its write-ahead log and backups keep it as long as their owner has them keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.database import Connection, no_store
from distilledprag.documents.passages import Passage
from distilledprag.errors import ConfigError, DiskFullError, StoreError

try:
    import psycopg
    import psycopg_pool
except ImportError as error:
    raise ConfigError(f"a PostgreSQL store needs {error.name}: pip install 'distilledprag[postgres]'") from error

_VERSION = 1  # of the schema
_LOCK = 0x64707261  # of the one that writes
_WAIT = 30  # seconds that a writer waits for another one
_CONNECTIONS = 16  # at most, of one process
_LONGEST_WORD = 2000  # bytes; PostgreSQL takes 2,046
_FOLDER = "dprag-store-"

_SCHEMA = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL, name TEXT NOT NULL, source TEXT, hash TEXT NOT NULL, bytes BIGINT NOT NULL,
    added DOUBLE PRECISION NOT NULL, notes TEXT NOT NULL DEFAULT '[]', rowid BIGINT GENERATED ALWAYS AS IDENTITY,
    UNIQUE (collection, source)
);
CREATE INDEX documents_by_hash ON documents (collection, hash);
CREATE INDEX documents_by_time ON documents (added, rowid);
CREATE TABLE passages (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    place BIGINT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, words BIGINT NOT NULL, lexemes TSVECTOR NOT NULL
);
CREATE INDEX passages_by_document ON passages (document, place);
CREATE INDEX passages_by_word ON passages USING gin (lexemes);
CREATE TABLE totals (passages BIGINT NOT NULL, words BIGINT NOT NULL);
INSERT INTO totals VALUES (0, 0);
CREATE FUNCTION count_added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE totals SET passages = passages + (SELECT count(*) FROM changed),
        words = totals.words + (SELECT coalesce(sum(changed.words), 0) FROM changed);
    RETURN NULL;
END $$;
CREATE FUNCTION count_removed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE totals SET passages = passages - (SELECT count(*) FROM changed),
        words = totals.words - (SELECT coalesce(sum(changed.words), 0) FROM changed);
    RETURN NULL;
END $$;
CREATE TRIGGER passages_added AFTER INSERT ON passages REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_added();
CREATE TRIGGER passages_removed AFTER DELETE ON passages REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_removed();
CREATE TABLE word_rule (description TEXT NOT NULL);
CREATE TABLE vectors (
    passage BIGINT PRIMARY KEY REFERENCES passages (id) ON DELETE CASCADE, encoder TEXT NOT NULL, vector BYTEA NOT NULL
);
CREATE TABLE copies (
    document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE, collection TEXT NOT NULL, name TEXT NOT NULL,
    source TEXT, rowid BIGINT GENERATED ALWAYS AS IDENTITY, UNIQUE (collection, source)
);
CREATE INDEX copies_by_document ON copies (document);
CREATE TABLE signatures (document TEXT PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE, signature BYTEA NOT NULL);
CREATE TABLE answers (fingerprint BYTEA PRIMARY KEY);
CREATE FUNCTION instr(TEXT, TEXT) RETURNS INTEGER LANGUAGE sql IMMUTABLE AS 'SELECT strpos($1, $2)';
CREATE TABLE format (version INTEGER NOT NULL);
"""


class PostgresDatabase:
    """A database and connections to it. address: postgresql://...; what it leaves out comes from libpq's variables and files
    (PGPASSWORD, ~/.pgpass). Raises StoreError for one that cannot be reached and, unless `make`, for one without a store,
    ConfigError without the packages for it."""

    copied_names = "(SELECT coalesce(json_agg(name ORDER BY rowid), '[]')::text FROM copies WHERE document = documents.id)"

    def __init__(self, address: str, make: bool = True) -> None:
        self._has_vectors = False
        with self._explained():
            told = psycopg.conninfo.conninfo_to_dict(address)
            self._name = (
                f"the store in PostgreSQL ({told.get('dbname') or 'the default database'} on {told.get('host') or 'here'})"
            )
            with psycopg.connect(address, connect_timeout=10) as connection:  # says why it cannot, which a pool does not
                if not make and connection.execute("SELECT to_regclass('dprag.format')").fetchone() == (None,):
                    raise no_store(address)
            self._pool = psycopg_pool.ConnectionPool(
                address, min_size=1, max_size=_CONNECTIONS, kwargs={"autocommit": True}, timeout=_WAIT, open=False,
                configure=_find_schema, check=psycopg_pool.ConnectionPool.check_connection,
            )  # fmt: skip
            self._pool.open()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))

    def clear_readings(self) -> None:
        """Those of this machine's processes that are no more."""
        for left in self.folder.parent.glob(f"{_FOLDER}*"):
            process = left.name.removeprefix(_FOLDER).partition("-")[0]
            if left.stat().st_uid == os.getuid() and process.isdigit() and not _runs(int(process)):
                shutil.rmtree(left, ignore_errors=True)

    def migrate(self, connection: Connection) -> None:
        if connection.execute("SELECT to_regclass('dprag.format')").fetchone()[0] is None:
            if connection.execute("SELECT to_regnamespace('dprag')").fetchone()[0] is None:
                connection.execute("CREATE SCHEMA dprag")
            connection.execute(_SCHEMA)
            connection.execute("INSERT INTO format VALUES (?)", (_VERSION,))
        version = connection.execute("SELECT version FROM format").fetchone()[0]
        if version != _VERSION:
            raise StoreError(f"{self._name} was written by another version of this program (format {version}, not {_VERSION})")
        self._add_pgvector(connection)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "ROLLBACK") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        with self._transaction("BEGIN", "COMMIT") as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{_WAIT}s'")
            connection.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str, end: str) -> Iterator[_Translated]:
        with self._explained(), self._pool.connection() as connection:
            connection.execute(begin)
            try:
                yield _Translated(connection)
                connection.execute(end)
            except BaseException:
                with contextlib.suppress(psycopg.Error):  # of a connection that is gone
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """PostgreSQL's errors as ours. Of its own texts those are left out that may hold content."""
        try:
            yield
        except psycopg_pool.PoolTimeout as error:
            raise StoreError(f"{self._name} has no connection free, or is gone; try again") from error
        except psycopg.ProgrammingError as error:
            if error.sqlstate is None:  # an address that cannot be read
                raise StoreError(f"the store's address is wrong ({error}); write postgresql://user@host/database") from None
            raise self._failed(error) from error
        except psycopg.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: psycopg.Error) -> StoreError:
        state = error.sqlstate or ""
        if state.startswith("53") and state != "53300":
            return DiskFullError(
                f"{self._name} has no room ({state}); nothing of this was stored, and what was stored before is unharmed. Make "
                "room there and try again"
            )
        if state == "55P03":
            return StoreError("the store is being written by another process for long; try again when it has ended")
        if isinstance(error, psycopg.OperationalError) and not state:
            reason = next(iter(str(error).strip().splitlines()), "no reason given")
            return StoreError(f"{self._name} cannot be reached ({reason}); check the address, the server and the password")
        return StoreError(f"{self._name} cannot be used ({type(error).__name__}, {state}); look into the server's log")

    def compact(self) -> None:
        with self._explained(), self._pool.connection() as connection:
            connection.execute("VACUUM documents, passages, vectors, copies, signatures, totals")

    def close(self) -> None:
        self._pool.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add_passages(self, connection: Connection, document: str, passages: Sequence[tuple[Passage, list[str]]]) -> None:
        connection.execute(
            "INSERT INTO passages (document, place, title, text, words, lexemes) "
            "SELECT ?, place, title, text, words, CAST(lexemes AS tsvector) FROM unnest(CAST(? AS bigint[]), CAST(? AS text[]), "
            "CAST(? AS text[]), CAST(? AS bigint[]), CAST(? AS text[])) AS given (place, title, text, words, lexemes) "
            "ORDER BY place",
            (
                document,
                [passage.index for passage, _ in passages],
                [passage.title for passage, _ in passages],
                [passage.text for passage, _ in passages],
                [len(words) for _, words in passages],
                [" ".join({_quoted(word) for word in words}) for _, words in passages],
            ),
        )

    def replace_words(self, connection: Connection, words: Sequence[tuple[int, list[str]]]) -> None:
        connection.executemany(
            "UPDATE passages SET words = ?, lexemes = CAST(? AS tsvector) WHERE id = ?",
            [(len(cut), " ".join({_quoted(word) for word in cut}), number) for number, cut in words],
        )

    def frequencies(self, connection: Connection, words: Sequence[str]) -> dict[str, int]:
        rows = connection.execute(
            "SELECT place, (SELECT count(*) FROM passages WHERE lexemes @@ CAST(quoted AS tsquery)) "
            "FROM unnest(CAST(? AS text[])) WITH ORDINALITY AS asked (quoted, place)",
            ([_quoted(word) for word in words],),
        )
        return {words[place - 1]: count for place, count in rows if count}

    def candidates(
        self, connection: Connection, importance: Mapping[str, float], collection: str | None, limit: int
    ) -> list[tuple[Any, ...]]:
        """Those with the greatest sum of the importance of their words, each counted once: no tsvector tells how often."""
        quoted = [_quoted(word) for word in importance]
        rows: list[tuple[Any, ...]] = connection.execute(
            "SELECT passages.id, document, name, place, title, text, passages.words, NULL FROM passages "
            "JOIN documents ON documents.id = document "
            "WHERE lexemes @@ CAST(? AS tsquery) AND (CAST(? AS text) IS NULL OR collection = ?) "
            "ORDER BY (SELECT sum(weight) FROM unnest(CAST(? AS text[]), CAST(? AS float8[])) AS asked (quoted, weight) "
            "WHERE lexemes @@ CAST(quoted AS tsquery)) DESC, passages.id LIMIT ?",
            (" | ".join(quoted), collection, collection, quoted, list(importance.values()), limit),
        ).fetchall()
        return rows

    def add_vectors(
        self, connection: Connection, encoder: str, rows: Sequence[tuple[NDArray[np.float32], int, str, str]]
    ) -> None:
        connection.executemany(
            "INSERT INTO vectors (passage, encoder, vector) SELECT id, ?, ? FROM passages WHERE id = ? AND title = ? "
            "AND text = ? ON CONFLICT (passage) DO UPDATE SET encoder = excluded.encoder, vector = excluded.vector",
            [(encoder, vector.tobytes(), *passage) for vector, *passage in rows],
        )
        if self._has_vectors:
            connection.executemany(
                "UPDATE vectors SET embedding = CAST(? AS vector) WHERE passage = ? AND encoder = ?",
                [(_literal(vector), number, encoder) for vector, number, _, _ in rows],
            )

    def nearest(
        self, connection: Connection, encoder: str, vector: NDArray[np.float32], collection: str | None, k: int
    ) -> list[tuple[int, float]] | None:
        """By pgvector; by an index of its where one was made (docs/scaling.md)."""
        if not self._has_vectors:
            return None
        near = f"embedding::vector({len(vector)}) <#> CAST(? AS vector({len(vector)}))"
        found: list[tuple[int, float]] = connection.execute(
            f"SELECT passage, -({near}) FROM vectors JOIN passages ON passages.id = passage JOIN documents ON documents.id = "
            f"document WHERE encoder = ? AND (CAST(? AS text) IS NULL OR collection = ?) ORDER BY {near} LIMIT ?",
            (_literal(vector), encoder, collection, collection, _literal(vector), k),
        ).fetchall()
        return found

    def _add_pgvector(self, connection: Connection) -> None:
        """Use the extension if it is there, or may be created; vectors that were written without it are computed again."""
        there = "SELECT 1 FROM pg_extension WHERE extname = 'vector'"
        if connection.execute(there).fetchone() is None:
            if connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone() is None:
                return
            connection.execute("SAVEPOINT extension")
            try:
                connection.execute("CREATE EXTENSION vector SCHEMA public")
            except psycopg.errors.InsufficientPrivilege:
                connection.execute("ROLLBACK TO SAVEPOINT extension")
                return
        column = "SELECT 1 FROM information_schema.columns WHERE table_schema = 'dprag' AND column_name = 'embedding'"
        if connection.execute(column).fetchone() is None:
            connection.execute("DELETE FROM vectors")
            connection.execute("ALTER TABLE vectors ADD COLUMN embedding vector")
        self._has_vectors = True


class _Translated:
    """A connection that takes `?` for a value. PostgreSQL's text holds no NUL; U+FFFD stands in its place."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Any:
        if not values:  # then `%` is `%`, and several statements may come at once
            return self._connection.execute(statement.encode())
        return self._connection.execute(_translated(statement), [_plain(value) for value in values])

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]], /) -> Any:
        cursor = self._connection.cursor()
        cursor.executemany(_translated(statement), [[_plain(value) for value in row] for row in rows])
        return cursor


def _translated(statement: str) -> bytes:
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _quoted(word: str) -> str:
    """A word as tsvector and tsquery read it, exactly."""
    data = word.encode()
    if len(data) > _LONGEST_WORD:
        word = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


def _literal(vector: NDArray[np.float32]) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _find_schema(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SET search_path TO dprag, public")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
