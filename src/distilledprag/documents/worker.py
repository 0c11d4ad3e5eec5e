"""The process that reads files: no file that is damaged or made to do harm costs more than its limits, or anybody else anything.

    stdin:  {"file", "longest", "scratch", "limits"}, one JSON object a line
    stdout: {"passages": [[text, title], ...]}, any number of lines, then {"notes", "last"} or {"error", "last"}

`last`: this process ends now and another one has to be started. It ends by itself when stdin is closed, that is when the process
that asked ends, however it ends; the folder `scratch` is removed then. Answers are JSON, so that a reader that was taken over by
its file cannot run anything in the process that asked.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from distilledprag.documents.limits import MIB, Limits, check, remedy
from distilledprag.documents.loading import LoadedDocument, load_document
from distilledprag.errors import DistilledPRAGError, DocumentError

NICE = 5  # reading gives way to answering
PASSAGES_A_LINE = 256
FRAMES_A_LEVEL = 4  # at most so many calls of a reader are under way for each level of a document
FRAMES = 200  # beside them
RETIRE = 4  # a process that once held this share of the memory limit ends after its answer


def main() -> None:
    """Answer requests until stdin is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not become an answer
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not leave a copy of a document
    own = _memory()
    scratch: list[Path] = []
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    for line in sys.stdin:
        request = json.loads(line)
        scratch[:] = [Path(request["scratch"])] if request["scratch"] else []
        tempfile.tempdir = request["scratch"]
        last = False
        try:
            limits = Limits(**request["limits"])
            _apply(limits, own)
            loaded = read(Path(request["file"]), request["longest"], limits)
            end: dict[str, Any] = {"notes": loaded.notes}
            for begin in range(0, len(loaded.passages), PASSAGES_A_LINE):
                some = loaded.passages[begin : begin + PASSAGES_A_LINE]
                answers.write(json.dumps({"passages": [[passage.text, passage.title] for passage in some]}) + "\n")
        except DistilledPRAGError as error:
            end = {"error": str(error)}
        except MemoryError:
            end, last = {"error": f"{request['file']} needs more memory to be read than it may have; {remedy('memory')}"}, True
        last = last or _peak() > limits.memory * MIB / RETIRE
        scratch.clear()
        answers.write(json.dumps({**end, "last": last}) + "\n")
        if last:
            return


def read(file: Path, longest: int, limits: Limits) -> LoadedDocument:
    """The file's passages. Raises DocumentError, MemoryError, and nothing else."""
    try:
        check(file, limits)
        loaded = load_document(file, longest)
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


def _memory() -> int:
    """Bytes of address space that this process has now; 0 where the system does not bound it (macOS)."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _end_with_parent(scratch: list[Path]) -> None:
    """Wait until stdin is closed at its other end, then remove what is left and end, also in the middle of a file."""
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()
    for folder in scratch:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
