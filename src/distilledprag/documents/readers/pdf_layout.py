"""Rows of text that stand in columns: two columns of prose that were drawn row by row, and tables without rules."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from distilledprag.documents.readers.pdf_page import Line
from distilledprag.documents.readers.tables import Cell, looks_like_head

SAME_PLACE = 3.0  # points
FEWEST_ROWS = 3
PROSE_WORDS = 3.5  # the parts of a line in a column of prose have more words than that on average

Table = list[list[Cell]]


def arranged(rows: Sequence[Sequence[Line]]) -> Iterator[Line | Table]:
    """Lines in reading order, and tables. A gap that only one or two rows have is no column."""
    number = 0
    while number < len(rows):
        run = _run(rows, number)
        if run is None:
            yield _joined(rows[number])
            number += 1
            continue
        starts, last = run
        block = rows[number:last]
        number = last
        columns = [[_joined(parts) for row in block if (parts := _parts(row, starts, column))] for column in range(len(starts))]
        words = [len(line.text.split()) for row in block if len(row) > 1 for line in row]
        if len(starts) == 2 and statistics.mean(words) > PROSE_WORDS:
            for column in columns:
                yield from column
        else:
            yield [[_cell(_parts(row, starts, column), column) for column in range(len(starts))] for row in block]


def head_rows(table: Table, bold: Sequence[bool]) -> int:
    """How many rows at the top name the columns: the bold ones, or a row of short names; and those that they reach down to.

    bold: for each row, whether all its letters are.
    """
    count = next((number for number, is_bold in enumerate(bold) if not is_bold), 0)
    if not count and looks_like_head([cell.text for cell in table[0] if cell.text]):
        count = 1
    if count:
        count = max(count, *(cell.rowspan for cell in table[0]))
    return count if count < len(table) else 0


def _run(rows: Sequence[Sequence[Line]], begin: int) -> tuple[list[float], int] | None:
    """Where the columns begin (points) and the row after the last one of a run of rows in columns that starts at `begin`."""
    if len(rows[begin]) < 2:
        return None
    starts = [part.x for part in rows[begin]]
    last, full = begin, 0
    for row in rows[begin:]:
        places = [next((n for n, start in enumerate(starts) if abs(part.x - start) < SAME_PLACE), None) for part in row]
        if None in places or len(set(places)) < len(places):
            break
        if len(row) == 1 and places == [0] and row[0].end > starts[1] - SAME_PLACE:
            break  # a line across both columns
        full += len(row) > 1
        last += 1
    while last > begin and len(rows[last - 1]) == 1 and rows[last - 1][0].x <= starts[0] + SAME_PLACE and len(starts) > 2:
        last -= 1  # what follows a table is not its row
    return (starts, last) if full >= FEWEST_ROWS else None


def _parts(row: Sequence[Line], starts: Sequence[float], column: int) -> list[Line]:
    return [part for part in row if abs(part.x - starts[column]) < SAME_PLACE]


def _cell(parts: Sequence[Line], column: int) -> Cell:
    return Cell(" ".join(part.text for part in parts), head=column == 0)


def _joined(parts: Sequence[Line]) -> Line:
    first = parts[0]
    if len(parts) == 1:
        return first
    text = " ".join(part.text for part in parts)
    return Line(text, first.x, parts[-1].end, first.y, first.size, all(part.bold for part in parts))
