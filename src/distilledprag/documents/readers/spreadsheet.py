"""Excel workbooks (.xlsx, .xlsm) -> a block per row, in which every value has its column's name.

Empty rows separate tables. Formulas are read as the values that Excel stored with them. Hidden rows, columns and sheets,
text boxes, comments and printed headers are read; charts and pictures are noted.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl

from distilledprag.documents.passages import Outline, ReadDocument, clean, not_read
from distilledprag.documents.readers.packages import Package, drawn_paragraphs
from distilledprag.documents.readers.tables import Cell, add_table

_NO_VALUE = re.compile(rb"</f>\s*(?:<v\s*/>|<v></v>)?\s*</c>|<f\b[^>]*/>\s*(?:<v\s*/>|<v></v>)?\s*</c>")
_SHEET = re.compile(r"xl/worksheets/[^/]+\.xml")
_PRINT_CODE = re.compile(r"&(?:[A-Z]|\d+|\"[^\"]*\")")
_CURRENCY = re.compile(r"\[\$([^\]-]+)|([$€£¥₹])")

Row = dict[int, Any]  # column -> openpyxl's cell


def read_workbook(file: Path) -> ReadDocument:
    """Every sheet under its name. Raises DocumentError for a damaged file and one with a password."""
    package = Package(file, "an Excel workbook")
    book = openpyxl.load_workbook(file, data_only=True)
    outline = Outline()
    for sheet in book.worksheets:
        outline.heading(sheet.title, 1)
        for name, part in (("Page header", sheet.oddHeader), ("Page footer", sheet.oddFooter)):
            for side in (part.left, part.center, part.right):
                if text := clean(_PRINT_CODE.sub("", side.text or "")):
                    outline.add(f"{name}: {text}")
        _add_sheet(outline, sheet)
    for name in sorted(name for name in package.names if re.fullmatch(r"xl/drawings/[^/]+\.xml", name)):
        for text in drawn_paragraphs(package.xml(name)):
            outline.add(text)
    notes = []
    without = sum(len(_NO_VALUE.findall(package.data(name))) for name in package.names if _SHEET.fullmatch(name))
    if without:
        notes.append(f"{not_read(without, 'formula')}: Excel stored no value with it; open and save the workbook there")
    for folder, what in (("xl/charts/chart", "chart"), ("xl/media/", "picture")):
        if count := sum(name.startswith(folder) for name in package.names):
            notes.append(not_read(count, what))
    return ReadDocument(tuple(outline.finish()), tuple(notes))


def _add_sheet(outline: Outline, sheet: Any) -> None:
    names: list[list[Cell]] = []
    for block in _blocks(sheet):
        while len(block) > 1 and len(block[0]) == 1 and len(block[1]) > 1:
            outline.add(_shown(next(iter(block.pop(0).values()))))
        left, right = min(map(min, block)), max(map(max, block))
        cells = [_cells(sheet, row, left, right) for row in block]
        heads = _head_rows(block, cells)
        if heads:
            names = cells[:heads]
        elif names and sum(cell.colspan for cell in names[0]) == right - left + 1 > 1:  # the table above goes on
            cells, heads = names + cells, len(names)
        add_table(outline, cells, heads)
        for cell in (cell for row in block for cell in row.values() if cell.comment):
            outline.add(f"Comment on {cell.coordinate}: {cell.comment.text}")


def _blocks(sheet: Any) -> Iterator[list[Row]]:
    """Runs of rows that hold something. Only cells that the file has are looked at, however far out one of them is."""
    rows: dict[int, Row] = {}
    for (number, column), cell in sorted(sheet._cells.items()):
        if (cell.value is not None and _shown(cell)) or cell.comment:
            rows.setdefault(number, {})[column] = cell
    merged = {row for area in sheet.merged_cells.ranges if area.min_row in rows for row in range(area.min_row, area.max_row + 1)}
    block: list[Row] = []
    before = 0
    for number, row in rows.items():
        if block and any(gap not in merged for gap in range(before + 1, min(number, before + 3))):
            yield block
            block = []
        block.append(row)
        before = number
    if block:
        yield block


def _cells(sheet: Any, row: Row, left: int, right: int) -> list[Cell]:
    """A row's cells from column `left` to `right`, with the columns and rows that they span."""
    number = next(iter(row.values())).row
    areas = {}
    for area in sheet.merged_cells.ranges:
        if area.min_row <= number <= area.max_row:
            areas[area.min_col] = area
    cells = []
    column = left
    while column <= right:
        area = areas.get(column)
        if area is not None:
            if area.min_row == number:
                text = _shown(row[column]) if column in row else ""
                cells.append(Cell(text, area.max_row - number + 1, area.max_col - column + 1, head=column == left))
            column = area.max_col + 1
            continue
        if column in row:
            cells.append(Cell(_shown(row[column]), head=column == left))
            column += 1
        else:  # one cell for a run of empty ones
            end = min([other for other in (*row, *areas, right + 1) if other > column])
            cells.append(Cell("", colspan=end - column))
            column = end
    return cells


def _head_rows(block: list[Row], cells: list[list[Cell]]) -> int:
    """How many rows at the top name the columns: rows of different texts above rows that have others or figures."""

    def texts(row: Row) -> bool:
        return all(isinstance(cell.value, str) for cell in row.values())

    if len(block) < 2 or not texts(block[0]) or len(block[0]) < 2:
        return 0
    bold = all(cell.font is not None and cell.font.b for cell in block[0].values())
    contrast = any(not texts(row) for row in block[1:])
    if len(block[0]) == 2 and not bold and not contrast:
        return 0
    if len({cell.value for cell in block[0].values()}) < len(block[0]):
        return 0
    two = len(block) > 2 and any(cell.colspan > 1 and cell.text for cell in cells[0]) and texts(block[1])
    return min(max(1 + two, *(cell.rowspan for cell in cells[0])), len(block) - 1)


def _shown(cell: Any) -> str:
    """A value about as Excel shows it: dates in ISO form, percentages and currencies with their signs."""
    value, form = cell.value, cell.number_format or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    if isinstance(value, (int, float)):
        if "%" in form:
            return f"{value * 100:.10g}%"
        text = f"{value:.15g}" if isinstance(value, float) else str(value)
        if sign := _CURRENCY.search(form):
            return f"{sign[1] or sign[2]}{text}" if sign[0].startswith(("[", "$", "£")) else f"{text} {sign[2]}"
        return text
    return clean(str(value)) if value is not None else ""
