"""Writing files so that a crash leaves the old content or the new one, never half of it.

For files that grow line by line see `journal.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


def sync(path: Path) -> None:
    """Flush one file's or folder's content to the disk (a folder's: the names in it)."""
    with contextlib.suppress(PermissionError):  # Windows does not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_private(file: Path) -> None:
    """Make a file that only its owner can read and write, or give one that is there these permissions.

    SQLite gives its logs those of the database file, so a database's is made before SQLite opens it.
    """
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    file.chmod(0o600)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Write to a SQLite database (`isolation_level=None`): when the block ends well all of it is kept, otherwise none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path`: temporary file in the same folder, fsync, rename. Parent folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode() if isinstance(data, str) else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends well it takes the place of `folder`.

    An existing `folder` is moved aside first and removed only after the new one stands.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    aside = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        temporary.chmod(0o755)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(temporary, folder)
        sync(folder.parent)
    except BaseException:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(folder: str | Path) -> None:
    """Put right what a `replace_folder` that was killed left: an old folder moved aside returns, unfinished ones go."""
    folder = Path(folder)
    left = sorted(folder.parent.glob(f".{folder.name}.*"))
    for aside in left:
        if aside.suffix == ".old" and not folder.exists():
            os.replace(aside, folder)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
