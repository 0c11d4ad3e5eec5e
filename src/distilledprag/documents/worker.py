"""The process that reads files: no file that is damaged or made to do harm costs more than its limits, or anybody else anything.

    stdin:  {"file", "longest", "scratch", "limits", "ocr"}, one JSON object a line
    stdout: {"passages": [[text, title], ...]}, any number of lines, then {"notes", "last"} or {"error", "last"}

`last`: this process ends now and another one has to be started. It ends by itself when stdin is closed, that is when the process
that asked ends, however it ends; the folder `scratch` is removed then, and the program that reads scans ends too. Answers are
JSON, so that a reader that was taken over by its file cannot run anything in the process that asked.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from distilledprag.documents.limits import MIB, Limits, check, remedy
from distilledprag.documents.loading import LoadedDocument, load_document
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.errors import DistilledPRAGError, DocumentError

NICE = 5  # reading gives way to answering
PASSAGES_A_LINE = 256
FRAMES_A_LEVEL = 4  # at most so many calls of a reader are under way for each level of a document
FRAMES = 200  # beside them
RETIRE = 4  # a process that still holds this part of the memory limit after a file ends with it


def main() -> None:
    """Answer requests until stdin is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not become an answer
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not leave a copy of a document
    own = _memory(0)
    watch = _Watch()
    for line in sys.stdin:
        request = json.loads(line)
        watch.begin(request["scratch"])
        tempfile.tempdir = request["scratch"]
        last = False
        try:
            limits = Limits(**request["limits"])
            _apply(limits, own)
            # Half the time, so that no picture costs its document the text around it.
            bounds = (limits.ocr, limits.pictures, limits.seconds / 2, limits.cpu / 2)
            ocr = Ocr(request["ocr"], *bounds) if request["ocr"] else None
            loaded = read(Path(request["file"]), request["longest"], limits, ocr)
            end: dict[str, Any] = {"notes": loaded.notes}
            for begin in range(0, len(loaded.passages), PASSAGES_A_LINE):
                some = loaded.passages[begin : begin + PASSAGES_A_LINE]
                answers.write(json.dumps({"passages": [[passage.text, passage.title] for passage in some]}) + "\n")
        except DistilledPRAGError as error:
            end = {"error": str(error)}
        except MemoryError:
            end, last = {"error": f"{request['file']} needs more memory to be read than it may have; {remedy('memory')}"}, True
        last = last or _memory(1) > limits.memory * MIB / RETIRE
        watch.end()
        answers.write(json.dumps({**end, "last": last}) + "\n")
        if last:
            return


def read(file: Path, longest: int, limits: Limits, ocr: Ocr | None = None) -> LoadedDocument:
    """The file's passages. Raises DocumentError, MemoryError, and nothing else."""
    try:
        check(file, limits)
        loaded = load_document(file, longest, ocr)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
            message = f"{file} nests its parts too deeply; save a simpler copy, or raise the limit `nesting`"
            raise DocumentError(message) from None
        if isinstance(error, DistilledPRAGError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise DocumentError(f"{file} cannot be read ({reason}); it may be damaged, save or download it again") from error
    size = sum(len(passage.text) for passage in loaded.passages)
    if size > limits.text * 1e6:
        raise DocumentError(f"{file} holds {size / 1e6:,.1f} million characters, more than {limits.text:g}; {remedy('text')}")
    return loaded


def _apply(limits: Limits, own: int) -> None:
    """Set the operating system's bounds for the file that is read next. own: bytes of memory that this process began with."""
    sys.setrecursionlimit(FRAMES + FRAMES_A_LEVEL * limits.nesting)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + limits.cpu)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    if own:
        resource.setrlimit(resource.RLIMIT_AS, (own + limits.memory * MIB, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _memory(kind: int) -> int:
    """Bytes of address space (0) or of memory (1) that this process has now; 0 where the system does not tell (macOS)."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[kind]) * resource.getpagesize()


class _Watch:
    """Ends this process, also in the middle of a file, when stdin is closed at its other end; removes the file's folder first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alone = self._reads = False
        self._scratch: str | None = None
        threading.Thread(target=self._wait, daemon=True).start()

    def begin(self, scratch: str | None) -> None:
        """A file is read from now on. The other end may have been closed since it asked for that."""
        with self._lock:
            self._reads, self._scratch = True, scratch
            self._end_if_alone()

    def end(self) -> None:
        with self._lock:
            self._reads = False

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(0, 0)
        poll.poll()
        with self._lock:
            self._alone = True
            self._end_if_alone()

    def _end_if_alone(self) -> None:
        if self._alone and self._reads:  # otherwise there may be a request left, and then the end of stdin
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)  # what it started too
            os._exit(1)


if __name__ == "__main__":
    main()
