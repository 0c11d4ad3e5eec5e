"""PDF -> blocks. A PDF only says where text stands on the page; paragraphs and headings are found from the layout.

Lengths are in points, y grows upwards. Scanned pages (images) have no text here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents.passages import Outline, clean
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.errors import DocumentError

_SENTENCE_END = re.compile(r"[.!?…:][\"'”’»)\]]*$")
_PAGE_NUMBER = re.compile(r"(?:page|p\.)?\s*[-–]?\s*\d{1,4}\s*[-–]?(?:\s*(?:/|of)\s*\d{1,4})?", re.IGNORECASE)
_BOLD = re.compile(r"bold|black|heavy|cmbx", re.IGNORECASE)
_LIST_MARK = re.compile(r"(?:[•▪◦‣·●○■–*-]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})
PARAGRAPH_GAP = 1.25  # a gap this many times the usual line distance separates paragraphs
HEADING_SIZE = 1.15  # letters this many times the body's size are a heading
HEADING_WORDS = 14


@dataclass(frozen=True)
class Line:
    """A line of text: left end x and baseline y (points), letter size (points)."""

    text: str
    x: float
    y: float
    size: float
    bold: bool


def read_pdf(file: Path) -> ReadDocument:
    """Paragraphs under their headings. Raises DocumentError for a damaged PDF, one with a password, and one without text."""
    pages = _pages(file)
    if not any(pages):
        raise DocumentError(f"{file} has no text, it may be a scan; run character recognition (OCR) on it first")
    outline = Outline()
    body_size, body_bold = _body_style(pages)
    for lines in _paragraphs(_without_running_lines(pages)):
        text = _join(lines)
        larger = min(line.size for line in lines) >= HEADING_SIZE * body_size
        bolder = not body_bold and all(line.bold for line in lines)
        if (larger or bolder) and len(text.split()) <= HEADING_WORDS and not text.endswith((".", ",", ";")):
            outline.heading(text, -round(10 * lines[0].size))
        elif mark := _LIST_MARK.match(text):
            outline.add(text[mark.end() :] if not mark.group()[0].isalnum() else text, "item")
        else:
            outline.add(text)
    return ReadDocument(tuple(outline.finish()))


def _pages(file: Path) -> list[list[Line]]:
    """The lines of every page. Raises DocumentError."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    locked = f"{file} needs a password; save a copy without one"
    try:
        with file.open("rb") as stream, _quiet("pypdf"):
            reader = PdfReader(stream)
            # Many PDFs restrict only printing or copying: they open with the empty password.
            if reader.is_encrypted and not reader.decrypt(""):
                raise DocumentError(locked)
            return [_lines(page) for page in reader.pages]
    except DocumentError:
        raise
    except FileNotDecryptedError as error:
        raise DocumentError(locked) from error
    except DependencyError as error:
        raise DocumentError(f"{file} is encrypted ({error}); install that, or save a copy without protection") from error
    except Exception as error:  # a damaged file can break the parser anywhere
        reason = str(error) or type(error).__name__
        raise DocumentError(f"{file} cannot be read as PDF ({reason}); it is damaged, save or download it again") from error


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's warnings about damaged files from the screen; what matters is raised as an error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _lines(page: Any) -> list[Line]:
    """The page's lines in the order of its text. pypdf gives pieces of text with the matrices that place them."""
    lines: list[Line] = []
    pieces: list[tuple[str, float, float, float, bool]] = []

    def end_line() -> None:
        visible = [piece for piece in pieces if piece[0].strip()]
        if visible:
            text = clean("".join(piece[0] for piece in pieces).translate(_LIGATURES))
            _, x, y, size, _ = visible[0]
            lines.append(Line(text, x, y, size, all(piece[4] for piece in visible)))
        pieces.clear()

    def visit(text: str, cm: Sequence[float], tm: Sequence[float], font: Any, size: float) -> None:
        x = tm[4] * cm[0] + tm[5] * cm[2] + cm[4]
        y = tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        scale = abs(tm[0] * cm[0] + tm[1] * cm[2]) or abs(tm[1] * cm[2] + tm[0] * cm[1])
        bold = bool(_BOLD.search(str((font or {}).get("/BaseFont", ""))))
        for number, part in enumerate(text.split("\n")):
            if number:
                end_line()
            if part:
                pieces.append((part, x, y, abs(size) * scale or 1.0, bold))

    page.extract_text(visitor_text=visit)
    end_line()
    return lines


def _body_style(pages: list[list[Line]]) -> tuple[float, bool]:
    """The letter size that most of the text has, and whether most of the text is bold."""
    sizes: Counter[float] = Counter()
    bold: Counter[bool] = Counter()
    for lines in pages:
        for line in lines:
            sizes[round(line.size, 1)] += len(line.text)
            bold[line.bold] += len(line.text)
    return sizes.most_common(1)[0][0], bold[True] > bold[False]


def _without_running_lines(pages: list[list[Line]]) -> list[list[Line]]:
    """Drop page numbers, and headers and footers: lines that begin or end at least three pages, and half of them, alike."""
    ends = Counter(text for lines in pages for text in {line.text for line in (lines[:1] + lines[-1:])})
    running = {text for text, count in ends.items() if count >= max(3, len(pages) / 2)}
    kept = []
    for lines in pages:
        for _ in range(2):  # a header or footer and the page number beside it
            for end in (0, -1):
                if len(lines) > 1 and (lines[end].text in running or _PAGE_NUMBER.fullmatch(lines[end].text)):
                    lines = lines[1:] if end == 0 else lines[:-1]
        kept.append(lines)
    return kept


def _paragraphs(pages: list[list[Line]]) -> Iterator[list[Line]]:
    """Groups of lines that make one paragraph (or heading); a paragraph may go on across a page break."""
    gaps = [a.y - b.y for lines in pages for a, b in itertools.pairwise(lines) if a.y - b.y > 0.5 * b.size]
    # Within paragraphs gaps are smallest; a low quantile finds them even where most paragraphs are short.
    usual = statistics.quantiles(gaps, n=4)[0] if len(gaps) > 1 else (gaps[0] if gaps else 0.0)
    width = max((len(line.text) for lines in pages for line in lines), default=0)
    current: list[Line] = []
    for lines in pages:
        for number, line in enumerate(lines):
            if current and _begins_paragraph(current[-1], line, usual, width, new_page=number == 0):
                yield current
                current = []
            current.append(line)
    if current:
        yield current


def _begins_paragraph(before: Line, line: Line, usual: float, width: int, new_page: bool) -> bool:
    """Whether `line` begins a paragraph. usual: line distance (points); width: the longest line's number of characters."""
    if abs(before.size - line.size) > 0.1 * line.size or (before.bold and not line.bold and not new_page):
        return True
    ended = bool(_SENTENCE_END.search(before.text))
    gap = before.y - line.y
    if new_page or gap < -line.size:  # the next page or column
        return ended
    if abs(gap) <= 0.5 * line.size:  # the same line in pieces
        return False
    if gap > PARAGRAPH_GAP * usual or (ended and gap > 1.8 * line.size):
        return True
    if _LIST_MARK.match(line.text) and (ended or _LIST_MARK.match(before.text) is not None):
        return True
    # Where the next word would still have fitted, the line break is meant; letters differ in width, hence the slack.
    meant = len(before.text) + 1 + len(line.text.split(maxsplit=1)[0]) < 0.9 * width
    return ended and (meant or line.x > before.x + line.size)


def _join(lines: Sequence[Line]) -> str:
    """One line of text. A hyphen at a line's end goes where it joins two halves of a word, and stays in `K-4821`."""
    text = lines[0].text
    for line in lines[1:]:
        if re.search(r"\w-$", text) and line.text[:1].isalnum():
            halves = text[-2].islower() and line.text[0].islower()
            text = (text[:-1] if halves else text) + line.text
        else:
            text = f"{text} {line.text}"
    return text
