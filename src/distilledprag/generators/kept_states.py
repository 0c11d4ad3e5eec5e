"""Passages' states on disk, so that a passage is encoded once: one SQLite file in a folder, readable by its owner only.

    (space, text) -> rows as int8 with a scale each, as they travel

A space says what made the states: the lower layers' weights, the layer, and what stands before a passage. All that is kept can be
made again, so a damaged file is replaced by an empty one, and a full disk costs time only. It is as sensitive as the text
(docs/threat-model.md): deleted rows are overwritten, and the file has the permissions of the document store beside it.

Every batch is one transaction: a process killed at any moment leaves whole entries only. Safe to share between threads and with
another process. The file is read through a memory map, as far as SQLite allows (2 GB by default).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distilledprag.errors import StoreError
from distilledprag.lora.states import from_int8, to_int8
from distilledprag.sqlite_file import WAIT, SqliteFile

FILE = "states.sqlite"
LIMIT = 8 * 2**30  # bytes of states that are kept
_VERSION = 1
_AT_ONCE = 500  # texts in one query
_COARSE = 600.0  # seconds between two notes that an entry was used
_SETTINGS = ("foreign_keys = ON", "synchronous = NORMAL", f"mmap_size = {2**40}")  # bytes that may be mapped into memory
_SCHEMA = f"""
PRAGMA page_size = 16384;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, space BLOB NOT NULL, text BLOB NOT NULL, width INTEGER NOT NULL, bytes INTEGER NOT NULL,
    used REAL NOT NULL, UNIQUE (text, space)
);
CREATE INDEX IF NOT EXISTS entries_by_use ON entries (used);
CREATE TABLE IF NOT EXISTS rows (entry INTEGER PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS totals (bytes INTEGER NOT NULL);
INSERT INTO totals SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM totals);
CREATE TRIGGER IF NOT EXISTS entry_added AFTER INSERT ON entries BEGIN UPDATE totals SET bytes = bytes + new.bytes; END;
CREATE TRIGGER IF NOT EXISTS entry_removed AFTER DELETE ON entries BEGIN UPDATE totals SET bytes = bytes - old.bytes; END;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """How much is kept: passages (one counts for every space that it is kept in), bytes of their states."""

    passages: int
    bytes: int


class KeptStates:
    """States kept in `folder`. limit: bytes of states; those used longest ago go first. Raises StoreError when the folder
    cannot be used."""

    def __init__(self, folder: str | Path, limit: int = LIMIT) -> None:
        self.file, self._limit = Path(folder) / FILE, limit
        self._connections = SqliteFile(self.file, _SETTINGS)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connections.make_private()
        except OSError as error:
            raise StoreError(f"{self.file} cannot be made or opened ({error.strerror}); check the folder") from error
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "") not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise StoreError(f"{self.file} cannot be used ({error})") from error
            self._begin_anew()

    def close(self) -> None:
        """For the end of the program."""
        self._connections.close()

    def kept(self) -> Kept:
        """What is kept, all spaces together."""
        with self._explained():
            connection = self._connections.connection()
            (passages,) = connection.execute("SELECT count(*) FROM entries").fetchone()
            (size,) = connection.execute("SELECT bytes FROM totals").fetchone()
        return Kept(passages, size)

    def missing(self, space: bytes, texts: Iterable[str]) -> list[str]:
        """Those of `texts` that are not kept, each once, in their order."""
        wanted = {_digest(text): text for text in texts}
        with self._explained():
            for keys in _slices(list(wanted)):
                for (key,) in self._connections.connection().execute(
                    f"SELECT text FROM entries WHERE space = ? AND text IN ({_marks(keys)})", (space, *keys)
                ):
                    del wanted[key]
        return list(wanted.values())

    def read(self, space: bytes, texts: Iterable[str]) -> dict[str, Tensor]:
        """States (n, D), float32, of those texts that are kept; none of a file that cannot be read, which the log says."""
        wanted = {_digest(text): text for text in texts}
        found: dict[str, Tensor] = {}
        worn: list[int] = []
        now = time.time()
        try:
            with self._explained():
                for keys in _slices(list(wanted)):
                    for entry, key, width, used, data in self._connections.connection().execute(
                        "SELECT id, text, width, used, data FROM entries JOIN rows ON entry = id "
                        f"WHERE space = ? AND text IN ({_marks(keys)})",
                        (space, *keys),
                    ):
                        found[wanted[key]] = _unpacked(data, width)
                        if used < now - _COARSE:
                            worn.append(entry)
        except StoreError as error:
            _logger.warning("states of passages were not found: %s", error)
        if worn:
            self._note_used(worn, now)
        return found

    def write(self, space: bytes, states: Mapping[str, Tensor]) -> None:
        """Keep states (n, D), all or none of them; those kept already stay as they are. On a full disk nothing is
        kept, which the log says."""
        now, packed = time.time(), {_digest(text): _packed(rows) for text, rows in states.items()}
        try:
            with self._writing() as connection:
                for key, (width, data) in packed.items():
                    row = connection.execute(
                        "INSERT INTO entries (space, text, width, bytes, used) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                        (space, key, width, len(data), now),
                    )
                    if row.rowcount:
                        connection.execute("INSERT INTO rows VALUES (?, ?)", (row.lastrowid, data))
                evicted = self._evict(connection)
        except StoreError as error:
            _logger.warning("states of passages were not kept: %s", error)
            return
        if evicted:
            self._shrink()

    def forget(self, texts: Iterable[str]) -> None:
        """Delete the states of these passages, in every space; they are gone from the files then. Raises StoreError."""
        keys = [_digest(text) for text in texts]
        with self._writing() as connection:
            for some in _slices(keys):
                connection.execute(f"DELETE FROM entries WHERE text IN ({_marks(some)})", some)
        self._shrink()

    def keep_only(self, texts: Iterable[str]) -> int:
        """Delete the states of all other passages; returns how many entries went. Raises StoreError."""
        keys = {_digest(text) for text in texts}
        with self._writing() as connection:
            gone = [(id,) for id, key in connection.execute("SELECT id, text FROM entries") if key not in keys]
            connection.executemany("DELETE FROM entries WHERE id = ?", gone)
        if gone:
            self._shrink()
        return len(gone)

    def _evict(self, connection: sqlite3.Connection) -> bool:
        """Delete what was used longest ago until the rest fits; whether anything went."""
        over = connection.execute("SELECT bytes FROM totals").fetchone()[0] - self._limit
        if over <= 0:
            return False
        gone = []
        for entry, size in connection.execute("SELECT id, bytes FROM entries ORDER BY used, id"):
            gone.append((entry,))
            over -= size
            if over <= 0:
                break
        connection.executemany("DELETE FROM entries WHERE id = ?", gone)
        return True

    def _note_used(self, entries: Sequence[int], now: float) -> None:
        """Best effort: a question waits for nobody who writes."""
        with contextlib.suppress(StoreError), self._writing(wait=0.05) as connection:
            connection.executemany("UPDATE entries SET used = ? WHERE id = ?", [(now, entry) for entry in entries])

    def _shrink(self) -> None:
        """Give free pages back and empty the log, which holds what was deleted, unless another process is busy with it."""
        with contextlib.suppress(StoreError), self._explained():
            connection = self._connections.connection()
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _prepare(self) -> None:
        connection = self._connections.connection()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise StoreError(f"{self.file} was written by another version of this program (format {version}, not {_VERSION})")
        if version < _VERSION:
            connection.executescript(_SCHEMA)

    def _begin_anew(self) -> None:
        """The file is damaged: all of it can be made again."""
        _logger.warning("%s is damaged; it is removed, and passages are encoded again", self.file)
        self.close()
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            (self.file.parent / name).unlink(missing_ok=True)
        self._connections.make_private()
        self._prepare()

    @contextlib.contextmanager
    def _writing(self, wait: float = WAIT) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or none."""
        with self._explained():
            self._connections.connection().execute(f"PRAGMA busy_timeout = {int(1000 * wait)}").fetchall()
            with self._connections.transaction() as connection:
                yield connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours. Their own texts name tables at most, never content."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(f"the kept states {self.file} cannot be used ({error}); the file may be deleted") from error


def _packed(rows: Tensor) -> tuple[int, bytes]:
    """(D, the scales and then the int8 rows) of states (n, D)."""
    values, scale = to_int8(rows)
    return rows.shape[1], scale.numpy().tobytes() + values.numpy().tobytes()


def _unpacked(data: bytes, width: int) -> Tensor:
    count = len(data) // (width + 2)
    if not count:
        return torch.zeros(0, width)
    held = bytearray(data)
    scale = torch.frombuffer(held, dtype=torch.float16, count=count)
    values = torch.frombuffer(held, dtype=torch.int8, offset=2 * count).view(count, width)
    return from_int8(values, scale)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _marks(keys: Sequence[bytes]) -> str:
    return ", ".join("?" * len(keys))


def _slices(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for begin in range(0, len(keys), _AT_ONCE):
        yield keys[begin : begin + _AT_ONCE]
