"""Formats that are plain text: text with its few kinds of headings, comma-, semicolon- and tab-separated values, records in JSON.

A row of values becomes a block in which each has its column's name. Of JSON: one object per line (.jsonl) or a list of objects
(.json), each `{text | contents | passage, title?}`.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distilledprag.documents.passages import Block, Outline, ReadDocument, clean
from distilledprag.documents.readers.tables import Cell, add_table
from distilledprag.encodings import decode
from distilledprag.errors import DocumentError
from distilledprag.json_lines import json_of

_UNDERLINE = re.compile(r"[=\-~_*#]{3,}")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*$")
WIDEST_WRAP = 200  # characters; nobody wraps lines wider than this, so longer lines are whole paragraphs
RECORD_WORDS = 15  # words; lines that are records have at least this many on average


def read_text(file: Path) -> ReadDocument:
    """Paragraphs separated by blank lines (or lines of dashes), under headings that are underlined or all capitals."""
    text, notes = decode(file.read_bytes(), str(file))
    outline = Outline()
    add_text(outline, text)
    return ReadDocument(tuple(outline.finish()), notes)


def add_text(outline: Outline, text: str) -> None:
    """Add plain text to an outline, as `read_text` reads it."""
    for lines in _groups(text):
        if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1]) and not _UNDERLINE.fullmatch(lines[0]):
            outline.heading(lines[0], 1)
            lines = lines[2:]
        elif len(lines) == 1 and _is_shouted(lines[0]):
            outline.heading(lines[0].rstrip(" :"), 2)
            continue
        lines = [line for line in lines if not _UNDERLINE.fullmatch(line)]
        if _each_line_is_a_paragraph(lines):
            for line in lines:
                outline.add(line)
        else:
            outline.add(" ".join(lines))


def _groups(text: str) -> list[list[str]]:
    """Runs of lines between blank lines (a form feed counts as one); a rule that underlines nothing is a blank line."""
    groups: list[list[str]] = [[]]
    for line in text.replace("\f", "\n\n").splitlines():
        line = line.strip()
        if line and not (_UNDERLINE.fullmatch(line) and len(groups[-1]) != 1):
            groups[-1].append(line)
        else:
            groups.append([])
    return [lines for lines in groups if lines]


def _is_shouted(line: str) -> bool:
    letters = sum(character.isalpha() for character in line)
    return letters >= 4 and line.isupper() and len(line.split()) <= 10 and not line.endswith((".", "!", "?", ",", ";"))


def _each_line_is_a_paragraph(lines: Sequence[str]) -> bool:
    """Whether line breaks separate records instead of wrapping one paragraph.

    They do in lines wider than anybody wraps; and when every line is a long whole sentence and one of them breaks where the
    next word would still have fitted, which a wrapping editor never does.
    """
    width = max(map(len, lines), default=0)
    if width > WIDEST_WRAP:
        return True
    if not all(map(_SENTENCE_END.search, lines)) or sum(len(line.split()) for line in lines) < RECORD_WORDS * len(lines):
        return False
    pairs = itertools.pairwise(lines)
    return any(len(line) + 1 + len(following.split(maxsplit=1)[0]) <= width for line, following in pairs)


TEXT_KEYS = ("text", "contents", "passage")


def read_jsonl(file: Path) -> ReadDocument:
    """One record per line; blank lines are skipped. Raises InputError naming the line."""
    text, notes = decode(file.read_bytes(), str(file))
    blocks: list[Block] = []
    # Only "\n" ends a line here: JSON strings may hold the other characters at which str.splitlines() cuts.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{file}, line {number}"
            blocks.append(_block(json_of(line, place), place))
    return ReadDocument(tuple(blocks), notes)


def read_json(file: Path) -> ReadDocument:
    """A list of records. Raises DocumentError naming the entry."""
    text, notes = decode(file.read_bytes(), str(file))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{file} is not JSON ({error}); correct it, or name it .jsonl if each line is an object") from error
    if not isinstance(rows, list):
        raise DocumentError(f'{file} holds no list; write a list of objects like {{"title": ..., "text": ...}}')
    return ReadDocument(tuple(_block(row, f"{file}, entry {number}") for number, row in enumerate(rows, start=1)), notes)


def title_and_text(row: object, place: str) -> tuple[str, str]:
    """Title and text of a record, cleaned; either may be empty. Raises DocumentError naming `place` for what is not a record."""
    if not isinstance(row, dict):
        raise DocumentError(f'{place} is not an object; write {{"text": ...}}')
    text = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)
    if text is None:
        raise DocumentError(f"{place} has no text; give it one of the keys {', '.join(TEXT_KEYS)} with a string")
    title = row.get("title")
    return clean(title) if isinstance(title, str) else "", clean(text)


def _block(row: object, place: str) -> Block:
    title, text = title_and_text(row, place)
    if not text:
        raise DocumentError(f"{place} has an empty text; fill it or remove it")
    return Block(text, title)


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
