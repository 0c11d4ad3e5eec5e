"""What the readers must get out of files: small files made here, and the facts that have to stand in one passage each.

docs/formats.md and the comparison with other libraries (benchmarks/readers.py) are made from the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FACT = "The deposit of 2680 euro is held by the Oakport bank."
ROWS = [
    ["Region", "2024", "", "2025", ""],
    ["", "Revenue", "Cost", "Revenue", "Cost"],
    ["North", "51", "31", "61", "41"],
    ["", "52", "32", "62", "42"],
]
HEADS = (("North", "2024", "Revenue", "51"), ("North", "2025", "Cost", "42"))  # two rows of heads, a row head over two rows
STAFF = [["Name", "City", "Salary"], ["Anna Berg", "Oakport", "4711"], ["Ben Tarn", "Millport", "4712"]]
COLUMNS = (("Name", "Anna Berg", "City", "Oakport", "Salary", "4711"), ("Ben Tarn", "City", "Millport", "Salary", "4712"))

UNREAD = "pictures, without --ocr"


@dataclass(frozen=True)
class Case:
    """make: writes the file. facts: groups of words, each of which must stand together in one passage; absent: words that no
    passage may hold; note: what must be reported; refused: what the error must say; ocr: whether scans are read."""

    suffix: str
    feature: str
    make: Callable[[Path], None]
    facts: tuple[tuple[str, ...], ...] = ()
    absent: tuple[str, ...] = ()
    note: str = ""
    refused: str = ""
    ocr: bool = False

    @property
    def name(self) -> str:
        return f"{self.suffix}: {self.feature}"

    @property
    def outcome(self) -> str:
        return (
            "refused" if self.refused else "reported" if self.note and not self.ocr else "left out" if not self.facts else "read"
        )


@dataclass
class Cases:
    """Collects cases: `@cases.add(".pdf", "footnotes", facts=...)` before the function that writes the file."""

    all: list[Case] = field(default_factory=list)

    def add(self, suffix, feature, *facts, absent=(), note="", refused="", ocr=False):
        def keep(make):
            self.all.append(Case(suffix, feature, make, facts, tuple(absent), note, refused, ocr))
            return make

        return keep

    def text(self, suffix, feature, content, *facts, encoding="utf-8", **others):
        data = content if isinstance(content, bytes) else content.encode(encoding)
        self.add(suffix, feature, *facts, **others)(lambda file: file.write_bytes(data))
