"""Bytes, text or a file -> a document ready to be stored: its passages and the hash that tells whether it changed.

Knows nothing of the database.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distilledprag.documents import Passage, load_file
from distilledprag.errors import InputError
from distilledprag.gateway.failures import storage_error

PASSAGE_WORDS = 80  # longest passage
LONGEST_NAME = 255  # characters
READING = "reading-"  # begin of the names of folders in which uploads lie while they are read
_AS_TEXT = (".md", ".markdown", ".html", ".htm")


@dataclass(frozen=True)
class PreparedDocument:
    """hash: of the content and how it is cut; size: bytes of the content; source: absolute path of an indexed file."""

    name: str
    passages: list[Passage]
    hash: str
    size: int
    source: str | None = None


def content_hash(data: bytes) -> str:
    """SHA-256 (hex) of a document's bytes and of the setting that its passages depend on."""
    return hashlib.sha256(f"{PASSAGE_WORDS} words\0".encode() + data).hexdigest()


def prepare_file(file: Path) -> PreparedDocument:
    """A file on this machine. Raises InputError as `load_file` does."""
    source = file.resolve()
    return PreparedDocument(
        checked_name(file.name), load_file(file, PASSAGE_WORDS), content_hash(file.read_bytes()), file.stat().st_size, str(source)
    )


def prepare_bytes(name: str, data: bytes, folder: Path) -> PreparedDocument:
    """An uploaded file. `folder`: where it may lie while it is read (private; readers need a file).

    Raises InputError for content that cannot be read and for a name that is empty or too long, DiskFullError.
    """
    name = checked_name(name)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=READING) as temporary:
            file = Path(temporary) / f"document{PurePosixPath(name).suffix.lower()}"
            file.touch(mode=0o600)
            file.write_bytes(data)
            try:
                passages = load_file(file, PASSAGE_WORDS)
            except InputError as error:
                raise InputError(str(error).replace(str(file), name)) from None
    except OSError as error:
        raise storage_error(folder, error) from error
    return PreparedDocument(name, passages, content_hash(data), len(data))


def prepare_text(name: str, text: str, folder: Path) -> PreparedDocument:
    """Text that has a name: Markdown or HTML if the name ends so, else plain text."""
    name = checked_name(name)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} holds half a character (a lone surrogate); send whole Unicode text") from None
    if not text.strip():
        raise InputError(f"{name} is empty; give it text")
    readable = name if PurePosixPath(name).suffix.lower() in _AS_TEXT else "document.txt"
    try:
        prepared = prepare_bytes(readable, data, folder)
    except InputError as error:
        raise InputError(str(error).replace(readable, name)) from None
    return PreparedDocument(name, prepared.passages, prepared.hash, prepared.size)


def checked_name(name: str) -> str:
    """The name without folders and control characters. Raises InputError when nothing is left, or too much."""
    plain = "".join(character for character in name.replace("\\", "/").rpartition("/")[2] if character.isprintable()).strip()
    if not plain:
        raise InputError("the document has no name; give it one, such as notes.txt")
    if len(plain) > LONGEST_NAME:
        raise InputError(f"the document's name has {len(plain)} characters; use at most {LONGEST_NAME}")
    return plain
