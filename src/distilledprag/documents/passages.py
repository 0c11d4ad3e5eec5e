"""A document's text on its way to the prompt: blocks under their headings, and the passages that they are cut into.

    reader -> Outline -> [Block] -> split_blocks -> [(title, text)] -> Passage

A passage has at most a given number of words and ends at a sentence end where possible. A paragraph is never joined with
another, so one record per paragraph stays one passage. Only short list items, which say little alone, are joined with their
neighbours and the line that leads in to them, and never across a heading. The same document always gives the same passages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from distilledprag.words import sentences

WHOLE_SENTENCE = 4  # words; a longer heading that ends with a full stop says something, so it is text as well
SHORT_ITEM = 12  # words; longer items are passages of their own

# Invisible characters that only steer line breaks or mark the start of a file; they would split words in search.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_CONTROL_OR_SURROGATE = re.compile("[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]")
_CLAUSE_END = (",", ";", ":", "–", "—")

Kind = Literal["paragraph", "item"]


@dataclass(frozen=True)
class Passage:
    """A piece of a document, the unit of retrieval. source: its file; title: heading above it; index: its number in the file."""

    text: str
    source: str
    title: str = ""
    index: int = 0


@dataclass(frozen=True)
class Block:
    """A paragraph, or an item of a list: text on one line; title: nearest heading above it.

    Paragraphs (and rows of a table with a header) stay alone; short items may be joined with their neighbours.
    """

    text: str
    title: str = ""
    kind: Kind = "paragraph"


def clean(text: str) -> str:
    """`text` on one line, in composed Unicode (NFC), without invisible or control characters or lone surrogates."""
    text = _CONTROL_OR_SURROGATE.sub(" ", _INVISIBLE.sub("", text))
    return " ".join(unicodedata.normalize("NFC", text).split())


class Outline:
    """Collects a document's blocks in reading order, each with the heading that it stands under.

    No text is lost: a heading without any text before the next one becomes a block itself, or, where the next one is of a lower
    level, is joined with it ("Lease: 1 Rent").
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
        if text.endswith(".") and len(text.split()) >= WHOLE_SENTENCE:
            self.add(text)
        if self._bare and level <= self._level:
            self._blocks.append(Block(self._title))
        elif self._bare:
            text = f"{self._title}: {text}"
        self._title, self._level, self._bare = text, level, True

    def add(self, text: str, kind: Kind = "paragraph") -> None:
        """Add a block under the current heading; blank text is skipped."""
        text = clean(text)
        if text:
            self._blocks.append(Block(text, self._title, kind))
            self._bare = False

    def finish(self) -> list[Block]:
        """All blocks, in reading order."""
        if self._bare:
            self._blocks.append(Block(self._title))
            self._bare = False
        return self._blocks


def split_text(text: str, longest: int) -> list[str]:
    """`text` in pieces of at most `longest` words (>= 1), each ending with a sentence where possible.

    A sentence longer than that is cut after a comma or similar mark in its second half, or else after `longest` words.
    """
    pieces: list[list[str]] = []
    for sentence in sentences(text):
        words = sentence.split()
        if pieces and len(pieces[-1]) + len(words) <= longest:
            pieces[-1] += words
            continue
        while len(words) > longest:
            cut = next((n for n in range(longest, longest // 2, -1) if words[n - 1].endswith(_CLAUSE_END)), longest)
            pieces.append(words[:cut])
            words = words[cut:]
        pieces.append(words)
    return [" ".join(words) for words in pieces]


def split_blocks(blocks: Sequence[Block], longest: int) -> list[tuple[str, str]]:
    """Blocks -> `[(title, text)]` of at most `longest` words each, in reading order."""
    return [(block.title, piece) for block in _join_short_items(blocks, longest) for piece in split_text(block.text, longest)]


def _join_short_items(blocks: Sequence[Block], longest: int) -> Iterator[Block]:
    """Join neighbouring short items, and a line that ends with a colon to the first item after it."""
    current: Block | None = None
    growing = False  # whether `current` ends with a short item, so that the next short one may join it
    for block in blocks:
        short = block.kind == "item" and len(block.text.split()) <= SHORT_ITEM
        if current is not None:
            joins = (growing and short) or (block.kind == "item" and _leads_in(current))
            length = len(current.text.split()) + len(block.text.split())
            if joins and current.title == block.title and length <= longest:
                glue = " " if current.text.endswith((".", "!", "?", ";", ":", ",")) else "; "
                current, growing = Block(current.text + glue + block.text, block.title, "item"), short
                continue
            yield current
        current, growing = block, short
    if current is not None:
        yield current


def _leads_in(block: Block) -> bool:
    return block.text.endswith(":") and len(block.text.split()) <= 2 * SHORT_ITEM


@dataclass(frozen=True)
class ReadDocument:
    """A file's text in reading order, and what could not be read of it.

    notes: plain sentences for the user, such as "page 2 and 3 hold no text (scanned?)"; they do not repeat the file's name.
    """

    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


def not_read(count: int, what: str) -> str:
    """The note `3 charts are not read`."""
    return f"{count} {what}{'s are' if count > 1 else ' is'} not read"


def comment(author: str | None, text: str) -> str:
    """A remark beside the text: `Comment by Anna: why?`."""
    return f"Comment{f' by {author}' if author else ''}: {text}"


def listed(what: str, numbers: Sequence[int]) -> str:
    """`page 2`, `pages 2 and 3`, `pages 1, 4 to 9 and 12`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(n) for run in runs for n in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else run)]
    return f"{what}{'s' if len(numbers) > 1 else ''} " + " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
