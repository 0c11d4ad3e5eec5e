"""One SQLite file, readable by its owner only, and its connections: one for each thread that uses it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

WAIT = 30.0  # seconds that a writer waits for another one, in this process or another


class SqliteFile:
    """settings: PRAGMAs of every connection, such as "foreign_keys = ON". `secure_delete` is always on, so that what is deleted
    is overwritten. Transactions begin where the code says so. Errors are SQLite's own."""

    def __init__(self, file: Path, settings: Sequence[str]) -> None:
        self.file, self._settings = file, (*settings, "secure_delete = ON")
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def make_private(self) -> None:
        """Make a file that only its owner can read and write, or give one that is there these permissions.

        SQLite gives its logs those of the database file, so it is made before SQLite opens it. Raises OSError.
        """
        os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
        self.file.chmod(0o600)

    def connection(self) -> sqlite3.Connection:
        """This thread's."""
        found = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(self.file, timeout=WAIT, isolation_level=None, check_same_thread=False)
            with self._lock:
                self._open.append(found)
            for setting in self._settings:
                found.execute(f"PRAGMA {setting}").fetchall()
            self._local.connection = found
        return found

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write: when the block ends well all of it is kept, otherwise none of it."""
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connections of all threads. Whoever uses the file again opens new ones."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()
