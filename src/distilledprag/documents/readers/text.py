"""Plain text: decoding, paragraphs, and the few kinds of headings that plain text can show."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from distilledprag.documents.passages import Block, Outline
from distilledprag.errors import InputError

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SIGNATURES = {
    b"%PDF-": "a PDF file",
    b"PK\x03\x04": "a Word or ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Word or Office file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_UNDERLINE = re.compile(r"[=\-~_*#]{3,}")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*$")
WIDEST_WRAP = 200  # characters; nobody wraps lines wider than this, so longer lines are whole paragraphs
RECORD_WORDS = 15  # words; lines that are records have at least this many on average


def decode(file: Path, declared: str | None = None) -> str:
    """The text of `file`: by its byte order mark, else as the `declared` encoding, else UTF-8.

    Raises InputError for a binary file and for text in another encoding.
    """
    data = file.read_bytes()
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            raise InputError(f"{file} is {kind} in spite of its name; rename it to its true type, or convert it to text")
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        raise InputError(f"{file} is a binary file; give a text, Markdown, HTML, PDF, Word or JSONL file")
    encoding = encoding or declared or "utf-8"
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{file} is not {encoding.upper()} text{place}; save it again as UTF-8") from error
    if len(_CONTROL.findall(text)) > 0.01 * len(text):
        raise InputError(f"{file} is a binary file; give a text, Markdown, HTML, PDF, Word or JSONL file")
    return text


def read_text(file: Path) -> list[Block]:
    """Paragraphs separated by blank lines (or lines of dashes), under headings that are underlined or all capitals."""
    outline = Outline()
    for lines in _groups(decode(file)):
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
    return outline.finish()


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
