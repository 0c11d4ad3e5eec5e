"""A JSON-lines file that survives a kill at any byte: the one resumable log of synthesis, evaluation and training.

    with Journal(path, identity={"recipe": recipe, "seed": 0}, other_run="restart") as journal:
        done = {record["key"] for record in journal}          # what earlier runs finished; empty for a new file
        for key in keys:
            if key not in done:
                journal.append({"key": key, "text": answer(key)})   # on the disk when this returns

    for record in read_journal(path): ...                     # read only, while a run may be writing

The file's first line is `{"identity": ...}`: everything that the records depend on. A file with another identity belongs to
another run and is refused (`other_run="refuse"`) or emptied (`"restart"`). With `identity=None` there is no such line, for a
log whose every line is a record (a training run's `log.jsonl`). Each further line is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from distilledprag.errors import ConfigError, InputError
from distilledprag.files import sync

Record = dict[str, Any]


class Journal:
    """An append-only file of records, opened by one process at a time. Use it as a context manager.

    path: made with its parent folders if it is missing.
    identity: what the records depend on, compared as JSON (other objects as their `str`); None: no identity line.
    other_run: what to do with a file of another identity: `refuse` it, or `restart` with an empty one.

    A last line without a line end (its writer was killed) is dropped. Raises ConfigError for a file of another run and while
    another process has the file open, InputError for a damaged line and for a file that is not a journal.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any] | None = None, other_run: Literal["refuse", "restart"] = "refuse"
    ) -> None:
        self.path = Path(path)
        self.identity: Any = None if identity is None else json.loads(json.dumps(identity, default=str))
        self.other_run = other_run
        self._file: FileIO | None = None
        self._end = 0  # bytes of whole lines
        self._count = 0

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        try:
            _lock(self._file, self.path)
            self._take_up(self._file)
            sync(self.path.parent)  # the file's name survives a power cut too
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        """The number of records."""
        return self._count

    def __iter__(self) -> Iterator[Record]:
        """Every record in the order of writing, read from the file (nothing is held in memory)."""
        for _, record in _lines(self.path, has_identity=self.identity is not None):
            yield record

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records, in one go; when this returns they are on the disk. If the disk is full, none of them is kept."""
        assert self._file is not None, "the journal is not open"
        data = b"".join(map(_line, records))
        try:
            self._write(data)
        except BaseException:
            self._file.truncate(self._end)
            raise
        self._end += len(data)
        self._count += len(records)

    def drop_from(self, unwanted: Callable[[Record], bool]) -> None:
        """Remove the first record that is `unwanted` and all after it (a log that goes on from an earlier checkpoint)."""
        assert self._file is not None, "the journal is not open"
        for count, (start, record) in enumerate(_lines(self.path, has_identity=self.identity is not None)):
            if unwanted(record):
                self._end, self._count = start, count
                self._file.truncate(start)
                os.fsync(self._file.fileno())
                return

    def _take_up(self, file: FileIO) -> None:
        """Go on from what the file holds: drop a half-written line, compare the identity, check and count the records."""
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        self._end = _whole_lines(file, size)
        if self._end < size:
            file.truncate(self._end)
        if self._end and self.identity is not None and (found := _identity(self.path)) != self.identity:
            if found is None:
                raise InputError(f"{self.path} is not a journal (its first line names no run); choose another file")
            if self.other_run == "refuse":
                raise ConfigError(f"{self.path} belongs to a run with other settings or data; choose another output")
            file.truncate(0)
            self._end = 0
        if not self._end and self.identity is not None:
            data = _line({"identity": self.identity})
            self._write(data)
            self._end = len(data)
        self._count = sum(1 for _ in self)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())


def read_journal(path: str | Path) -> Iterator[Record]:
    """The records of a journal in the order of writing, with or without an identity line, changing nothing.

    A last line without a line end is skipped: its writer was killed, or is writing it now. Raises InputError for any other
    line that is not a record.
    """
    path = Path(path)
    for _, record in _lines(path, has_identity=_identity(path) is not None):
        yield record


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, as an LLM may write it, has no UTF-8
        return json.dumps(record).encode() + b"\n"


def _lines(path: Path, has_identity: bool) -> Iterator[tuple[int, Record]]:
    """Byte offset and content of every record."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            if number > 1 or not has_identity:
                yield start, _record(line, path, number)
            start += len(line)


def _record(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}, line {number} is damaged ({error}); delete that line (what it recorded is done again), or choose another "
            "file"
        ) from error
    return record


def _identity(path: Path) -> Any:
    """What the first line says that the journal belongs to; None if it says nothing."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return first["identity"] if isinstance(first, dict) and set(first) == {"identity"} else None


def _whole_lines(file: FileIO, size: int) -> int:
    """Bytes up to and with the last line end."""
    block = 1 << 16
    for end in range(size, 0, -block):
        start = max(0, end - block)
        file.seek(start)
        if (place := file.read(end - start).rfind(b"\n")) >= 0:
            return start + place + 1
    return 0


def _lock(file: FileIO, path: Path) -> None:
    """Keep other runs out until the file is closed (or its process ends, however it ends)."""
    with contextlib.suppress(ImportError):  # no fcntl on Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another run is writing {path}; wait for it or stop it, or choose another output") from error
