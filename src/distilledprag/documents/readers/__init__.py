"""One reader per file format: a file -> blocks of text under their headings, and notes on what could not be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from distilledprag.documents.passages import ReadDocument
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.errors import DocumentError, InputError

# Suffix -> module in this folder and function(file) -> ReadDocument. A module is imported when a file needs it.
READERS = {
    ".txt": ("text", "read_text"),
    ".text": ("text", "read_text"),
    ".md": ("html", "read_markdown"),
    ".markdown": ("html", "read_markdown"),
    ".html": ("html", "read_html"),
    ".htm": ("html", "read_html"),
    ".pdf": ("pdf", "read_pdf"),
    ".docx": ("word", "read_docx"),
    ".docm": ("word", "read_docx"),
    ".odt": ("opendocument", "read_odt"),
    ".rtf": ("rtf", "read_rtf"),
    ".pptx": ("slides", "read_slides"),
    ".pptm": ("slides", "read_slides"),
    ".xlsx": ("spreadsheet", "read_workbook"),
    ".xlsm": ("spreadsheet", "read_workbook"),
    ".csv": ("text", "read_delimited"),
    ".tsv": ("text", "read_delimited"),
    ".epub": ("epub", "read_epub"),
    ".eml": ("mail", "read_eml"),
    ".msg": ("mail", "read_msg"),
    ".jsonl": ("text", "read_jsonl"),
    ".json": ("text", "read_json"),
}
PICTURES = {suffix: ("ocr", "read_picture") for suffix in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")}
# May hold pictures of text: these readers are given an Ocr.
SCANS = frozenset({*PICTURES, ".pdf", ".docx", ".docm", ".odt", ".pptx", ".pptm", ".epub", ".eml", ".msg"})
# Of the loader, where a library finds no room in the memory that is allowed.
_NO_ROOM = ("failed to map segment", "Cannot allocate memory")
VERSION = 5  # raised when readers give other passages for the same file, so that indexes read it anew


def readable(pictures: bool) -> dict[str, tuple[str, str]]:
    """The readers of all types that are read: of pictures only where there is OCR."""
    return {**READERS, **PICTURES} if pictures else READERS


def read(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """The file's text, by the reader of its suffix. ocr: reads what is a picture of text.

    Raises DocumentError, naming the file and what to do: an unsupported type, a damaged, locked or binary file, or a reader
    whose library is not installed. No other exception escapes, except OSError when the file cannot be opened and MemoryError.
    """
    suffix = file.suffix.lower()
    named = READERS.get(suffix) or PICTURES.get(suffix)
    if named is None:
        raise DocumentError(
            f"{file}: files of type {file.suffix or '(none)'} are not supported; use {', '.join(readable(ocr is not None))}"
        )
    module, function = named
    try:
        reader: Callable[..., ReadDocument] = getattr(
            importlib.import_module(f"distilledprag.documents.readers.{module}"), function
        )
        return reader(file, ocr) if suffix in SCANS else reader(file)
    except (DocumentError, OSError, MemoryError):
        raise
    except InputError as error:
        raise DocumentError(str(error)) from error
    except ModuleNotFoundError as error:
        raise DocumentError(f"reading {file} needs {error.name}: pip install 'distilledprag[documents]'") from error
    except ImportError as error:
        if any(said in str(error) for said in _NO_ROOM):
            raise MemoryError from error
        raise DocumentError(f"{file} cannot be read: its library does not load ({error}); install it again") from error
    except Exception as error:  # a damaged or hostile file can break its library anywhere
        reason = str(error) or type(error).__name__
        raise DocumentError(f"{file} cannot be read ({reason}); it may be damaged, save or download it again") from error
