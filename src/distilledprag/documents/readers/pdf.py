"""PDF -> blocks. A PDF only says where text stands on the page; paragraphs and headings are found from the layout.

Lengths are in points, y grows upwards. Scanned pages (pictures) have no text here; the notes name them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from distilledprag.documents.passages import Outline
from distilledprag.documents.readers.interface import ReadDocument, not_read
from distilledprag.documents.readers.pdf_layout import Table, arranged, head_rows
from distilledprag.documents.readers.pdf_page import Line, PageText, read_page
from distilledprag.documents.readers.pdf_tables import RuledTable, RuledTables
from distilledprag.documents.readers.tables import add_table
from distilledprag.errors import DocumentError

_SENTENCE_END = re.compile(r"[.!?…:][\"'”’»)\]]*$")
_PAGE_NUMBER = re.compile(r"[-–—\s]*(?:page|seite|p\.)?\s*(\d{1,5})\s*(?:(?:/|of|von)\s*\d{1,5})?[-–—\s]*", re.IGNORECASE)
_LIST_MARK = re.compile(r"(?:[•▪◦‣·●○■–*-]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
PARAGRAPH_GAP = 1.25  # a gap this many times the usual line distance separates paragraphs
HEADING_SIZE = 1.15  # letters this many times the body's size are a heading
HEADING_WORDS = 14

Item = Line | tuple[Table, int]  # a line, or a table and the number of its rows that name the columns


def read_pdf(file: Path) -> ReadDocument:
    """Paragraphs under their headings. Raises DocumentError for a damaged PDF, one with a password, and one without text."""
    pages, notes = _pages(file)
    texts = [_arranged(page, tables) for page, tables in pages]
    if not any(texts) and not any(page.fields or page.comments for page, _ in pages):
        raise DocumentError(f"{file} has no text, it may be a scan; run character recognition (OCR) on it first")
    outline = Outline()
    texts, running = _without_running_lines(texts)
    for text in running:
        outline.add(f"On every page: {text}")
    body_size, body_bold = _body_style(texts)
    for group in _paragraphs(texts):
        if not isinstance(group, list):
            add_table(outline, *group)
            continue
        text = _join(group)
        larger = min(line.size for line in group) >= HEADING_SIZE * body_size
        bolder = not body_bold and all(line.bold for line in group)
        if (larger or bolder) and len(text.split()) <= HEADING_WORDS and not text.endswith((".", ",", ";")):
            outline.heading(text, -round(10 * group[0].size))
        elif mark := _LIST_MARK.match(text):
            outline.add(text[mark.end() :] if not mark.group()[0].isalnum() else text, "item")
        else:
            outline.add(text)
    for number, (page, _) in enumerate(pages, start=1):
        if page.fields:
            outline.heading(f"Form fields on page {number}", 0)
            for field in page.fields:
                outline.add(field, "item")
        if page.comments:
            outline.heading(f"Comments on page {number}", 0)
            for comment in page.comments:
                outline.add(comment)
    return ReadDocument(tuple(outline.finish()), notes)


def _pages(file: Path) -> tuple[list[tuple[PageText, list[RuledTable]]], tuple[str, ...]]:
    """Every page with its ruled tables, empty where it is damaged, and notes on what has no text. Raises DocumentError."""
    try:
        document = pdfium.PdfDocument(file)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentError(f"{file} needs a password; save a copy without one") from error
        raise DocumentError(f"{file} cannot be read as PDF ({error}); it is damaged, save or download it again") from error
    with document, RuledTables(file) as ruled:
        if document.get_formtype() != pdfium_c.FORMTYPE_NONE:
            document.init_forms()
        pages: list[tuple[PageText, list[RuledTable]]] = []
        broken = []
        for number in range(len(document)):
            try:
                page = document[number]
            except pdfium.PdfiumError:
                broken.append(number + 1)
                pages.append((PageText([], [], [], picture=False, unmapped=0, ruled=False), []))
                continue
            with contextlib.closing(page):
                text = read_page(document, page)
            tables: list[RuledTable] = []
            if text.ruled and text.rows:
                try:
                    tables = ruled.on_page(number, text.rows)
                except (MemoryError, RecursionError):
                    raise
                except Exception:  # pdfplumber is stricter than PDFium; the text is read without the table's structure
                    tables = []
            pages.append((text, tables))
        attached = pdfium_c.FPDFDoc_GetAttachmentCount(document)
    notes = []
    numbered = list(enumerate((page for page, _ in pages), start=1))
    for what, found in (
        ("cannot be read (damaged)", broken),
        ("no text (scanned?)", [n for n, page in numbered if page.picture and not page.rows]),
        ("little text beside a large picture (scanned?)", [n for n, page in numbered if page.picture and page.rows]),
        ("letters whose meaning the fonts do not tell", [n for n, page in numbered if page.unmapped]),
    ):
        if found:
            verb = "" if found is broken else "hold " if len(found) > 1 else "holds "
            notes.append(f"page{'s' if len(found) > 1 else ''} {_listed(found)} {verb}{what}")
    if attached:
        notes.append(not_read(attached, "attached file"))
    return pages, tuple(notes)


def _listed(numbers: Sequence[int]) -> str:
    """`2 and 3`, `1, 4 to 9 and 12`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(n) for run in runs for n in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _arranged(page: PageText, tables: list[RuledTable]) -> list[Item]:
    """A page's lines and tables in reading order."""
    items: list[Item] = []
    free: list[list[Line]] = []
    placed: set[int] = set()

    def arrange() -> None:
        for found in arranged(free):
            items.append(found if isinstance(found, Line) else (found, head_rows(found, [])))
        free.clear()

    for row in page.rows:
        table = next((table for table in tables if table.holds(row[0])), None)
        if table is None:
            free.append(row)
        elif id(table) not in placed:
            placed.add(id(table))
            arrange()
            inside = [part for row in page.rows for part in row if table.holds(part)]
            bold = []
            for top, bottom in table.rows:
                here = [part.bold for part in inside if bottom <= part.y <= top]
                bold.append(bool(here) and all(here))
            items.append((table.cells, head_rows(table.cells, [] if all(bold) else bold)))
    arrange()
    return items


def _body_style(pages: list[list[Item]]) -> tuple[float, bool]:
    """The letter size that most of the text has, and whether most of the text is bold."""
    sizes: Counter[float] = Counter()
    bold: Counter[bool] = Counter()
    for line in (item for items in pages for item in items if isinstance(item, Line)):
        sizes[round(line.size, 1)] += len(line.text)
        bold[line.bold] += len(line.text)
    return (sizes.most_common(1)[0][0] if sizes else 1.0), bold[True] > bold[False]


def _without_running_lines(pages: list[list[Item]]) -> tuple[list[list[Item]], list[str]]:
    """Drop page numbers, and gather headers and footers.

    Those are lines that stand at the same height at the beginning or end of at least three pages and half of them, alike.
    """
    ends: Counter[tuple[str, int]] = Counter()
    numbers: Counter[int] = Counter()
    for place, items in enumerate(pages):
        edge = {_placed(item) for item in (*items[:2], *items[-2:]) if isinstance(item, Line)}
        ends.update(edge)
        numbers.update({int(found[1]) - place for text, _ in edge if (found := _PAGE_NUMBER.fullmatch(text))})
    running = {placed for placed, count in ends.items() if count >= max(3, len(pages) / 2)}
    # The number that most pages have when their place in the file is subtracted; one page's lone number may be a fact.
    offset = next((number for number, count in numbers.most_common(1) if count >= max(2, len(pages) / 2)), None)

    def drops(item: Item, place: int) -> bool:
        if not isinstance(item, Line):
            return False
        found = _PAGE_NUMBER.fullmatch(item.text)
        says_page = found is not None and not item.text.strip("-–— ").isdigit()
        return _placed(item) in running or says_page or (found is not None and int(found[1]) - place == offset)

    kept = []
    for place, items in enumerate(pages):
        for _ in range(2):  # a header or footer and the page number beside it
            for end in (0, -1):
                if items and drops(items[end], place):
                    items = items[1:] if end == 0 else items[:-1]
        kept.append(items)
    gathered = dict.fromkeys(text for text, place in ends if (text, place) in running and not _PAGE_NUMBER.fullmatch(text))
    return kept, list(gathered)


def _placed(line: Line) -> tuple[str, int]:
    """A line's text and its height on the page, roughly."""
    return line.text, round(line.y / 4)


def _paragraphs(pages: list[list[Item]]) -> Iterator[list[Line] | tuple[Table, int]]:
    """Groups of lines that make one paragraph (or heading), and tables; a paragraph may go on across a page break."""
    lines_of = [[item for item in items if isinstance(item, Line)] for items in pages]
    gaps = [a.y - b.y for lines in lines_of for a, b in itertools.pairwise(lines) if a.y - b.y > 0.5 * b.size]
    # Within paragraphs gaps are smallest; a low quantile finds them even where most paragraphs are short.
    usual = statistics.quantiles(gaps, n=4)[0] if len(gaps) > 1 else (gaps[0] if gaps else 0.0)
    width = max((len(line.text) for lines in lines_of for line in lines), default=0)
    current: list[Line] = []
    for items in pages:
        for number, item in enumerate(items):
            if not isinstance(item, Line):
                if current:
                    yield current
                    current = []
                yield item
                continue
            if current and _begins_paragraph(current[-1], item, usual, width, new_page=number == 0):
                yield current
                current = []
            current.append(item)
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
