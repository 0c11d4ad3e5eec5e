"""What reading one file may cost, and the checks that are made before its reader sees it."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.errors import ConfigError, DocumentError

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds for one file.

    cpu: seconds of a processor; seconds: by the clock, which goes on while a busy machine has no processor free; memory: MiB that
    reading may take; unpacked: MiB of all parts of a ZIP-based file (.docx and its like) together; parts: files in it; pages: of
    a PDF; ocr: seconds of a processor for a page or picture that is read by OCR; pictures: within a document that are read so;
    nesting: levels of elements, tables or lists within each other; text: million characters of text.
    """

    cpu: float = 60.0
    seconds: float = 300.0
    memory: int = 1024
    unpacked: int = 512
    parts: int = 10_000
    pages: int = 5_000
    ocr: float = 60.0
    pictures: int = 200
    nesting: int = 300
    text: float = 10.0

    @classmethod
    def parse(cls, text: str | None) -> Limits:
        """`cpu=120,pages=9000` -> Limits; what is not named keeps its default. Raises ConfigError."""
        known = {name: type(default) for name, default in dataclasses.asdict(cls()).items()}
        values: dict[str, Any] = {}
        for part in filter(None, (text or "").replace(" ", "").split(",")):
            name, _, number = part.partition("=")
            if name not in known:
                raise ConfigError(f"there is no limit {name!r}; write NAME=NUMBER with one of {', '.join(known)}")
            try:
                values[name] = known[name](number)
            except ValueError:
                values[name] = 0
            if not 0 < values[name] < 1e9:
                raise ConfigError(f"the limit {name}={number} is not a usable number; give one above 0, such as {name}=100")
        return cls(**values)


def check(file: Path, limits: Limits) -> None:
    """Raise DocumentError for a file that says itself that it is above a limit. What is damaged passes: its reader says how."""
    if file.is_file():
        _check_archive(file, limits)
        if file.suffix.lower() == ".pdf":
            _check_pages(file, limits)


def _check_archive(file: Path, limits: Limits) -> None:
    """What a ZIP-based file would unpack to, by its directory. No reader gets more than that out of it."""
    with file.open("rb") as stream:
        if stream.read(2) != b"PK" or not zipfile.is_zipfile(stream):
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                parts = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
            return
    if len(parts) > limits.parts:
        raise DocumentError(f"{file} packs {len(parts):,} files, more than {limits.parts:,}; {remedy('parts')}")
    size = sum(part.file_size for part in parts)
    if size > limits.unpacked * MIB:
        raise DocumentError(f"{file} unpacks to {size / MIB:,.0f} MiB, more than {limits.unpacked:,}; {remedy('unpacked')}")


def _check_pages(file: Path, limits: Limits) -> None:
    try:
        from pypdfium2 import PdfDocument

        with PdfDocument(file) as document:
            pages = len(document)
    except MemoryError:
        raise
    except Exception:  # damaged, encrypted, or no reader is installed
        return
    if pages > limits.pages:
        raise DocumentError(f"{file} has {pages:,} pages, more than {limits.pages:,}; {remedy('pages')}")


def remedy(limit: str) -> str:
    """What a user can do about a file that is above a limit."""
    return f"split it, or raise the limit `{limit}`"
