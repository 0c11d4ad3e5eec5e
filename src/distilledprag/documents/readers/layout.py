"""Lines with their places on pages -> blocks: columns, tables without rules, headers and footers, paragraphs, headings.

Lengths are in points, y grows upwards. Where the lines come from, PDFium or character recognition, is no matter here.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distilledprag.documents.passages import Outline
from distilledprag.documents.readers.tables import Cell, add_table, looks_like_head

_SENTENCE_END = re.compile(r"[.!?…:][\"'”’»)\]]*$")
_PAGE_NUMBER = re.compile(r"[-–—\s]*(?:page|seite|p\.)?\s*(\d{1,5})\s*(?:(?:/|of|von)\s*\d{1,5})?[-–—\s]*", re.IGNORECASE)
_LIST_MARK = re.compile(r"(?:[•▪◦‣·●○■–*-]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
GAP = 1.2  # a space this many times the letters' size may separate columns
SAME_PLACE = 3.0  # points
FEWEST_ROWS = 3
PROSE_WORDS = 3.5  # the parts of a line in a column of prose have more words than that on average
PARAGRAPH_GAP = 1.25  # a gap this many times the usual line distance separates paragraphs
HEADING_SIZE = 1.15  # letters this many times the body's size are a heading
HEADING_WORDS = 14


@dataclass(frozen=True)
class Line:
    """A line of text, or the part of one in a column: its ends and its baseline, the size of its letters."""

    text: str
    x: float
    end: float
    y: float
    size: float
    bold: bool

    def covers(self, other: Line) -> bool:
        """Whether both stand at the same place."""
        return abs(self.y - other.y) < 0.5 * other.size and self.x < other.end and other.x < self.end


Table = list[list[Cell]]
Item = Line | tuple[Table, int]  # a line, or a table and the number of its rows that name the columns


def add_pages(outline: Outline, pages: list[list[Item]]) -> None:
    """Add the paragraphs, headings and tables of pages, each of which is in reading order."""
    pages, running = _without_running_lines(pages)
    for text in running:
        outline.add(f"On every page: {text}")
    body_size, body_bold = _body_style(pages)
    for group in _paragraphs(pages):
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


def items_of(rows: Sequence[Sequence[Line]]) -> list[Item]:
    """The same with each table's rows of heads counted."""
    return [found if isinstance(found, Line) else (found, head_rows(found, [])) for found in arranged(rows)]


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
