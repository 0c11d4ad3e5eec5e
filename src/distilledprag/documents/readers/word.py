"""Word documents (.docx) -> blocks.

The text is gathered from the XML below python-docx's paragraphs, because its own `text` leaves out tracked insertions and
content controls.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docx
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph

from distilledprag.documents.passages import Outline
from distilledprag.documents.readers.interface import ReadDocument
from distilledprag.errors import DocumentError

_CONTAINERS = {qn(name) for name in ("w:sdt", "w:sdtContent", "w:customXml", "w:ins", "w:smartTag")}
_LINE_BREAKS = {qn("w:br"), qn("w:cr"), qn("w:p")}
_TEXT, _TAB, _HYPHEN = qn("w:t"), qn("w:tab"), qn("w:noBreakHyphen")
_TAB_STOPS = qn("w:tabs")
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_OFFICE_SIGNATURE = b"\xd0\xcf\x11\xe0"


def read_docx(file: Path) -> ReadDocument:
    """Paragraphs, lists and tables under their headings; deleted text, headers and footers are left out.

    Raises DocumentError for a damaged file, one with a password, and the old .doc format.
    """
    with file.open("rb") as stream:
        if stream.read(4) == _OFFICE_SIGNATURE:
            raise DocumentError(f"{file} has a password or is in the old .doc format; save it as .docx without a password")
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("not a ZIP archive")
        document = docx.Document(str(file))
        outline = Outline()
        for element in _parts(document.element.body):
            if element.tag == qn("w:tbl"):
                _add_table(outline, Table(element, document))
            else:
                _add_paragraph(outline, Paragraph(element, document))
        return ReadDocument(tuple(outline.finish()))
    except Exception as error:  # a damaged file can break ZIP, XML or python-docx anywhere
        raise DocumentError(f"{file} cannot be read as a Word document ({error}); open and save it again as .docx") from error


def _parts(parent: Any) -> Iterator[Any]:
    """The paragraph and table elements below `parent` in order, also those in content controls."""
    for element in parent:
        if element.tag in (qn("w:p"), qn("w:tbl")):
            yield element
        elif element.tag in _CONTAINERS:
            yield from _parts(element)


def _add_paragraph(outline: Outline, paragraph: Paragraph) -> None:
    names = _style_names(paragraph)
    text = _text(paragraph._p)
    for name in names:
        if name == "title" or name.startswith("heading"):
            level = int(digits) if (digits := name.removeprefix("heading").strip()).isdigit() else 0
            outline.heading(text, level)
            return
    properties = paragraph._p.pPr
    numbered = properties is not None and properties.numPr is not None
    is_item = numbered or any(name.startswith("list") for name in names)
    for part in text.split("\n\n"):
        outline.add(part, "item" if is_item else "paragraph")


def _style_names(paragraph: Paragraph) -> list[str]:
    """The names of the paragraph's style and of those it builds on, in lower case. Word keeps them in English."""
    names: list[str] = []
    style: Any = paragraph.style
    while style is not None and len(names) < 10:
        names.append((style.name or "").lower())
        style = style.base_style
    return names


def _text(element: Any) -> str:
    """The text below `element`: inserted text and hyperlinks counted, deleted text not; line breaks are kept."""
    parts: list[str] = []
    for child in element:
        if child.tag == _TEXT:
            parts.append(child.text or "")
        elif child.tag == _TAB:
            parts.append(" ")
        elif child.tag == _HYPHEN:
            parts.append("-")
        elif child.tag not in (_FALLBACK, _TAB_STOPS):
            parts.append(_text(child))
            if child.tag in _LINE_BREAKS:
                parts.append("\n")
    return "".join(parts)


def _add_table(outline: Outline, table: Table) -> None:
    rows = [[_text(cell) for cell in _cells(row)] for row in table._tbl.tr_lst]
    if all(len(cells) <= 1 for cells in rows):  # a frame around paragraphs
        for row in table._tbl.tr_lst:
            for cell in _cells(row):
                for element in _parts(cell):
                    if element.tag == qn("w:tbl"):
                        _add_table(outline, Table(element, table))
                    else:
                        _add_paragraph(outline, Paragraph(element, table))
        return
    outline.add_table(rows, _has_header(table, rows))


def _cells(row: Any) -> list[Any]:
    """The cell elements of a row, also those in content controls; a merged cell counts once."""
    return [cell for cell in row.iter(qn("w:tc")) if next(cell.iterancestors(qn("w:tr"))) is row]


def _has_header(table: Table, rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: marked so, all bold, or three and more short names without figures."""
    if len(rows) < 2 or not all(cell.strip() for cell in rows[0]):
        return False
    first = table._tbl.tr_lst[0]
    if first.trPr is not None and first.trPr.find(qn("w:tblHeader")) is not None:
        return True
    runs = [run for run in first.iter(qn("w:r")) if _text(run).strip()]
    if runs and all(run.rPr is not None and run.rPr.find(qn("w:b")) is not None for run in runs):
        return True
    names = [cell.split() for cell in rows[0]]
    return len(names) >= 3 and all(len(name) <= 4 and not any(map(str.isdigit, " ".join(name))) for name in names)
