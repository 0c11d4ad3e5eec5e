"""Rows of JSON-lines files of any size, plain or gzipped, read as a stream. Every error names the file and the line.

A byte order mark decides the encoding, otherwise it is UTF-8. What is neither is refused, not guessed: one wrong guess would go
unnoticed into all that is trained or written from the rows.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from distilledprag.errors import InputError

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(number of the line, what it holds) for every line that is not blank. Raises InputError."""
    for number, line in text_lines(file):
        if line.strip():
            row = json_of(line, f"{file}, line {number}")
            if not _is_whole(row):
                raise InputError(f"{file}, line {number} holds half a character (a lone surrogate); correct or remove the line")
            yield number, row


def json_of(line: str, place: str) -> Any:
    """What one line holds. Raises InputError naming `place` for what is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{place} is not JSON ({reason}); correct or remove the line") from error


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a text file. Raises InputError for what is no text, and when it cannot be opened."""
    number = 0
    try:
        with _opened(file) as stream:
            head = stream.peek(4)[:4]
            encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
            if encoding is None and head.startswith(codecs.BOM_UTF8):
                stream.read(3)
            # Bytes are split into lines before they are decoded where the encoding allows it, so that an error knows its line.
            lines = io.TextIOWrapper(stream, encoding=encoding, newline="") if encoding else stream
            for line in lines:
                number += 1
                yield number, line if isinstance(line, str) else line.decode()
    except UnicodeError as error:
        raise InputError(
            f"{file}, line {number} is not UTF-8 text, and the file has no byte order mark; save it again as UTF-8"
            if encoding is None
            else f"{file} is not {encoding.upper()} text, which its byte order mark announces; save it again as UTF-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file} is a damaged or cut gzip file; copy it again") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); check its path and permissions") from error


def _opened(file: Path) -> io.BufferedReader:
    if file.name.lower().endswith(".gz"):
        return cast(io.BufferedReader, gzip.open(file))  # it has the same methods
    return file.open("rb")


def _is_whole(row: Any) -> bool:
    """Whether no text in it holds a lone surrogate, which JSON can write and no tokenizer reads."""
    if isinstance(row, str):
        return row.isascii() or not any("\ud800" <= character <= "\udfff" for character in row)
    if isinstance(row, dict):
        return all(map(_is_whole, row)) and all(map(_is_whole, row.values()))
    return not isinstance(row, list) or all(map(_is_whole, row))
