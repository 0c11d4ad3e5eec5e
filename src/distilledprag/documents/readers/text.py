"""Plain text: paragraphs, and the few kinds of headings that plain text can show."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from distilledprag.documents.passages import Outline
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.encodings import decode

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
