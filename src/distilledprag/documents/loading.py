"""Files and folders -> passages of a size that a prompt can take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from distilledprag.documents.readers import READERS
from distilledprag.documents.record import Passage
from distilledprag.documents.splitting import split_blocks
from distilledprag.errors import InputError

SUPPORTED = ", ".join(READERS)


def load_file(file: str | Path, longest: int = 80) -> list[Passage]:
    """The passages of one file: its paragraphs, cut at sentence ends into at most `longest` words.

    Raises InputError (missing, empty, binary, damaged, locked or unsupported file), naming the file and what to do.
    """
    file = Path(file)
    if longest < 1:
        raise InputError(f"passages of {longest} words cannot be made; give a number of at least 1")
    if not file.exists():
        raise InputError(f"{file} {'is a link to nothing' if file.is_symlink() else 'does not exist'}; check the path")
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "neither a file nor a folder"
        raise InputError(f"{file} is {kind}; name a file")
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{file}: files of type {file.suffix or '(none)'} are not supported; use {SUPPORTED}")
    try:
        if not file.stat().st_size:
            raise InputError(f"{file} is empty; remove it or give it text")
        pieces = split_blocks(reader(file), longest)
    except OSError as error:
        raise InputError(f"{file} cannot be opened ({error.strerror or error}); check its permissions") from error
    if not pieces:
        raise InputError(f"{file} has no text; remove it or give it text")
    return [Passage(text, str(file), title, index) for index, (title, text) in enumerate(pieces)]


def load_passages(
    paths: str | Path | Iterable[str | Path],
    longest: int = 80,
    on_file: Callable[[Path], None] | None = None,
    on_skipped: Callable[[Path], None] | None = None,
) -> list[Passage]:
    """The passages of files and folders (recursively, alphabetically), each file once.

    on_file: called after each file read; on_skipped: called for each file of an unsupported type found in a folder.
    Hidden files and folders and editors' lock files (`~$...`) are passed over silently.

    Raises InputError as `load_file` does, for a file named and for one of a supported type found in a folder alike (a
    document that cannot be read would be missing from the answers unnoticed); and for a folder without documents.
    """
    passages: list[Passage] = []
    seen: set[str] = set()
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not named:
        raise InputError(f"there are no documents; name files or folders with {SUPPORTED} files")
    for path in named:
        for file in documents_of(path, on_skipped) if path.is_dir() else [path]:
            place = os.path.realpath(file)  # unlike Path.resolve, bears links that lead in circles
            if place in seen:
                continue
            seen.add(place)
            passages += load_file(file, longest)
            if on_file:
                on_file(file)
    return passages


def documents_of(folder: Path, on_skipped: Callable[[Path], None] | None = None) -> list[Path]:
    """The folder's files of supported types, alphabetically. Raises InputError when there are none."""
    documents: list[Path] = []
    skipped: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "~$")) for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            (documents if path.suffix.lower() in READERS else skipped).append(path)
    if not documents:
        others = f" (only {len(skipped)} of other types, such as {skipped[0].name})" if skipped else ""
        raise InputError(f"{folder} holds no readable documents{others}; put {SUPPORTED} files there")
    if on_skipped:
        for path in skipped:
            on_skipped(path)
    return documents
