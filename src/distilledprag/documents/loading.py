"""Files and folders -> passages: which reader a file needs, and which files a folder offers.

The readers' libraries, and why these: pypdf (pure Python, tells where text stands on the page, so that paragraphs can be
found), python-docx (gives the document's parts in order), beautifulsoup4 over lxml (lxml closes the tags that HTML lets authors
leave out; python-docx brings it anyway) and markdown-it-py (CommonMark and tables; its HTML goes through the HTML reader). They
are the extra `documents`, and are imported when a file needs them; plain text and JSON need none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from distilledprag.documents.passages import Passage, split_blocks
from distilledprag.documents.readers import READERS, SUPPORTED, read
from distilledprag.errors import InputError


def load_file(file: str | Path, longest: int = 80) -> list[Passage]:
    """The passages of one file: its paragraphs, cut at sentence ends into at most `longest` words.

    Raises InputError as `read` does, and for a missing file or one without text.
    """
    file = Path(file)
    if longest < 1:
        raise InputError(f"passages of {longest} words cannot be made; give a number of at least 1")
    if not file.exists():
        raise InputError(f"{file} {'is a link to nothing' if file.is_symlink() else 'does not exist'}; check the path")
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "neither a file nor a folder"
        raise InputError(f"{file} is {kind}; name a file")
    try:
        if not file.stat().st_size and file.suffix.lower() in READERS:
            raise InputError(f"{file} is empty; remove it or give it text")
        pieces = split_blocks(read(file).blocks, longest)
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
    Hidden files and folders and editors' lock files (`~$...`) are skipped silently.

    Raises InputError as `load_file` does, also for a file found in a folder (otherwise its text would be missing from the
    answers without notice), and for a folder without documents.
    """
    passages: list[Passage] = []
    seen: set[str] = set()
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not named:
        raise InputError(f"there are no documents; name files or folders with {SUPPORTED} files")
    for path in named:
        for file in documents_of(path, on_skipped) if path.is_dir() else [path]:
            place = os.path.realpath(file)  # unlike Path.resolve, it copes with links that lead in circles
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
