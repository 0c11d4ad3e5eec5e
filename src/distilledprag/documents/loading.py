"""Files and folders -> passages: which reader a file needs, and which files a folder offers.

Which libraries the readers use, and how they scored against others, is in docs/formats.md. They are the extra `documents`, and
are imported when a file needs them; plain text, JSON and delimited values need none unless an encoding has to be guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distilledprag.documents.passages import Passage, split_blocks
from distilledprag.documents.readers import SCANS, read, readable
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.errors import DocumentError, InputError

LONGEST = 80  # words of a passage, unless told otherwise


@dataclass(frozen=True)
class LoadedDocument:
    """A file's passages, and plain sentences on what could not be read of it."""

    passages: list[Passage]
    notes: tuple[str, ...] = ()


@dataclass
class Loaded:
    """Several files. notes and failed: sentences that name their file; failed: what could not be read at all."""

    passages: list[Passage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    files: int = 0


LoadFile = Callable[[Path, int], LoadedDocument]  # a file, the longest passage in words; raises DocumentError


def load_document(file: Path, longest: int = LONGEST, ocr: Ocr | None = None) -> LoadedDocument:
    """One file, read in this process: its paragraphs, cut at sentence ends into at most `longest` words. ocr: reads scans.

    `ReadingPool.read` does the same in a process of its own, within limits. Raises DocumentError as `read` does, and for a
    missing file or one without text; InputError for a `longest` below 1.
    """
    if longest < 1:
        raise InputError(f"passages of {longest} words cannot be made; give a number of at least 1")
    name = printable(file)
    try:
        if not file.exists():
            raise DocumentError(f"{name} {'is a link to nothing' if file.is_symlink() else 'does not exist'}; check the path")
        if not file.is_file():
            kind = "a folder" if file.is_dir() else "neither a file nor a folder"
            raise DocumentError(f"{name} is {kind}; name a file")
        if not file.stat().st_size and file.suffix.lower() in readable(ocr is not None):
            raise DocumentError(f"{name} is empty; remove it or give it text")
        found = read(file, ocr)
    except OSError as error:
        raise DocumentError(f"{name} cannot be opened ({error.strerror or error}); check its permissions") from error
    pieces = split_blocks(found.blocks, longest)
    if not pieces:
        why = f" ({'; '.join(found.notes)})" if found.notes else ""
        pictures = why and ocr is None and file.suffix.lower() in SCANS
        remedy = "read its pictures with --ocr, or give it text" if pictures else "remove it or give it text"
        raise DocumentError(f"{name} has no text{why}; {remedy}")
    return LoadedDocument([Passage(text, name, title, index) for index, (title, text) in enumerate(pieces)], found.notes)


def load_file(file: str | Path, longest: int = LONGEST) -> list[Passage]:
    """The passages of one file. Raises as `load_document` does."""
    return load_document(Path(file), longest).passages


def load_documents(
    paths: str | Path | Iterable[str | Path],
    longest: int = LONGEST,
    load: LoadFile = load_document,
    on_file: Callable[[Path], None] | None = None,
    *,
    pictures: bool = False,
) -> Loaded:
    """The passages of files and folders (recursively, alphabetically), each file once.

    load: how one file is read, such as `ReadingPool.read`; on_file: called after each file; pictures: they are documents too,
    since `load` reads them by OCR. A file that cannot be read is named in `failed`, and the others are read. Files of an
    unsupported type in folders are passed over, hidden ones and editors' lock files (`~$...`) too. Raises InputError for a path
    that does not exist and for a folder without documents.
    """
    loaded = Loaded()
    seen: set[str] = set()
    for path in _named(paths, pictures):
        for file in documents_of(path, pictures=pictures) if path.is_dir() else [path]:
            place = os.path.realpath(file)  # unlike Path.resolve, it copes with links that lead in circles
            if place in seen:
                continue
            seen.add(place)
            try:
                document = load(file, longest)
            except DocumentError as error:
                loaded.failed.append(str(error))
            else:
                loaded.passages += document.passages
                loaded.notes += named_notes(printable(file), document.notes)
            loaded.files += 1
            if on_file:
                on_file(file)
    return loaded


def load_passages(paths: str | Path | Iterable[str | Path], longest: int = LONGEST) -> list[Passage]:
    """The passages of files and folders, read in this process.

    Raises InputError as `load_documents` does, and also when a file cannot be read: otherwise its text would be missing from
    the answers without notice.
    """
    loaded = load_documents(paths, longest)
    if loaded.failed:
        raise DocumentError("; ".join(loaded.failed))
    return loaded.passages


def named_notes(name: str, notes: Iterable[str]) -> list[str]:
    """A reader's notes with the name of their document."""
    return [f"{name}: {note}" for note in notes]


def printable(path: Path) -> str:
    """The path as text that can be printed and stored: bytes that are no UTF-8 are written as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _named(paths: str | Path | Iterable[str | Path], pictures: bool) -> list[Path]:
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not named:
        raise InputError(f"there are no documents; name files or folders with {', '.join(readable(pictures))} files")
    for path in named:
        if not path.exists():
            raise InputError(
                f"{printable(path)} {'is a link to nothing' if path.is_symlink() else 'does not exist'}; check the path"
            )
    return named


def documents_of(folder: Path, on_skipped: Callable[[Path], None] | None = None, *, pictures: bool = False) -> list[Path]:
    """The folder's files of supported types, alphabetically; `pictures`: these too. Raises InputError when there are none."""
    types = readable(pictures)
    documents: list[Path] = []
    skipped: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "~$")) for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            (documents if path.suffix.lower() in types else skipped).append(path)
    if not documents:
        others = f" (only {len(skipped)} of other types, such as {skipped[0].name})" if skipped else ""
        raise InputError(f"{folder} holds no readable documents{others}; put {', '.join(types)} files there")
    if on_skipped:
        for path in skipped:
            on_skipped(path)
    return documents
