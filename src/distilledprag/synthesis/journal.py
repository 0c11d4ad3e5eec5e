"""The journal: one line per answered request, synced before anything else happens. It is the unit of resume.

A run that was killed at any moment goes on from what the journal holds; pairs are made from it, so a changed check costs no
new request. A last line that was not written to its end is dropped. Knows nothing about documents or questions.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distilledprag.errors import ConfigError, InputError
from distilledprag.synthesis.llm import Reply

FIELDS = {"key", "purpose", "text", "prompt_tokens", "completion_tokens", "finish"}


class Journal:
    """Replies by request key. Use as a context manager; one process at a time may hold a journal.

    Raises InputError for a damaged line other than the last, ConfigError while another run holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._replies: dict[str, Reply] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            _lock(self._file, self.path)
            self._load(self._file)
            _sync_folder(self.path.parent)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __getitem__(self, key: str) -> Reply:
        return self._replies[key]

    def replies(self) -> Iterator[Reply]:
        """Every answered request's reply, in the order of answering."""
        yield from self._replies.values()

    def add(self, key: str, purpose: str, reply: Reply) -> None:
        """Write one reply; when this returns, it is on the disk."""
        assert self._file is not None, "the journal is not open"
        line = json.dumps({"key": key, "purpose": purpose, **vars(reply)}) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._replies[key] = reply

    def _load(self, file: IO[bytes]) -> None:
        file.seek(0)
        good = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            key, reply = self._entry(line, number)
            self._replies.setdefault(key, reply)
            good += len(line)
        file.truncate(good)

    def _entry(self, line: bytes, number: int) -> tuple[str, Reply]:
        try:
            entry: dict[str, Any] = json.loads(line)
            if set(entry) != FIELDS or not isinstance(entry["text"], str):
                raise ValueError("not an entry of a journal")
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.path}, line {number} is damaged ({error}); remove the line (its request will be sent again), or give "
                f"another --journal"
            ) from error
        return entry["key"], Reply(entry["text"], entry["prompt_tokens"], entry["completion_tokens"], entry["finish"])


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep other runs out until the file is closed (or its process ends, however it ends)."""
    with contextlib.suppress(ImportError):  # no fcntl on Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another run is writing {path}; wait for it or stop it, or give another --out") from error


def _sync_folder(folder: Path) -> None:
    """Make the journal's own name survive a power cut."""
    with contextlib.suppress(PermissionError):  # Windows does not open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
