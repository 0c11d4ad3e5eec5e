"""Comma-, semicolon- and tab-separated values: a row becomes a block in which every value has its column's name."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from distilledprag.documents.passages import Outline
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.documents.readers.tables import Cell, add_table
from distilledprag.encodings import decode
from distilledprag.errors import DocumentError

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50
_LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own bound is 131,072
_FIGURES = re.compile(r"[\W_]*\d[\d\W_]*")


def read_delimited(file: Path) -> ReadDocument:
    """A .csv or .tsv file. Lines of one value above the table are paragraphs. Raises DocumentError naming the line."""
    text, notes = decode(file.read_bytes(), str(file))
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ""
    if told := re.match(r"sep=(.)\r?\n", text):  # as Excel writes it
        text, delimiter = text[told.end() :], told[1]
    delimiter = delimiter or _delimiter(text)
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        rows = [row for row in reader if any(value.strip() for value in row)]
    except csv.Error as error:
        raise DocumentError(f"{file}, line {reader.line_num} cannot be read ({error}); correct it") from error
    outline = Outline()
    while len(rows) > 1 and sum(bool(value.strip()) for value in rows[0]) == 1 < len(rows[1]):
        outline.add(" ".join(rows.pop(0)))
    add_table(outline, [[Cell(value) for value in row] for row in rows], int(_is_head(rows)))
    return ReadDocument(tuple(outline.finish()), notes)


def _delimiter(text: str) -> str:
    """The one that gives most lines the same number of values, more than one."""
    lines = [line for line in text.splitlines()[:_SAMPLE_LINES] if line.strip()]
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        lengths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter))
        alike = max((count * (length > 1) for length, count in lengths.items()), default=0)
        if alike > most:
            best, most = delimiter, alike
    return best


def _is_head(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: different names, none of them a figure or a date."""
    names = [value.strip() for value in rows[0]] if rows else []
    filled = [name for name in names if name]
    return len(rows) > 1 and len(set(filled)) == len(filled) >= 1 and not any(_FIGURES.fullmatch(name) for name in filled)
