"""What PDFium says of one page: pieces of text with their places, form fields, comments, and whether it is a picture.

Lengths are in points, y grows upwards on the page when it is turned so that its text stands upright.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from distilledprag.documents.passages import clean, comment
from distilledprag.documents.readers.layout import GAP, Line

_BOLD = re.compile(r"bold|black|heavy|cmbx", re.IGNORECASE)
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})
_SOFT_HYPHEN = "\x02"  # PDFium's sign for a hyphen that it found at the end of a line
PICTURE_SHARE = 0.5  # of the page: a picture this large may be a scan
FEW_LETTERS = 200
UNMAPPED_SHARE = 0.1


@dataclass(frozen=True)
class PageText:
    """rows: lines in the order of the page's text, each of one part or more; fields: `name: value`; picture: mostly one.

    unmapped: letters whose meaning the page's fonts do not tell; ruled: lines and boxes are drawn on it.
    """

    rows: list[list[Line]]
    fields: list[str]
    comments: list[str]
    picture: bool
    unmapped: int
    ruled: bool

    @property
    def needs_ocr(self) -> bool:
        """Whether it is a picture, or its fonts do not tell what a tenth of its letters mean."""
        letters = sum(len(part.text) for row in self.rows for part in row)
        return self.picture or self.unmapped > UNMAPPED_SHARE * letters


def read_page(document: pdfium.PdfDocument, page: pdfium.PdfPage) -> PageText:
    """Everything of a page that is text. `document`: its forms must have been initialised if it has any."""
    upright = _turn_upright(page)
    with contextlib.closing(page.get_textpage()) as text:
        rows, unmapped = _rows(page, text)
    fields, comments = _annotations(document, page)
    letters = sum(len(part.text) for row in rows for part in row)
    objects = (pdfium_c.FPDFPage_GetObject(page, number) for number in range(pdfium_c.FPDFPage_CountObjects(page)))
    kinds = Counter(map(pdfium_c.FPDFPageObj_GetType, objects))
    picture = False
    if letters < FEW_LETTERS and (kinds[pdfium_c.FPDF_PAGEOBJ_IMAGE] or kinds[pdfium_c.FPDF_PAGEOBJ_FORM]):
        width, height = page.get_size()
        for found in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=3):
            left, bottom, right, top = found.get_bounds()
            picture = picture or (right - left) * (top - bottom) >= PICTURE_SHARE * width * height
    drawn = bool(kinds) and not letters
    ruled = upright and 4 <= kinds[pdfium_c.FPDF_PAGEOBJ_PATH] <= 3000
    return PageText(rows, fields, comments, picture or drawn, unmapped, ruled)


def _turn_upright(page: pdfium.PdfPage) -> bool:
    """Turn the page so that most of its letters stand upright, which PDFium needs to find lines; whether they did before."""
    with contextlib.closing(page.get_textpage()) as text:
        count = pdfium_c.FPDFText_CountChars(text)
        angles = [pdfium_c.FPDFText_GetCharAngle(text, number) for number in range(0, count, max(1, count // 50))]
    turns = Counter(round(math.degrees(angle) / 90) % 4 * 90 for angle in angles if angle >= 0)
    turn = turns.most_common(1)[0][0] if turns else page.get_rotation()
    if turn == page.get_rotation():
        return True
    page.set_rotation(turn)
    return False


def _rows(page: pdfium.PdfPage, text: pdfium.PdfTextPage) -> tuple[list[list[Line]], int]:
    """The page's rows of text, cut where a wide gap is; and the number of letters without a known meaning."""
    raw = text.raw
    turn = page.get_rotation()
    _, _, width, height = page.get_mediabox()
    rows: list[list[Line]] = []
    part: list[str] = []
    first = last = -1
    begin: tuple[float, float] = (0.0, 0.0)
    end, size = 0.0, 1.0
    pending = ""
    unmapped = 0
    fresh = True  # the next part begins a row
    box = [ctypes.c_double() for _ in range(4)]
    origin = [ctypes.c_double() for _ in range(2)]

    def close_part() -> None:
        nonlocal fresh
        line = clean("".join(part).translate(_LIGATURES))
        if line:
            made = Line(line, begin[0], end, begin[1], size, _is_bold(raw, first) and _is_bold(raw, last))
            before = rows[-1][-1] if rows else None
            if (before and not fresh) or (before and abs(before.y - made.y) < 0.2 * size and before.end < made.x):
                rows[-1].append(made)
            else:
                rows.append([made])
            fresh = False
        part.clear()

    for number in range(pdfium_c.FPDFText_CountChars(raw)):
        character = _character(raw, number)
        if character in "\r\n":
            close_part()
            fresh, pending = True, ""
            continue
        if character.isspace():
            pending = " "
            continue
        if pdfium_c.FPDFText_HasUnicodeMapError(raw, number) == 1 or character in "\ufffd\0":
            unmapped += 1
        pdfium_c.FPDFText_GetCharOrigin(raw, number, *origin)
        pdfium_c.FPDFText_GetCharBox(raw, number, *box)  # left, right, bottom, top
        corners = ((box[0].value, box[2].value), (box[1].value, box[3].value))
        left, right = sorted(_turned(x, y, turn, width, height)[0] for x, y in corners)
        place = _turned(origin[0].value, origin[1].value, turn, width, height)
        if part and pending and left - end > GAP * size and abs(place[1] - begin[1]) < 0.5 * size:
            close_part()
            pending = ""
        if not part:
            first, begin = number, (min(place[0], left), place[1])
            size = pdfium_c.FPDFText_GetFontSize(raw, number) * _scale(raw, number)
        elif pending:
            part.append(" ")
        part.append("-" if character == _SOFT_HYPHEN else character)
        last, end, pending = number, right, ""
    close_part()
    return rows, unmapped


def _character(raw: Any, number: int) -> str:
    code = pdfium_c.FPDFText_GetUnicode(raw, number)
    if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        return "\ufffd"
    return chr(code)


def _scale(raw: Any, number: int) -> float:
    """How much the text's matrix enlarges its letters."""
    matrix = pdfium_c.FS_MATRIX()
    if not pdfium_c.FPDFText_GetMatrix(raw, number, matrix):
        return 1.0
    return float((matrix.c**2 + matrix.d**2) ** 0.5) or 1.0


def _turned(x: float, y: float, turn: int, width: float, height: float) -> tuple[float, float]:
    """A place on the page as it is shown. turn: degrees clockwise; width, height: of the page before it is turned."""
    return {0: (x, y), 90: (y, width - x), 180: (width - x, height - y), 270: (height - y, x)}[turn]


def _is_bold(raw: Any, number: int) -> bool:
    if number < 0:
        return False
    flags = ctypes.c_int()
    buffer = ctypes.create_string_buffer(128)
    pdfium_c.FPDFText_GetFontInfo(raw, number, buffer, 128, flags)
    return bool(_BOLD.search(buffer.value.decode("latin-1"))) or pdfium_c.FPDFText_GetFontWeight(raw, number) >= 600


def _annotations(document: pdfium.PdfDocument, page: pdfium.PdfPage) -> tuple[list[str], list[str]]:
    fields: list[str] = []
    comments: list[str] = []
    for annotation in _each(page):
        kind = pdfium_c.FPDFAnnot_GetSubtype(annotation)
        if kind == pdfium_c.FPDF_ANNOT_WIDGET:
            if document.formenv and (text := _field(document.formenv.raw, annotation)):
                fields.append(text)
            continue
        if kind in (pdfium_c.FPDF_ANNOT_POPUP, pdfium_c.FPDF_ANNOT_LINK):
            continue
        if text := clean(_string(pdfium_c.FPDFAnnot_GetStringValue, annotation, b"Contents")):
            author = clean(_string(pdfium_c.FPDFAnnot_GetStringValue, annotation, b"T"))
            comments.append(comment(author, text))
    return fields, comments


def _each(page: pdfium.PdfPage) -> Iterator[Any]:
    for number in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        if annotation := pdfium_c.FPDFPage_GetAnnot(page, number):
            try:
                yield annotation
            finally:
                pdfium_c.FPDFPage_CloseAnnot(annotation)


def _field(form: Any, annotation: Any) -> str:
    """`name: value` of a form field; empty for one that is not filled in and for buttons."""
    names = (pdfium_c.FPDFAnnot_GetFormFieldAlternateName, pdfium_c.FPDFAnnot_GetFormFieldName)
    name = next((text for get in names if (text := clean(_string(get, form, annotation)))), "")
    kind = pdfium_c.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind == pdfium_c.FPDF_FORMFIELD_CHECKBOX:
        value = "☒" if pdfium_c.FPDFAnnot_IsChecked(form, annotation) else "☐"
    elif kind == pdfium_c.FPDF_FORMFIELD_RADIOBUTTON:
        checked = pdfium_c.FPDFAnnot_IsChecked(form, annotation)
        value = clean(_string(pdfium_c.FPDFAnnot_GetFormFieldExportValue, form, annotation)) if checked else ""
    elif kind in (pdfium_c.FPDF_FORMFIELD_PUSHBUTTON, pdfium_c.FPDF_FORMFIELD_SIGNATURE):
        return ""
    else:
        value = clean(_string(pdfium_c.FPDFAnnot_GetFormFieldValue, form, annotation))
    return f"{name}: {value}" if value and name else value


def _string(get: Any, *arguments: Any) -> str:
    """A text that PDFium writes into a buffer as UTF-16."""
    size = get(*arguments, None, 0)
    if size <= 2:
        return ""
    buffer = (pdfium_c.FPDF_WCHAR * (size // 2))()
    get(*arguments, buffer, size)
    return bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")
