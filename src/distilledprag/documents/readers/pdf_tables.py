"""Tables with drawn rules on a page of a PDF, found by pdfplumber."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilledprag.documents.passages import clean
from distilledprag.documents.readers.pdf_layout import Table
from distilledprag.documents.readers.pdf_page import Line
from distilledprag.documents.readers.tables import Cell

SLACK = 2.0  # points


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
