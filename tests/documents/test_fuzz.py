"""Truncated, bit-flipped, spliced and generated files of every type: passages or one message that names the file, never a fault,
and never a wait beyond the limits."""

from __future__ import annotations

import functools
import io
import json
import random
import time
import zipfile
from collections import Counter
from pathlib import Path

import hostile_files
import lxml.etree
import openpyxl
import pptx
import pytest

from distilledprag.documents.limits import Limits
from distilledprag.documents.readers import READERS
from distilledprag.documents.reading import ReadingPool
from distilledprag.errors import DocumentError

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
OUTLOOK = Path(__file__).parents[1] / "data" / "outlook"
PIECES = {
    "text": ["Anna lives in Oakport. ", "\n", "\n\n", "====", "ALL CAPITALS", "\ufeff", "\u200b", "\0", "e.g. ", "…", "\u2028"],
    "markdown": ["# ", "* ", "_", "**", "`", "```\n", "[a](b", "![", "| a | b |\n|---|---|\n", "> ", "---\n", "1. ", "<b>"],
    "html": ["<p>", "</p>", "<table>", "<tr>", "<td rowspan=9>", "<td colspan=0>", "<th>", "<ul><li>", "<h1>", "<!--",
             "<![CDATA[", "<script>", "<style>", "&#x110000;", "&nbsp;", "<meta charset=utf-7>", "<dl><dt>", "<br>", "<svg>"],
    "json": ["{", "}", "[", "]", '"text"', ":", ",", '"a"', "null", "1e999", "\\ud800", '{"text": "Anna."}', '{"text": 3}', "\n"],
    "word": ["<w:p>", "</w:p>", "<w:r><w:t>Anna</w:t></w:r>", "<w:tbl>", "</w:tbl>", "<w:tr>", "</w:tr>", "<w:tc>", "</w:tc>",
             '<w:pPr><w:pStyle w:val="s1"/></w:pPr>', "<w:ins>", "<w:del>", "<w:sdt>", "<w:tab/>", "<w:br/>", "<w:sym/>"],
    "pdf": ["BT ", "ET ", "(Anna) Tj ", "/F1 12 Tf ", "1 0 0 1 50 700 Tm ", "0 0 0 0 0 0 cm ", "<41> Tj ", "[(A) -9e9 (b)] TJ ",
            "q ", "Q ", "T* ", "/X Do ", "(\u200b) Tj ", "99999999999 Tz ", "BI ID EI "],
}  # fmt: skip
OF_KIND = {"csv": ("text", "json"), "tsv": ("text", "json"), "eml": ("text", "html"), "rtf": ("text", "markdown"),
           "docm": ("word",), "pdf": ("pdf",), "docx": ("word",), "json": ("json",), "jsonl": ("json", "text"),
           "html": ("html", "text"), "htm": ("html",), "md": ("markdown", "text", "html"), "markdown": ("markdown",)}  # fmt: skip


def zipped(parts):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return file.getvalue()


def workbook():
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in (["Name", "City", "Since"], ["Anna", "Oakport", 1987], ["Ben", "Millport", "=1+1"]):
        book.active.append(row)
    book.save(file)
    return file.getvalue()


def slides():
    show, file = pptx.Presentation(), io.BytesIO()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "Staff"
    slide.placeholders[1].text = "Anna lives in Oakport."
    show.save(file)
    return file.getvalue()


def text_document():
    names = 'xmlns:o="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:t="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    body = "<o:body><o:text><t:h>Staff</t:h><t:p>Anna lives in Oakport.</t:p></o:text></o:body>"
    content = f"<o:document-content {names}>{body}</o:document-content>"
    return zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content})


def book():
    container = '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>'
    items = '<manifest><item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/></spine>'
    page = "<html><body><h1>Staff</h1><p>Anna lives in Oakport.</p></body></html>"
    parts = {"META-INF/container.xml": container, "b.opf": f"<package>{items}</package>", "a.xhtml": page}
    return zipped({"mimetype": "application/epub+zip", **parts})


MADE = {
    "xlsx": workbook, "xlsm": workbook, "pptx": slides, "pptm": slides, "odt": text_document, "epub": book,
    "csv": lambda: b"Name;City\nAnna;Oakport\n\"Ben; B.\";Millport\n", "tsv": lambda: b"Name\tCity\nAnna\tOakport\n",
    "rtf": lambda: rb"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 Anna lives in Oakport.\par Caf\'e9 \u8364?\par}",
    "eml": lambda: b"From: a@b.example\nSubject: Staff\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\n"
                   b"Anna lives in Oakport.\n--x\nContent-Type: text/html\n\n<p>Ben</p>\n--x--\n",
}  # fmt: skip
ZIPPED = ("docx", "docm", "xlsx", "xlsm", "pptx", "pptm", "odt", "epub")


@functools.cache
def samples(kind):
    """Whole files of a type."""
    alike = {"docm": "docx", "markdown": "md"}.get(kind, kind)
    found = [file.read_bytes() for file in sorted(EXAMPLES.iterdir()) if file.suffix == f".{alike}"]
    if kind in MADE:
        found = [MADE[kind]()]
    if kind == "msg":
        found = [file.read_bytes() for file in sorted(OUTLOOK.glob("*.msg"))]
    return tuple(found) or (b"Anna lives in Oakport.\n\nShe works for Velkor Foods.\n" * 5,)


def generated(draw, kind):
    """A file of pieces of its language in any order."""
    pieces = [piece for name in OF_KIND.get(kind, ("text",)) for piece in PIECES[name]]
    text = "".join(draw.choices([*pieces, "Anna ", "7 "], k=draw.randint(1, 120)))
    if kind in ZIPPED and kind not in ("docx", "docm"):
        return repacked(draw, kind)
    if kind == "msg":
        return changed(draw, draw.choice(samples(kind)), kind)
    if kind in ("docx", "docm"):
        if draw.random() < 0.7:  # close what is open
            healed = lxml.etree.fromstring(f"<w:b {hostile_files.WORD}>{text}</w:b>", lxml.etree.XMLParser(recover=True))
            text = "".join(lxml.etree.tostring(child, encoding="unicode") for child in healed)
        return hostile_files.docx(text)
    if kind in ("json", "jsonl") and draw.random() < 0.5:
        rows = [
            draw.choice(({"text": "Anna."}, {"contents": "Ben."}, {"text": "A", "title": 3}, []))
            for _ in range(draw.randint(1, 3))
        ]
        return json.dumps(rows).encode() if kind == "json" else b"\n".join(json.dumps(row).encode() for row in rows)
    if kind == "pdf":
        font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
        content = text.encode("utf-8")
        stream = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)
        return hostile_files.pdf(
            [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>", page, stream, font]
        )
    return text.encode(draw.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig", "cp1252")), "replace")


def repacked(draw, kind):
    """A sample with one of its parts changed and the archive sound: a changed archive itself seldom gets past its checksums."""
    with zipfile.ZipFile(io.BytesIO(draw.choice(samples(kind)))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(sorted(parts))
    parts[name] = changed(draw, parts[name] or b" ", kind)
    return zipped(parts)


def mutated(draw, kind):
    if kind in ZIPPED and draw.random() < 0.5:
        return repacked(draw, kind)
    return changed(draw, draw.choice(samples(kind)), kind)


def changed(draw, whole, kind):
    data = bytearray(whole)
    how = draw.choice(("cut", "flip", "flip", "splice", "repeat", "other type"))
    place = draw.randrange(len(data))
    if how == "cut":
        return bytes(data[:place])
    if how == "flip":
        for _ in range(draw.choice((1, 3, 30))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "splice":
        other = draw.choice(samples(draw.choice(sorted(READERS))[1:]))
        data[place : place + draw.randrange(200)] = other[draw.randrange(len(other)) :][: draw.randrange(1, 2000)]
    elif how == "repeat":
        piece = data[place : place + draw.randrange(1, 300)]
        data[place:place] = piece * draw.randint(1, 60)
    else:
        data = bytearray(draw.choice(samples(draw.choice(sorted(READERS))[1:])))
    return bytes(data)


def check_inputs(folder, pool, count):
    """Give `count` files to the pool; how each type ended."""
    draw, ends, slowest = random.Random(13), Counter(), (0.0, "")
    for number in range(count):
        kind = sorted(READERS)[number % len(READERS)].removeprefix(".")
        data = generated(draw, kind) if draw.random() < 0.5 else mutated(draw, kind)
        file = folder / f"input-{number}.{kind}"
        file.write_bytes(data)
        begun = time.perf_counter()
        try:
            document = pool.read(file, 80)
            assert document.passages and all(passage.text.strip() for passage in document.passages)
            assert all(len(passage.text.split()) <= 80 for passage in document.passages)
            end = "read"
        except DocumentError as error:
            message = str(error)
            assert str(file) in message, message
            assert "was not read within" not in message, f"{message}: input {number}"
            end = "crashed its reader" if "made its reader crash" in message else "refused"
        ends[kind, end] += 1
        slowest = max(slowest, (time.perf_counter() - begun, file.name))
        file.unlink()
    return ends, slowest


def report(ends, slowest, capsys):
    with capsys.disabled():
        rows = {f"{kind} {end}": count for (kind, end), count in sorted(ends.items())}
        print("\n" + json.dumps({"inputs": sum(ends.values()), "ends": rows, "slowest_seconds": slowest}))


def test_two_hundred_damaged_and_generated_files_are_read_or_refused_by_name(tmp_path, reading):
    ends, _ = check_inputs(tmp_path, reading, 200)
    assert not [kind for kind, end in ends if end == "crashed its reader"]
    often = {"txt", "md", "html", "pdf", "docx", "json", "jsonl", "xlsx", "csv", "odt", "eml"}
    assert often <= {kind for kind, end in ends if end == "read"}  # what is refused whatever it holds tests nothing


@pytest.mark.slow
def test_six_thousand_damaged_and_generated_files_are_read_or_refused_by_name(tmp_path, capsys):
    with ReadingPool(Limits(cpu=20)) as pool:
        ends, slowest = check_inputs(tmp_path, pool, 6000)
    report(ends, slowest, capsys)
    assert not [kind for kind, end in ends if end == "crashed its reader"]
