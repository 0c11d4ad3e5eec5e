"""The unit of retrieval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A piece of a document. source: file it came from; title: heading above it; index: its number in the file."""

    text: str
    source: str
    title: str = ""
    index: int = 0
