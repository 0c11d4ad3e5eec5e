"""What a document store asks of the database under it. `sqlite.py` and `postgres.py` are two; statements that both understand
are written where they belong (`store.py`, `copies.py`, `retrieval/`), with `?` for a value, and the rest is behind this protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.passages import Passage
from distilledprag.errors import StoreError

READING = "reading-"  # begin of the names of folders in which uploads lie while they are read


def without_password(place: str | Path) -> str:
    """A place as it may be shown."""
    shown = re.sub(r"(?<=://)([^:/@]*):[^/]*@", r"\1@", str(place))
    return re.sub(r"(?<=[?&])(password|sslpassword)=[^&]*", r"\1=...", shown)


def no_store(place: str | Path) -> StoreError:
    """For a place that holds no store and should not be given one."""
    place = without_password(place)
    return StoreError(f"there is no document store at {place}; check the path, or make one: dprag index PATH --store {place}")


class Connection(Protocol):
    """One statement after the other, inside a transaction."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Any:
        """A cursor, as of Python's DB-API: fetchone, fetchall, rowcount, and iteration over rows, which are tuples."""

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]], /) -> Any:
        """The statement once for each row of values."""


class Database(Protocol):
    """Safe to share between threads, and with other processes; one of them writes at a time. Its errors are StoreError and, where
    there is no room, DiskFullError."""

    copied_names: str  # SQL: the other names of the document of a row of `documents`, as a JSON list

    @property
    def folder(self) -> Path:
        """A private folder on this machine, for uploads while they are read."""

    def clear_readings(self) -> None:
        """Remove uploads that a killed gateway was reading."""

    def migrate(self, connection: Connection) -> None:
        """Make the tables that are missing. Where words have to be cut anew, `word_rule` is empty then."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One consistent view of the store while the block runs."""

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction: when the block ends well all of it is on the disk, otherwise none of it."""

    def compact(self) -> None:
        """Take the words of deleted documents out of the files, as far as the database can."""

    def close(self) -> None:
        """For the end of the program."""

    def add_passages(self, connection: Connection, document: str, passages: Sequence[tuple[Passage, list[str]]]) -> None:
        """Passages of a document, each with its words, in reading order."""

    def replace_words(self, connection: Connection, words: Sequence[tuple[int, list[str]]]) -> None:
        """Of each passage, by its number, the words as they are cut now. `totals` is not changed."""

    def frequencies(self, connection: Connection, words: Sequence[str]) -> dict[str, int]:
        """The number of passages in the whole store that have a word, of the words that one has."""

    def candidates(
        self, connection: Connection, importance: Mapping[str, float], collection: str | None, limit: int
    ) -> list[tuple[Any, ...]]:
        """At most `limit` passages with one of the words, those that probably rank highest: (number, document's id, its name,
        place, title, text, count of words, all its words between spaces or, where they are not kept in full, None)."""

    def add_vectors(
        self, connection: Connection, encoder: str, rows: Sequence[tuple[NDArray[np.float32], int, str, str]]
    ) -> None:
        """(vector, number, title, text) of passages, in the place of those that they had; of a passage that is no longer the
        same, nothing."""

    def nearest(
        self, connection: Connection, encoder: str, vector: NDArray[np.float32], collection: str | None, k: int
    ) -> list[tuple[int, float]] | None:
        """(number, inner product) of the `k` passages whose vectors are nearest, best first; None: this database cannot tell."""
