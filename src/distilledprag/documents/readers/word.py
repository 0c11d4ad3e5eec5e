"""Word documents (.docx, .docm) -> blocks.

Read are the text with its lists, tables and text boxes, footnotes, endnotes and comments after the paragraph that they belong to,
headers and footers, equations, symbols and form fields, and on demand by OCR what stands in pictures, after the paragraph or
table that holds them. Left out is what Word does not show: deleted and moved-away text and hidden letters. Noted is what has no
text: pictures without OCR, charts and embedded objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mammoth.docx.dingbats import dingbats  # (font, code) -> Unicode of the letters of symbol fonts

from distilledprag.documents.passages import Outline, ReadDocument, clean, comment, not_read
from distilledprag.documents.readers.formulas import equation, lowered, raised
from distilledprag.documents.readers.numbering import WordNumbering
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.documents.readers.packages import Package, shown_pictures
from distilledprag.documents.readers.pictures import Pictures, Text, inches
from distilledprag.documents.readers.tables import Cell, add_table, looks_like_head
from distilledprag.errors import DocumentError

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}"
_V = "{urn:schemas-microsoft-com:vml}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_GONE = {f"{_W}{name}" for name in ("del", "moveFrom", "delText", "instrText", "rPr", "pPr", "sdtPr", "tblPr", "tcPr", "trPr")}
_GONE.add("{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback")
_LINE_BREAKS = {f"{_W}{name}" for name in ("br", "cr", "p")}
_OFF = ("0", "false", "off")
_STRICT = b"http://purl.oclc.org/ooxml/"
_ONLY_PAGE_NUMBER = re.compile(r"\W*(?:page|seite|p\.)?\W*\d{0,4}\W*(?:(?:of|von|/)\W*\d{0,4})?\W*", re.IGNORECASE)
_INCH = 914_400  # in English metric units
_GRAPHIC = "{http://schemas.openxmlformats.org/drawingml/2006/main}graphic"
_SIZE = re.compile(r"(?:^|;)\s*(width|height):([^;]*)")


def read_docx(file: Path, ocr: Ocr | None = None) -> ReadDocument:
    """Paragraphs, lists and tables under their headings. ocr: reads pictures. Raises DocumentError for a damaged file and one
    with a password."""
    package = Package(file, "a Word document")
    main = next((part for kind, part in package.related("") if kind == "officeDocument"), "word/document.xml")
    if _STRICT in package.data(main)[:4096]:
        raise DocumentError(f'{file} is a "Strict Open XML" document; save it as an ordinary Word document (.docx)')
    return _Word(package, main, ocr).read()


class _Word:
    def __init__(self, package: Package, main: str, ocr: Ocr | None) -> None:
        self._package, self._main = package, main
        self._outline = Outline()
        self._pictures = Pictures(ocr, package)
        self._named: dict[Any, dict[str, str]] = {}  # root of a part -> the names that it gives other parts
        self._parts = package.related(main)
        styles = self._roots("styles")
        self._styles = _style_table(styles)
        self._numbering = WordNumbering(self._roots("numbering"), styles)
        self._begun: list[str] = []  # a paragraph whose end is deleted or hidden: the next one goes on with it
        self._notes: dict[tuple[str, str], Any] = {}
        for kind, tag in (("footnotes", "footnote"), ("endnotes", "endnote"), ("comments", "comment")):
            for root in self._roots(kind):
                self._notes.update({(tag, note.get(f"{_W}id")): note for note in root.iter(f"{_W}{tag}")})
        self._waiting: list[Text] = []  # notes and pictures of the present paragraph
        self._unread: dict[str, int] = {}

    def _roots(self, kind: str) -> list[Any]:
        return [self._root(part) for type_, part in self._parts if type_ == kind]

    def _root(self, part: str) -> Any:
        root = self._package.xml(part)
        self._named[root] = self._package.embedded(part)
        return root

    def read(self) -> ReadDocument:
        body = self._root(self._main).find(f"{_W}body")
        if body is None:
            raise DocumentError(
                f"{self._package.file} cannot be read as a Word document (it has no body); open and save it again"
            )
        for kind, name in (("header", "Page header"), ("footer", "Page footer")):
            for text in dict.fromkeys(clean(self._text(root)) for root in self._roots(kind)):
                if not _ONLY_PAGE_NUMBER.fullmatch(text):
                    self._outline.add(f"{name}: {text}")
            self._flush_notes()
        self._add_all(body)
        self._end_begun()
        for key, note in list(self._notes.items()):  # what no place in the text refers to
            if note.get(f"{_W}type") is None:
                self._outline.add(self._note(key))
        self._flush_notes()
        unread = [not_read(count, what) for what, count in self._unread.items()]
        return ReadDocument(tuple(self._outline.finish()), tuple(unread + self._pictures.notes()))

    def _add_all(self, parent: Any) -> None:
        for element in parent:
            if element.tag == f"{_W}p":
                self._add_paragraph(element)
            elif element.tag == f"{_W}tbl":
                self._add_table(element)
            elif element.tag == f"{_W}altChunk":
                self._count("embedded file")
            elif element.tag not in _GONE:
                self._add_all(element)

    def _add_paragraph(self, paragraph: Any) -> None:
        names, level = self._style(paragraph)
        goes_on = _has_no_end(paragraph)
        label = "" if goes_on else self._numbering.label(paragraph)
        text = self._text(paragraph)
        if goes_on and (level is None or not text.strip()):
            self._begun.append(text)
            return
        text = "".join([*self._begun, text])
        self._begun.clear()
        if label and text.strip():
            text = f"{label} {text}"
        if level is not None:
            self._outline.heading(text, level)
        else:
            listed = self._numbering.place(paragraph) is not None
            item = listed or any(name.startswith("list") for name in names)
            for part in text.split("\n\n"):
                self._outline.add(part, "item" if item else "paragraph")
        self._flush_notes()

    def _end_begun(self) -> None:
        """Add what no paragraph goes on with."""
        self._outline.add("".join(self._begun))
        self._begun.clear()

    def _flush_notes(self) -> None:
        waiting, self._waiting = self._waiting, []
        for text, kind in waiting:
            self._outline.add(text, kind)

    def _style(self, paragraph: Any) -> tuple[list[str], int | None]:
        """Names of the paragraph's style and those it builds on, and the level of a heading (0 is the title)."""
        names: list[str] = []
        own = _value(paragraph, "w:pPr/w:outlineLvl")
        level = int(own) + 1 if own in set("012345678") else None
        style = _value(paragraph, "w:pPr/w:pStyle")
        while style in self._styles and len(names) < 10:
            name, style, outline = self._styles[style]
            names.append(name)
            if level is None and (name == "title" or name.startswith("heading")):
                digits = name.removeprefix("heading").strip()
                level = int(digits) if digits.isdigit() else 0
            elif level is None and outline is not None and outline < 9:
                level = outline + 1
        return names, level

    def _text(self, element: Any) -> str:
        """The text that Word shows below `element`; line breaks are kept. Notes wait until the paragraph ends."""
        parts: list[str] = []
        for child in element:
            tag = child.tag
            if tag == f"{_W}r":
                parts.append(self._run(child))
            elif tag == f"{_W}t":
                parts.append(child.text or "")
            elif tag in (f"{_W}tab", f"{_W}ptab"):
                parts.append(" ")
            elif tag == f"{_W}noBreakHyphen":
                parts.append("-")
            elif tag == f"{_W}sym":
                parts.append(_symbol(child))
            elif tag == f"{_M}oMath":
                parts.append(equation(child))
            elif tag in (f"{_W}footnoteReference", f"{_W}endnoteReference", f"{_W}commentReference"):
                parts.append(self._refer(child))
            elif tag == f"{_W}ffData":
                parts.append(_form_field(child))
            elif tag in (f"{_DRAWING}extent", f"{_V}imagedata"):
                self._add_picture(child)
            elif tag == f"{_DRAWING}docPr":
                parts.append(f" {child.get('descr') or ''} ")
            elif tag == f"{_W}object":
                self._count("embedded object")
            elif tag == f"{_W}tc":
                parts.append(self._text(child) + "\n")
            elif tag not in _GONE:
                if tag == f"{_W}p" and not _has_no_end(child) and (label := self._numbering.label(child)):
                    parts.append(f"{label} ")
                parts.append(self._text(child))
                if tag in _LINE_BREAKS:
                    parts.append("\n")
        return "".join(parts)

    def _run(self, run: Any) -> str:
        properties = run.find(f"{_W}rPr")
        if properties is None:
            return self._text(run)
        hidden = properties.find(f"{_W}vanish")
        if hidden is not None and hidden.get(f"{_W}val") not in _OFF:
            return ""
        align = _value(properties, "w:vertAlign")
        text = self._text(run)
        if text and align in ("superscript", "subscript") and not text.startswith(" ["):
            return (raised if align == "superscript" else lowered)(text)
        return text

    def _refer(self, reference: Any) -> str:
        key = (reference.tag.removeprefix(_W).removesuffix("Reference"), reference.get(f"{_W}id"))
        if key not in self._notes:
            return ""
        self._waiting.append((self._note(key), "paragraph"))
        return "" if key[0] == "comment" else f" [{key[1]}]"

    def _note(self, key: tuple[str, str]) -> str:
        kind, number = key
        note = self._notes.pop(key)
        text = clean(self._text(note))
        if kind == "comment":
            return comment(note.get(f"{_W}author"), text) if text else ""
        return f"{kind.capitalize()} {number}: {text}" if text else ""

    def _count(self, what: str) -> None:
        self._unread[what] = self._unread.get(what, 0) + 1

    def _add_picture(self, element: Any) -> None:
        """element: the size of a drawing, or a picture as older versions of Word keep it."""
        named = self._named.get(element.getroottree().getroot(), {})
        if element.tag == f"{_V}imagedata":
            if part := named.get(element.get(_ID)):
                self._waiting += self._pictures.text(part)
                size = dict(_SIZE.findall(element.getparent().get("style") or ""))
                self._pictures.leave(part, inches(size.get("width")), inches(size.get("height")))
            return
        frame = element.getparent()
        kinds = {str(data.get("uri")).rpartition("/")[2] for data in frame.iter() if str(data.tag).endswith("}graphicData")}
        if kinds & {"chart", "diagram"}:
            self._count("chart or diagram")
        elif self._pictures.wanted:
            for name, crop in shown_pictures(frame):
                if part := named.get(name):
                    self._waiting += self._pictures.text(part, crop)
        elif not _is_decoration(frame):
            wide, high = (float(side) / _INCH if (side := element.get(name) or "").isdigit() else 0 for name in ("cx", "cy"))
            for data in frame.iterfind(f"{_GRAPHIC}/*"):
                if str(data.get("uri")).endswith("/picture"):
                    for name, _ in shown_pictures(data):
                        self._pictures.leave(named.get(name, name), wide, high)

    def _add_table(self, table: Any) -> None:
        self._end_begun()
        rows = [row for row in _below(table, "tr") if row.find(f"{_W}trPr/{_W}del") is None]
        cells = [[cell for cell in _below(row, "tc") if cell.find(f"{_W}tcPr/{_W}cellDel") is None] for row in rows]
        if all(len(row) <= 1 for row in cells):  # a frame around paragraphs
            for row in cells:
                for cell in row:
                    self._add_all(cell)
            return
        made = self._spanned(rows, cells)
        add_table(self._outline, made, _head_rows(rows, made))
        self._flush_notes()

    def _spanned(self, rows: list[Any], cells: list[list[Any]]) -> list[list[Cell]]:
        """The cells with the rows that they span; Word marks each cell that continues the one above."""
        made: list[list[Cell]] = []
        above: dict[int, tuple[int, int]] = {}  # column -> row and place in `made` of the cell that may go on below
        for number, row in enumerate(cells):
            column = int(before) if (before := _value(rows[number], "w:trPr/w:gridBefore")).isdigit() else 0
            line: list[Cell] = [Cell("", colspan=column)] if column else []
            now: dict[int, tuple[int, int]] = {}
            for cell in row:
                span = int(wide) if (wide := _value(cell, "w:tcPr/w:gridSpan")).isdigit() else 1
                merge = cell.find(f"{_W}tcPr/{_W}vMerge")
                if merge is not None and merge.get(f"{_W}val") != "restart" and column in above:
                    first, place = now[column] = above[column]
                    old = made[first][place]
                    made[first][place] = Cell(old.text, number - first + 1, old.colspan, old.head)
                else:
                    if merge is not None:
                        now[column] = (number, len(line))
                    line.append(Cell(clean(self._text(cell)), 1, span, head=column == 0))
                column += span
            above = now
            made.append(line)
        return made


def _style_table(roots: list[Any]) -> dict[str, tuple[str, str, int | None]]:
    """Style id -> its name in lower case (Word keeps it in English), the style it builds on, its outline level."""
    found = {}
    for root in roots:
        for style in root.iter(f"{_W}style"):
            name, base, level = (_value(style, path) for path in ("w:name", "w:basedOn", "w:pPr/w:outlineLvl"))
            found[style.get(f"{_W}styleId", "")] = (name.lower(), base, int(level) if level.isdigit() else None)
    return found


def _below(parent: Any, name: str) -> Iterator[Any]:
    """The rows of a table or the cells of a row, also those in content controls."""
    for child in parent:
        if child.tag == f"{_W}{name}":
            yield child
        elif child.tag not in _GONE and child.tag not in (f"{_W}tr", f"{_W}tc", f"{_W}tbl"):
            yield from _below(child, name)


def _is_decoration(frame: Any) -> bool:
    """Whether its author says so of a picture."""
    return any(str(mark.tag).endswith("}decorative") and mark.get("val") not in _OFF for mark in frame.iter())


def _has_no_end(paragraph: Any) -> bool:
    """Whether the mark that ends a paragraph is deleted, moved away or hidden: it has no number then, and the next one goes on
    with its text. A mark of its own kind (specVanish) only puts a heading and the text after it on one line."""
    mark = paragraph.find(f"{_W}pPr/{_W}rPr")
    if mark is None:
        return False
    if mark.find(f"{_W}del") is not None or mark.find(f"{_W}moveFrom") is not None:
        return True
    hidden = mark.find(f"{_W}vanish")
    return hidden is not None and hidden.get(f"{_W}val") not in _OFF and mark.find(f"{_W}specVanish") is None


def _head_rows(rows: list[Any], cells: list[list[Cell]]) -> int:
    """How many rows at the top name the columns: marked so, all bold, or short names without figures."""
    count = 0
    while count < len(rows) and (rows[count].find(f"{_W}trPr/{_W}tblHeader") is not None or _is_bold(rows[count])):
        count += 1
    if not count and cells and looks_like_head([cell.text for cell in cells[0]]):
        count = 1
    if count:
        count = max(count, *(cell.rowspan for cell in cells[0]), 1)
    if count == 1 and len(cells) > 2 and any(cell.colspan > 1 for cell in cells[0]):
        below = [cell.text for cell in cells[1]]
        count += len(below) > len(cells[0]) and not any(character.isdigit() for text in below for character in text)
    return count if count < len(rows) else 0


def _is_bold(row: Any) -> bool:
    runs = [run for run in row.iter(f"{_W}r") if any((text.text or "").strip() for text in run.iter(f"{_W}t"))]
    marks = [run.find(f"{_W}rPr/{_W}b") for run in runs]
    return bool(runs) and all(mark is not None and mark.get(f"{_W}val") not in _OFF for mark in marks)


def _value(element: Any, path: str) -> str:
    found = element.find(path.replace("w:", _W))
    return "" if found is None else found.get(f"{_W}val") or ""


def _symbol(symbol: Any) -> str:
    """A letter of a symbol font as Unicode; Word writes its code in hexadecimal digits, often with F000 added."""
    try:
        code = int(symbol.get(f"{_W}char") or "", 16)
    except ValueError:
        return ""
    font = symbol.get(f"{_W}font") or ""
    known = dingbats.get((font, code & 0xFF if code >= 0xF000 else code))
    return chr(known if known else code) if code < 0x110000 else ""


def _form_field(field: Any) -> str:
    """What an old form field shows besides its text: the box of a check box, the choice of a list."""
    if (box := field.find(f"{_W}checkBox")) is not None:
        mark = box.find(f"{_W}checked")
        mark = box.find(f"{_W}default") if mark is None else mark
        return "☒ " if mark is not None and mark.get(f"{_W}val") not in _OFF else "☐ "
    if (choice := field.find(f"{_W}ddList")) is not None:
        entries = [entry.get(f"{_W}val") or "" for entry in choice.findall(f"{_W}listEntry")]
        number = _value(choice, "w:result") or "0"
        return entries[int(number)] if number.isdigit() and int(number) < len(entries) else ""
    return ""
