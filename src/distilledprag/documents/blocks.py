"""What a reader makes of a document: blocks of clean text, each under its heading.

Knows nothing of file formats, passage sizes or retrieval.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Invisible characters that only steer line breaks or mark the start of a file; they would split words in search.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_CONTROL_OR_SURROGATE = re.compile("[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]")

Kind = Literal["paragraph", "item"]


@dataclass(frozen=True)
class Block:
    """A paragraph, or an item of a list: text on one line; title: nearest heading above it.

    Paragraphs (and rows of a table with a header) stand for themselves; short items may be joined with their neighbours.
    """

    text: str
    title: str = ""
    kind: Kind = "paragraph"


def clean(text: str) -> str:
    """`text` on one line, in composed Unicode (NFC), without invisible or control characters or lone surrogates."""
    text = _CONTROL_OR_SURROGATE.sub(" ", _INVISIBLE.sub("", text))
    return " ".join(unicodedata.normalize("NFC", text).split())


class Outline:
    """Collects a document's blocks in reading order while carrying the heading that they stand under.

    No text is lost: a heading with nothing below it, followed by one of its own or a higher level, becomes a block.
    """

    def __init__(self, title: str = "") -> None:
        self._title = clean(title)
        self._level = 0
        self._bare = False
        self._blocks: list[Block] = []

    def heading(self, text: str, level: int) -> None:
        """Begin a section. level: 1 is the highest; only the order of levels counts."""
        text = clean(text)
        if not text:
            return
        if self._bare and level <= self._level:
            self._blocks.append(Block(self._title))
        self._title, self._level, self._bare = text, level, True

    def add(self, text: str, kind: Kind = "paragraph") -> None:
        """Add a block under the present heading; blank text is passed over."""
        text = clean(text)
        if text:
            self._blocks.append(Block(text, self._title, kind))
            self._bare = False

    def add_table(self, rows: Sequence[Sequence[str]], header: bool) -> None:
        """Add a table as readable lines, one per row: `Name: Anna Berg; Role: engineer`.

        header: the first row names the columns. Without one, rows of two cells read `name: value` and may be joined (they
        mostly describe one thing); other rows are their cells in order.
        """
        lines = [[clean(cell) for cell in row] for row in rows]
        lines = [cells for cells in lines if any(cells)]
        names = lines.pop(0) if header and len(lines) > 1 else []
        pairs = not names and all(len(cells) == 2 for cells in lines)
        for cells in lines:
            if len(cells) == len(names) > 1:
                self.add("; ".join(_pair(name, cell) for name, cell in zip(names, cells, strict=True) if cell))
            elif pairs:
                self.add(_pair(*cells) if cells[1] else cells[0], "item")
            else:
                self.add("; ".join(cell for cell in cells if cell))

    def finish(self) -> list[Block]:
        """All blocks, in reading order."""
        if self._bare:
            self._blocks.append(Block(self._title))
            self._bare = False
        return self._blocks


def _pair(name: str, value: str) -> str:
    """`name: value`; just the value when there is no name."""
    name = name.rstrip(" :")
    return f"{name}: {value}" if name else value
