"""One reader per file format: a file -> blocks of text under their headings, and notes on what could not be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from distilledprag.documents.readers.interface import ReadDocument
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
    ".csv": ("delimited", "read_delimited"),
    ".tsv": ("delimited", "read_delimited"),
    ".epub": ("epub", "read_epub"),
    ".eml": ("mail", "read_eml"),
    ".msg": ("mail", "read_msg"),
    ".jsonl": ("json_records", "read_jsonl"),
    ".json": ("json_records", "read_json"),
}
SUPPORTED = ", ".join(READERS)
VERSION = 2  # raised when readers give other passages for the same file, so that indexes read it anew


def read(file: Path) -> ReadDocument:
    """The file's text, by the reader of its suffix.

    Raises DocumentError, naming the file and what to do: an unsupported type, a damaged, locked or binary file, or a reader
    whose library is not installed. No other exception escapes, except OSError when the file cannot be opened and MemoryError.
    """
    named = READERS.get(file.suffix.lower())
    if named is None:
        raise DocumentError(f"{file}: files of type {file.suffix or '(none)'} are not supported; use {SUPPORTED}")
    module, function = named
    try:
        reader: Callable[[Path], ReadDocument] = getattr(
            importlib.import_module(f"distilledprag.documents.readers.{module}"), function
        )
        return reader(file)
    except (DocumentError, OSError, MemoryError):
        raise
    except InputError as error:
        raise DocumentError(str(error)) from error
    except ModuleNotFoundError as error:
        raise DocumentError(f"reading {file} needs {error.name}: pip install 'distilledprag[documents]'") from error
    except Exception as error:  # a damaged or hostile file can break its library anywhere
        reason = str(error) or type(error).__name__
        raise DocumentError(f"{file} cannot be read ({reason}); it may be damaged, save or download it again") from error
