"""PDF -> blocks. A PDF only says where text stands on the page; layout.py finds paragraphs and headings from that.

Lengths are in points, y grows upwards. Pages that are pictures (scans) are read by OCR if it is asked for, else noted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from distilledprag.documents.passages import Outline, ReadDocument, clean, listed, not_read
from distilledprag.documents.readers.layout import Item, Line, Table, add_pages, head_rows, items_of
from distilledprag.documents.readers.ocr import DPI, LARGEST, Ocr, Recognised, UnreadPictureError, recognition_notes
from distilledprag.documents.readers.pdf_page import PageText, read_page
from distilledprag.documents.readers.tables import Cell
from distilledprag.errors import DocumentError

SLACK = 2.0  # points


def read_pdf(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """Paragraphs under their headings. Raises DocumentError for a damaged PDF, one with a password, and one without text.

    ocr: reads pages that are pictures, or whose fonts do not tell what their letters mean.
    """
    pages, notes = _pages(file, ocr)
    texts = [_arranged(page, tables) for page, tables in pages]
    if not any(texts) and not any(page.fields or page.comments for page, _ in pages):
        if ocr is None:
            raise DocumentError(f"{file} has no text, it may be a scan; --ocr reads scans by character recognition (OCR)")
        raise DocumentError(f"{file} has no text, not for OCR either ({'; '.join(notes)}); give a sharper scan")
    outline = Outline()
    add_pages(outline, texts)
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


def _pages(file: Path, ocr: Ocr | None) -> tuple[list[tuple[PageText, list[RuledTable]]], tuple[str, ...]]:
    """Every page with its ruled tables, empty where it is damaged, and notes on what has no text. Raises DocumentError."""
    try:
        document = pdfium.PdfDocument(file)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentError(f"{file} needs a password; save a copy without one") from error
        raise DocumentError(f"{file} cannot be read as PDF ({error}); it is damaged, save or download it again") from error
    recognised: dict[int, Recognised | UnreadPictureError] = {}
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
                if ocr is not None and text.needs_ocr:
                    text, recognised[number + 1] = _with_ocr(page, text, ocr)
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
    notes = recognition_notes(recognised)
    numbered = list(enumerate((page for page, _ in pages), start=1))
    for what, found in (
        ("cannot be read (damaged)", broken),
        ("no text (scanned?)", [n for n, page in numbered if page.picture and not page.rows]),
        ("little text beside a large picture (scanned?)", [n for n, page in numbered if page.picture and page.rows]),
        ("letters whose meaning the fonts do not tell", [n for n, page in numbered if page.unmapped]),
    ):
        if found:
            verb = "" if found is broken else "hold " if len(found) > 1 else "holds "
            notes.append(f"{listed('page', found)} {verb}{what}")
    if attached:
        notes.append(not_read(attached, "attached file"))
    return pages, tuple(notes)


def _with_ocr(page: pdfium.PdfPage, text: PageText, ocr: Ocr) -> tuple[PageText, Recognised | UnreadPictureError]:
    """The page's text as OCR completes it, and what OCR found, or why it found nothing."""
    try:
        width, height = page.get_size()
        scale = min(DPI / 72, (LARGEST / (width * height)) ** 0.5)
        bitmap = page.render(scale, grayscale=True)
        rows = memoryview(bitmap.buffer).cast("B")
        lines = (rows[begin : begin + bitmap.width] for begin in range(0, bitmap.height * bitmap.stride, bitmap.stride))
        picture = b"P5 %d %d 255\n%b" % (bitmap.width, bitmap.height, b"".join(lines))  # Netpbm's grey map
        bitmap.close()
        (found,) = ocr.recognise(picture, round(72 * scale))
    except UnreadPictureError as error:
        return replace(text, picture=False), error
    if not text.picture:
        return replace(text, rows=found.rows, unmapped=0), found
    known = [part for row in text.rows for part in row]
    more = [row for row in found.rows if not any(part.covers(other) for part in row for other in known)]
    return replace(text, rows=text.rows + more, picture=False), found


def _arranged(page: PageText, tables: list[RuledTable]) -> list[Item]:
    """A page's lines and tables in reading order."""
    items: list[Item] = []
    free: list[list[Line]] = []
    placed: set[int] = set()

    def arrange() -> None:
        items.extend(items_of(free))
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


@dataclass(frozen=True)
class RuledTable:
    """Where it is on the page (points, y upwards), its cells, and the upper and lower end of each row."""

    left: float
    right: float
    bottom: float
    top: float
    cells: Table
    rows: list[tuple[float, float]]

    def holds(self, line: Line) -> bool:
        """Whether the line begins in the table."""
        return self.left - SLACK <= line.x <= self.right + SLACK and self.bottom - SLACK <= line.y <= self.top + SLACK


class RuledTables:
    """Opens the file when a page is first asked for. Close it after use."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open: Any = None

    def __enter__(self) -> RuledTables:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()

    def on_page(self, number: int, rows: Sequence[Sequence[Line]]) -> list[RuledTable]:
        """The tables of page `number` (from 0) that hold all the text that stands where they are: none may be lost."""
        if self._open is None:
            import pdfplumber  # here, because it is slow to import and few files need it

            self._open = pdfplumber.open(self._file)
        page = self._open.pages[number]
        try:
            found = [_table(page, table) for table in page.find_tables()]
        finally:
            page.close()
        return [table for table in found if table is not None and _is_whole(table, rows)]


def _table(page: Any, table: Any) -> RuledTable | None:
    texts = table.extract()
    columns = sorted({cell[0] for cell in table.cells})
    tops = sorted({cell[1] for cell in table.cells})
    if len(columns) < 2 or len(tops) < 2:
        return None
    cells = []
    for row, line in zip(table.rows, texts, strict=True):
        made = []
        for box, text in zip(row.cells, line, strict=True):
            if box is not None:
                wide = sum(box[0] - 1 <= column < box[2] - 1 for column in columns)
                high = sum(box[1] - 1 <= top < box[3] - 1 for top in tops)
                made.append(Cell(clean(text or ""), max(high, 1), max(wide, 1), head=abs(box[0] - columns[0]) < 1))
        cells.append(made)
    left, top, right, bottom = table.bbox
    height = float(page.height)
    ends = [(height - row.bbox[1], height - row.bbox[3]) for row in table.rows]
    return RuledTable(left, right, height - bottom, height - top, cells, ends)


def _is_whole(table: RuledTable, rows: Sequence[Sequence[Line]]) -> bool:
    there = "".join(sorted("".join(part.text for row in rows for part in row if table.holds(part)).replace(" ", "")))
    read = "".join(sorted("".join(cell.text for row in table.cells for cell in row).replace(" ", "")))
    return bool(there) and there == read
