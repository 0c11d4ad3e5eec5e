"""OpenDocument text (.odt) -> blocks: text, lists, tables, footnotes, comments, headers and footers, and on demand by OCR what
stands in pictures; no deleted text."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from distilledprag.documents.passages import Kind, Outline, ReadDocument, clean, comment, not_read
from distilledprag.documents.readers.numbering import OpenNumbering
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.readers.packages import Package
from distilledprag.documents.readers.pictures import Pictures, Text, inches
from distilledprag.documents.readers.tables import WIDEST, Cell, add_table, looks_like_head
from distilledprag.errors import DocumentError

_OASIS = "{urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _TABLE, _OFFICE = (f"{_OASIS}{name}:1.0}}" for name in ("text", "table", "office"))
_GONE = {
    f"{_TEXT}{name}"
    for name in ("tracked-changes", "sequence-decls", "variable-decls", "user-field-decls", "note-citation", "hidden-text")
}
_SVG = f"{_OASIS}svg-compatible:1.0}}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_MATH_ANNOTATION = "{http://www.w3.org/1998/Math/MathML}annotation"


def read_odt(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """ocr: reads pictures. Raises DocumentError for a damaged file and one with a password."""
    package = Package(file, "an OpenDocument text")
    if "META-INF/manifest.xml" in package.names and b"encryption-data" in package.data("META-INF/manifest.xml"):
        raise DocumentError(f"{file} needs a password; save a copy without one")
    roots = [package.xml(name) for name in ("content.xml", "styles.xml") if name in package.names or name == "content.xml"]
    numbering = OpenNumbering(roots)
    reading = _Text(package, ocr, numbering.labels)
    for root in roots[1:]:
        for part in root.iter(f"{_OASIS}style:1.0}}header", f"{_OASIS}style:1.0}}footer"):
            name = "Page header" if str(part.tag).endswith("header") else "Page footer"
            text = clean(reading.inline(part))
            if any(character.isalpha() for character in text):
                reading.outline.add(f"{name}: {text}")
            reading.flush()
    body = roots[0].find(f"{_OFFICE}body")
    if body is None:
        raise DocumentError(f"{file} cannot be read as an OpenDocument text (it has no body); open and save it again")
    numbering.read(body)
    reading.add_all(body, "paragraph")
    return ReadDocument(tuple(reading.outline.finish()), tuple(reading.notes()))


class _Text:
    """labels: the automatic numbers of headings and list items."""

    def __init__(self, package: Package, ocr: Ocr | None, labels: dict[Any, str]) -> None:
        self.outline = Outline()
        self.pictures = Pictures(ocr, package)
        self._package, self._labels = package, labels
        self._waiting: list[Text] = []  # notes and pictures of the present paragraph
        self._objects = 0  # that are not read

    def add_all(self, parent: Any, kind: Kind) -> None:
        for element in parent:
            tag = element.tag
            if tag in _GONE or not isinstance(tag, str):
                continue
            if tag == f"{_TEXT}h":
                level = element.get(f"{_TEXT}outline-level") or "1"
                self.outline.heading(self.inline(element), int(level) if level.isdigit() else 1)
                self.flush()
            elif tag == f"{_TEXT}p":
                for part in self.inline(element).split("\n\n"):
                    self.outline.add(part, kind)
                self.flush()
            elif tag == f"{_TABLE}table":
                self._add_table(element)
            elif tag.endswith("}image"):  # one that stands on the page, in no paragraph
                self._add_picture(element)
                self.flush()
            else:
                self.add_all(element, "item" if tag == f"{_TEXT}list-item" else kind)

    def notes(self) -> list[str]:
        """What was not read."""
        return ([not_read(self._objects, "chart or embedded object")] if self._objects else []) + self.pictures.notes()

    def flush(self) -> None:
        """Add what waits for the paragraph's end."""
        waiting, self._waiting = self._waiting, []
        for text, kind in waiting:
            self.outline.add(text, kind)

    def inline(self, element: Any) -> str:
        """The text below an element on one line; notes and comments wait until the paragraph ends."""
        label = self._labels.get(element)
        parts = [f"{label} " if label else "", element.text or ""]
        for child in element:
            tag = child.tag if isinstance(child.tag, str) else ""
            name = tag.rpartition("}")[2]
            if tag == f"{_TEXT}note":
                number = clean("".join(text for cited in child.findall(f"{_TEXT}note-citation") for text in cited.itertext()))
                text = clean(" ".join(self.inline(body) for body in child.findall(f"{_TEXT}note-body")))
                what = (child.get(f"{_TEXT}note-class") or "note").capitalize()
                self._waiting.append((f"{what} {number}: {text}", "paragraph"))
                parts.append(f" [{number}]")
            elif tag == f"{_OFFICE}annotation":
                author = "".join(part.text or "" for part in child if str(part.tag).endswith("}creator"))
                text = clean(" ".join(self.inline(part) for part in child if str(part.tag).startswith(_TEXT)))
                self._waiting.append((comment(author, text), "paragraph"))
            elif name in ("s", "tab"):
                parts.append(" ")
            elif name == "line-break":
                parts.append("\n")
            elif name == "image":
                self._add_picture(child)
            elif name == "object":
                parts.append(text := self._object(child))
                self._objects += not text and not self.pictures.wanted
            elif tag and tag not in _GONE:
                inner = self.inline(child)
                parts.append(f" {inner} " if name in ("p", "h", "list-item", "table-cell", "title", "desc") else inner)
            parts.append(child.tail or "")
        return "".join(parts)

    def _add_picture(self, element: Any) -> None:
        """Of what a frame holds, which are forms of the same thing, an equation before its picture, and the last picture."""
        if any(str(later.tag).endswith("}image") for later in element.itersiblings()):
            return
        if any(str(other.tag).endswith("}object") and self._object(other) for other in element.getparent()):
            return
        frame = element.getparent()
        part = posixpath.normpath(element.get(_HREF) or "")
        if not any(str(other.tag).endswith("}object") for other in frame):  # which are noted themselves
            self.pictures.leave(part, inches(frame.get(f"{_SVG}width")), inches(frame.get(f"{_SVG}height")))
        if part in self._package.names:
            self._waiting += self.pictures.text(part)

    def _object(self, element: Any) -> str:
        """An equation, which is a document of its own in the package."""
        part = posixpath.normpath(posixpath.join(element.get(_HREF) or "", "content.xml"))
        if part not in self._package.names:
            return ""
        root = self._package.xml(part)
        if not str(root.tag).endswith("}math"):
            return ""
        return " " + "".join(node.text or "" for node in root.iter() if node.tag != _MATH_ANNOTATION).strip() + " "

    def _add_table(self, table: Any) -> None:
        elements, heads = [], 0
        for row in table.iter(f"{_TABLE}table-row"):
            if next(row.iterancestors(f"{_TABLE}table")) is table:
                elements.append([cell for cell in row if cell.tag == f"{_TABLE}table-cell"])  # others are covered by these
                heads += row.getparent().tag == f"{_TABLE}table-header-rows"
        if all(len(row) <= 1 for row in elements):
            for row in elements:
                for cell in row:
                    self.add_all(cell, "paragraph")
            return
        rows = [[self._cell(cell) for cell in row] for row in elements]
        if not heads and len(rows) > 1 and looks_like_head([cell.text for cell in rows[0] if cell.text]):
            heads = max(cell.rowspan for cell in rows[0])
        add_table(self.outline, rows, heads)
        self.flush()

    def _cell(self, element: Any) -> Cell:
        text = clean(self.inline(element))
        repeated = min(_number(element, "number-columns-repeated"), WIDEST)
        wide = max(_number(element, "number-columns-spanned"), 1 if text else repeated)
        return Cell(text, _number(element, "number-rows-spanned"), wide)


def _number(element: Any, name: str) -> int:
    text = element.get(f"{_TABLE}{name}") or "1"
    return max(int(text), 1) if text.isdigit() and len(text) < 6 else 1
