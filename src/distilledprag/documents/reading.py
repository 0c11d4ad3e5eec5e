"""Files are read in processes of their own: a small pool of them, each ended when a file costs more than its limits.

    ReadingPool.read(file) --a line of JSON--> worker.py --lines of JSON--> LoadedDocument, or a DocumentError that names the file

A process is started when a file needs one, reads file after file, and is ended and replaced when it takes too long, crashes, has
grown large, or when nobody waits for its file any more. It imports no torch, so it starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from distilledprag.documents.limits import Limits, remedy
from distilledprag.documents.loading import LoadedDocument, printable
from distilledprag.documents.passages import Passage
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.errors import ConfigError, DistilledPRAGError, DocumentError

WORKERS = 2  # processes at a time
_LOOK = 0.05  # seconds between two looks whether a file is still wanted
_PIECE = 2**16  # bytes read at a time


class ReadingStoppedError(DistilledPRAGError):
    """Nobody waits for this file any more, or the pool is closed."""


class ReadingPool:
    """Up to `workers` reading processes; safe to share between threads, each of which waits for a free one."""

    def __init__(self, limits: Limits | None = None, workers: int = WORKERS, ocr: str | None = None) -> None:
        """ocr: language of the scans that are read by OCR; None: no scans are. Raises ConfigError where it cannot be."""
        self.limits, self.workers, self.ocr = limits or Limits(), workers, ocr
        if ocr is not None:
            Ocr(ocr).check()
        self._turn = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._closed = threading.Event()

    def read(
        self, file: Path, longest: int, *, scratch: Path | None = None, cancelled: threading.Event | None = None
    ) -> LoadedDocument:
        """The passages of one file, of at most `longest` words each, and notes on what could not be read.

        scratch: a folder that is removed also when this process is killed meanwhile; cancelled: set it to stop reading.
        Raises DocumentError, naming the file, and ReadingStoppedError.
        """
        stops = [self._closed, *([cancelled] if cancelled else [])]
        while not self._turn.acquire(timeout=_LOOK):
            _check(stops)
        try:
            _check(stops)
            with self._lock:
                worker = self._idle.pop() if self._idle else _Worker()
            if worker.has_ended:
                worker.stop()
                worker = _Worker()
            try:
                loaded = worker.read(file, longest, scratch, self.limits, self.ocr, stops)
            except DocumentError:
                self._keep(worker)
                raise
            except BaseException:
                worker.stop()
                raise
            self._keep(worker)
            return loaded
        finally:
            self._turn.release()

    def close(self) -> None:
        """End all processes; what is being read is given up."""
        self._closed.set()
        with self._lock:
            for worker in self._idle:
                worker.stop()
            self._idle.clear()

    def __enter__(self) -> ReadingPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _keep(self, worker: _Worker) -> None:
        with self._lock:
            if worker.is_usable and not self._closed.is_set():
                self._idle.append(worker)
            else:
                worker.stop()


class _Worker:
    """A reading process, and what of its answers has arrived."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # it must find what this process finds
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "distilledprag.documents.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for this process; and what it may start itself ends with it
        )
        self._arrived = b""
        self.is_usable = True

    def read(
        self,
        file: Path,
        longest: int,
        scratch: Path | None,
        limits: Limits,
        ocr: str | None,
        stops: list[threading.Event],
    ) -> LoadedDocument:
        """Raises DocumentError; when the process cannot go on it is ended, and no longer usable."""
        deadline = time.monotonic() + limits.seconds
        request = {"file": os.path.abspath(file), "longest": longest, "scratch": scratch and os.path.abspath(scratch), "ocr": ocr}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; the answer will say so
            self._process.stdin.write((json.dumps({**request, "limits": dataclasses.asdict(limits)}) + "\n").encode())
        texts: list[tuple[str, str]] = []
        while True:
            answer = self._answer(file, deadline, limits, stops)
            if "passages" in answer:
                texts += answer["passages"]
                continue
            if answer["last"]:
                self.stop()
            if "error" in answer:
                raise DocumentError(answer["error"].replace(request["file"], printable(file)))
            source = printable(file)
            passages = [Passage(text, source, title, index) for index, (text, title) in enumerate(texts)]
            return LoadedDocument(passages, tuple(answer["notes"]))

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself while it had nothing to do."""
        return self._wait(0)

    def _wait(self, seconds: float) -> bool:
        """Whether within `seconds` something arrives from the process, its end included."""
        assert self._process.stdout is not None
        poll = select.poll()  # unlike select.select it takes file descriptors of any size
        poll.register(self._process.stdout, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _answer(self, file: Path, deadline: float, limits: Limits, stops: list[threading.Event]) -> dict[str, Any]:
        """The next line of its answer."""
        assert self._process.stdout is not None
        pieces = [self._arrived]
        while b"\n" not in pieces[-1]:
            _check(stops)
            left = deadline - time.monotonic()
            if left <= 0:
                self.stop()
                raise DocumentError(f"{printable(file)} was not read within {limits.seconds:g} seconds; {remedy('seconds')}")
            if self._wait(min(left, _LOOK)):
                piece = self._process.stdout.read(_PIECE)
                if not piece:
                    raise self._ended(file, limits)
                pieces.append(piece)
        line, _, self._arrived = b"".join(pieces).partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _ended(self, file: Path, limits: Limits) -> DocumentError:
        """What to say of a file at which the process ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # why it ended is lost when it is killed meanwhile
        code = self.stop()
        if code == -signal.SIGXCPU:
            return DocumentError(
                f"{printable(file)} was not read within {limits.cpu:g} seconds of processor time; {remedy('cpu')}"
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return DocumentError(
            f"{printable(file)} made its reader crash ({how}); it is damaged or needs too much memory. Save or download it "
            "again, or raise the limit `memory`"
        )

    def stop(self) -> int:
        """End the process and all that it started; its exit code."""
        if self.is_usable:
            self.is_usable = False
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code


def _check(stops: list[threading.Event]) -> None:
    if any(stop.is_set() for stop in stops):
        raise ReadingStoppedError("reading was stopped")


@dataclass(frozen=True)
class Reading:
    """How files are read, as the options of commands say: --limits, --ocr, --ocr-language.

    limits: `NAME=NUMBER,...`; ocr: whether scans are read; language: of the scans, None for English.

    Raises ConfigError for limits that do not exist, for a language without OCR, and where OCR is not installed.
    """

    limits: str | None = None
    ocr: bool = False
    language: str | None = None

    def __post_init__(self) -> None:
        Limits.parse(self.limits)
        if self.language is not None and not self.ocr:
            raise ConfigError(f"--ocr-language {self.language} is for scans; add --ocr")
        if self.ocr:
            Ocr(self.ocr_language or "").check()

    @property
    def ocr_language(self) -> str | None:
        """None: no scans are read."""
        return (self.language or Ocr.language) if self.ocr else None

    def pool(self) -> ReadingPool:
        """The processes that read files so."""
        return ReadingPool(Limits.parse(self.limits), ocr=self.ocr_language)

    def arguments(self) -> list[str]:
        """These options for another command."""
        named = {"--limits": self.limits, "--ocr-language": self.language}
        return [*(["--ocr"] if self.ocr else []), *(part for name, value in named.items() if value for part in (name, value))]


USUAL = Reading()
