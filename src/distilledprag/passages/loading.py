"""Files and folders -> passages of a size that a prompt can take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from distilledprag.errors import InputError
from distilledprag.passages.readers import READERS, readable_files
from distilledprag.passages.record import Passage

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[A-Z0-9])")


def split_words(text: str, longest: int) -> list[str]:
    """Split `text` into pieces of at most `longest` words, at sentence ends where possible."""
    pieces: list[list[str]] = [[]]
    for sentence in SENTENCE_END.split(text):
        words = sentence.split()
        if pieces[-1] and len(pieces[-1]) + len(words) > longest:
            pieces.append([])
        while len(words) > longest:
            pieces[-1], words = words[:longest], words[longest:]
            pieces.append([])
        pieces[-1] += words
    return [" ".join(words) for words in pieces if words]


def load_file(file: str | Path, longest: int = 80) -> list[Passage]:
    """The passages of one file: its paragraphs, cut at sentence ends into at most `longest` words.

    Raises InputError (missing, empty, binary, damaged or unsupported file), naming the file and what to do.
    """
    file = Path(file)
    if not file.exists():
        raise InputError(f"{file} does not exist; check the path")
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{file}: files of type {file.suffix or '(none)'} are not supported; use {', '.join(READERS)}")
    if not file.stat().st_size:
        raise InputError(f"{file} is empty; remove it or give it text")
    passages = [(title, piece) for title, paragraph in reader(file) for piece in split_words(paragraph, longest) if piece.strip()]
    if not passages:
        raise InputError(f"{file} has no text; remove it or give it text")
    return [Passage(piece, str(file), title, index) for index, (title, piece) in enumerate(passages)]


def load_passages(paths: Iterable[str | Path], longest: int = 80, on_file: Callable[[Path], None] | None = None) -> list[Passage]:
    """The passages of files and folders (recursively, alphabetically). on_file: called after each file.

    A named file that cannot be read is an error; so is one inside a folder, but unknown formats there are passed over.
    Raises InputError when a folder holds no readable document.
    """
    passages: list[Passage] = []
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = list(readable_files(path))
            if not files:
                raise InputError(f"{path} holds no readable documents; put {', '.join(READERS)} files there")
        for file in files:
            passages += load_file(file, longest)
            if on_file:
                on_file(file)
    return passages
