"""Tables -> one block per row, in which every cell keeps its column's name and the row keeps its head.

    Region: North; 2024 / Revenue: 5; 2024 / Cost: 3

A cell may span rows and columns. Several rows of heads are joined from top to bottom. A cell that spans the whole table names
the rows below it. Rows longer than a passage are cut between cells, and each part begins with the row's head.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distilledprag.documents.passages import Outline, clean

WIDEST = 1000  # columns that one cell may span, as in HTML
ROW_WORDS = 60  # words after which a row is cut
_PERIOD = re.compile(r"(?:FY)?(?:19|20)\d\d|[QH][1-4]")  # figures that names of columns may have
SECTION_WORDS = 12  # a longer text across the whole table is a paragraph


@dataclass(frozen=True)
class Cell:
    """head: it names its row (or its column, in the rows of heads)."""

    text: str
    rowspan: int = 1
    colspan: int = 1
    head: bool = False


@dataclass(frozen=True)
class _Placed:
    text: str
    column: int
    end: int  # the column after its last one
    head: bool
    repeated: bool  # it began in a row above


def add_table(outline: Outline, rows: Sequence[Sequence[Cell]], head_rows: int) -> None:
    """Add a table to the outline. head_rows: how many rows at the top name the columns.

    Without any, rows of two cells read `name: value` and may be joined (they mostly describe one thing).
    """
    placed = _place(rows)
    if head_rows >= len(placed):
        head_rows = 0
    width = max((cell.end for row in placed for cell in row), default=0)
    names = _column_names(placed[:head_rows])
    body = placed[head_rows:]
    pairs = not names and all(len([cell for cell in row if cell.text]) <= 2 for row in body) and width == 2
    section, used = "", True
    for cells in body:
        filled = [cell for cell in cells if cell.text]
        if not filled:
            continue
        if len(filled) == 1 and width > 1 and filled[0].column == 0 and filled[0].end >= width:
            if not used:
                outline.add(section)
            section, used = filled[0].text, False
            if len(section.split()) > SECTION_WORDS:
                outline.add(section)
                section, used = "", True
        elif pairs:
            used = True
            text = _pair(filled[0].text, filled[1].text) if len(filled) == 2 else filled[0].text
            outline.add(f"{section}; {text}" if section else text, "item")
        else:
            used = True
            _add_row(outline, filled, names, section)
    if not used:
        outline.add(section)


def _place(rows: Sequence[Sequence[Cell]]) -> list[list[_Placed]]:
    """Every row's cells at their columns, with those that reach down from rows above."""
    placed: list[list[_Placed]] = []
    hanging: dict[int, tuple[_Placed, int]] = {}  # column -> a cell of a row above and the rows that it still reaches
    for row in rows:
        cells = [cell for cell, _ in hanging.values()]
        taken = {column for cell in cells for column in range(cell.column, cell.end)}
        below = {column: (cell, left - 1) for column, (cell, left) in hanging.items() if left > 1}
        column = 0
        for cell in row:
            while column in taken:
                column += 1
            end = column + min(max(cell.colspan, 1), WIDEST)
            new = _Placed(clean(cell.text), column, end, cell.head, repeated=False)
            cells.append(new)
            if cell.rowspan > 1:
                below[column] = (_Placed(new.text, column, end, cell.head, repeated=True), cell.rowspan - 1)
            column = end
        hanging = below
        placed.append(sorted(cells, key=lambda cell: cell.column))
    return placed


def _column_names(rows: Sequence[Sequence[_Placed]]) -> dict[int, str]:
    """Column -> its names from top to bottom."""
    names: dict[int, list[str]] = {}
    for row in rows:
        for cell in row:
            if cell.text and not cell.repeated:
                for column in range(cell.column, cell.end):
                    names.setdefault(column, []).append(cell.text.rstrip(" :"))
    return {column: " / ".join(dict.fromkeys(parts)) for column, parts in names.items()}


def _add_row(outline: Outline, cells: Sequence[_Placed], names: dict[int, str], section: str) -> None:
    texts = []
    for cell in cells:
        over = dict.fromkeys(names[column] for column in range(cell.column, min(cell.end, WIDEST * 20)) if column in names)
        texts.append(_pair(", ".join(over), cell.text))
    heads = [text for cell, text in zip(cells, texts, strict=True) if cell.head][:3] or texts[:1]
    heads = [section, *heads] if section else heads
    begin = [section] if section else []
    line, words = begin, 0
    for text in texts:
        length = len(text.split())
        if line and words and words + length > ROW_WORDS:
            outline.add("; ".join(line))
            line, words = list(heads), sum(len(head.split()) for head in heads)
        line = [*line, text]
        words += length
    outline.add("; ".join(line))


def _pair(name: str, value: str) -> str:
    """`name: value`; just the value when there is no name."""
    name = name.rstrip(" :")
    return f"{name}: {value}" if name else value


def looks_like_head(texts: Sequence[str]) -> bool:
    """Whether a first row seems to name the columns: three and more short names, different ones, without figures (but years)."""
    names = [text.split() for text in texts]
    if len(names) < 3 or len(set(texts)) < len(texts) or not all(0 < len(name) <= 4 for name in names):
        return False
    return not any(any(map(str.isdigit, word)) and not _PERIOD.fullmatch(word) for name in names for word in name)
