"""Rich text (.rtf) -> blocks, by striprtf. Footnotes, comments, headers and footers, which it drops, are put after the text."""

from __future__ import annotations

import re
from pathlib import Path

from striprtf.striprtf import rtf_to_text

from distilledprag.documents.passages import Outline, ReadDocument, clean, not_read
from distilledprag.documents.readers.tables import Cell, add_table, looks_like_head
from distilledprag.documents.readers.text import add_text
from distilledprag.errors import DocumentError

_APART = re.compile(r"\{\\(?:\*\\)?(footnote|annotation|header[lrf]?|footer[lrf]?)(?![a-z])")
_HIDDEN = re.compile(r"\{[^{}]*\\(?:v|deleted)(?![a-z0-9])[^{}]*\}")
_TOKEN = re.compile(r"\\[\\{}]|[{}]")
_NAMES = {"f": "Footnote", "a": "Comment", "h": "Page header"}


def read_rtf(file: Path) -> ReadDocument:
    """Paragraphs and the rows of tables. Raises DocumentError for what is no RTF."""
    data = file.read_bytes()
    if not data.lstrip().startswith(b"{\\rtf"):
        raise DocumentError(f"{file} is no rich text, in spite of its name; save it again as .rtf")
    page = re.search(rb"\\ansicpg(\d{3,5})", data)
    codec = f"cp{page[1].decode()}" if page else "cp1252"
    try:
        source = data.decode(codec, "replace")
    except LookupError:
        codec = "cp1252"
        source = data.decode(codec, "replace")
    source, apart = _without_parts(_HIDDEN.sub("{}", source))
    outline = Outline()
    rows: list[list[str]] = []
    plain: list[str] = []

    def end_text() -> None:
        add_text(outline, "\n\n".join(plain))
        plain.clear()

    def end_table() -> None:
        head = int(len(rows) > 1 and looks_like_head(rows[0]))
        add_table(outline, [[Cell(text) for text in row] for row in rows], head)
        rows.clear()

    for line in rtf_to_text(source, encoding=codec, errors="replace").split("\n"):
        if line.endswith("|") and line.count("|") > 1:
            end_text()
            rows.append([clean(text) for text in line[:-1].split("|")])
        else:
            if line.strip() and rows:
                end_table()
            plain.append(line)
    end_table()
    end_text()
    for name, group in apart:
        text = rtf_to_text(group, encoding=codec, errors="replace")
        if text.strip():
            outline.add(f"{name}: {clean(text)}")
    pictures = source.count("{\\pict") + source.count("\\shppict")
    notes = [not_read(pictures, "picture")] if pictures else []
    return ReadDocument(tuple(outline.finish()), tuple(notes))


def _without_parts(source: str) -> tuple[str, list[tuple[str, str]]]:
    """The text without footnotes and the like, and those as (name, RTF of their own)."""
    kept: list[str] = []
    apart: list[tuple[str, str]] = []
    place = 0
    while found := _APART.search(source, place):
        end = _group_end(source, found.start())
        kept.append(source[place : found.start()] + "{}")  # which also ends a control word before it
        name = "Page footer" if found[1].startswith("footer") else _NAMES[found[1][0]]
        inner = source[found.end() : end - 1]
        apart.append((name, "{\\rtf1 " + inner + "}"))
        place = end
    return "".join([*kept, source[place:]]), apart


def _group_end(source: str, begin: int) -> int:
    """The place after the bracket that closes the one at `begin`."""
    depth = 0
    for token in _TOKEN.finditer(source, begin):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(source)
