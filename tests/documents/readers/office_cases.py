"""Word, Excel, PowerPoint and OpenDocument files."""

from __future__ import annotations

import datetime
import io
import re
import zipfile

import docx
import openpyxl
import pptx
from docx.oxml import parse_xml
from openpyxl.comments import Comment
from PIL import Image
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches
from reader_cases import COLUMNS, FACT, HEADS, ROWS, STAFF, UNREAD, Cases

CASES = Cases()
NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)


# --- Word


def word(suffix, feature, *facts, **others):
    def keep(write):
        def make(file):
            document = docx.Document()
            write(document)
            document.save(str(file))

        CASES.add(suffix, feature, *facts, **others)(make)
        return write

    return keep


def xml(paragraph, source):
    """Append an element; the first name in `source` gets the namespaces."""
    paragraph._p.append(parse_xml(re.sub(r"^<[\w:]+", lambda name: f"{name[0]} {NAMESPACES}", source)))


word(".docx", "text", (FACT,))(lambda document: document.add_paragraph(FACT))


def add_part(file, name, kind, content):
    """Add a part such as footnotes to a document, which python-docx cannot."""
    with zipfile.ZipFile(file) as old:
        parts = {entry: old.read(entry) for entry in old.namelist()}
    relations = "word/_rels/document.xml.rels"
    address = f"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}"
    link = f'<Relationship Id="rId{kind}" Type="{address}" Target="{name}"/></Relationships>'
    parts[relations] = parts[relations].replace(b"</Relationships>", link.encode())
    parts[f"word/{name}"] = content.encode()
    with zipfile.ZipFile(file, "w") as new:
        for entry, data in parts.items():
            new.writestr(entry, data)


@CASES.add(".docx", "footnotes and endnotes", ("Footnote", "plus 19 percent tax"), ("Endnote", "see 4711"))
def notes(file):
    document = docx.Document()
    paragraph = document.add_paragraph("The rent is 2000 euro")
    xml(paragraph, '<w:r><w:footnoteReference w:id="2"/></w:r>')
    xml(paragraph, '<w:r><w:endnoteReference w:id="3"/></w:r>')
    document.save(str(file))
    for kind, number, text in (("footnote", 2, "plus 19 percent tax"), ("endnote", 3, "see 4711")):
        note = f'<w:{kind} w:id="{number}"><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:{kind}>'
        add_part(file, f"{kind}s.xml", f"{kind}s", f"<w:{kind}s {NAMESPACES}>{note}</w:{kind}s>")


@word(".docx", "headers and footers", ("Contract 4821-K",), ("Velkor Foods",), absent=["Page 1 of 3"])
def running(document):
    document.add_paragraph(FACT)
    document.sections[0].header.paragraphs[0].text = "Contract 4821-K"
    document.sections[0].footer.paragraphs[0].text = "Velkor Foods"
    document.sections[0].first_page_footer.paragraphs[0].text = "Page 1 of 3"
    document.sections[0].different_first_page_header_footer = True


@word(".docx", "comments", ("Anna", "key is under the mat 4711"))
def comments(document):
    paragraph = document.add_paragraph(FACT)
    document.add_comment(paragraph.runs, text="The key is under the mat 4711", author="Anna", initials="A")


@word(".docx", "equations", ("E=(a+b)/2", "x²"))
def equations(document):
    paragraph = document.add_paragraph("So ")
    run = "<m:r><m:t>{}</m:t></m:r>"
    half = f"<m:f><m:num>{run.format('a+b')}</m:num><m:den>{run.format('2')}</m:den></m:f>"
    square = f"<m:sSup><m:e>{run.format('x')}</m:e><m:sup>{run.format('2')}</m:sup></m:sSup>"
    xml(paragraph, f"<m:oMath>{run.format('E=')}{half}{run.format(',')}{square}</m:oMath>")


@word(".docx", "symbols", ("angle α is 30", "10⁶"))
def symbols(document):
    paragraph = document.add_paragraph("The angle ")
    xml(paragraph, '<w:r><w:sym w:font="Symbol" w:char="F061"/></w:r>')
    paragraph.add_run(" is 30 and its value 10")
    paragraph.add_run("6").font.superscript = True


@word(".docx", "deleted, moved and hidden text", ("Anna lives in Oakport",), absent=["Millport", "Tarnport", "secret"])
def tracked(document):
    paragraph = document.add_paragraph("Anna lives in ")
    xml(paragraph, '<w:del w:id="1"><w:r><w:delText>Millport</w:delText></w:r></w:del>')
    xml(paragraph, '<w:moveFrom w:id="2"><w:r><w:t>Tarnport</w:t></w:r></w:moveFrom>')
    xml(paragraph, '<w:moveTo w:id="3"><w:r><w:t>Oakport</w:t></w:r></w:moveTo>')
    xml(paragraph, "<w:r><w:rPr><w:vanish/></w:rPr><w:t>secret</w:t></w:r>")


@word(".docx", "form fields", ("Smoker", "☒"), ("City", "Oakport"))
def form(document):
    paragraph = document.add_paragraph("Smoker: ")
    xml(
        paragraph,
        '<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:checkBox><w:checked/></w:checkBox></w:ffData></w:fldChar></w:r>',
    )
    paragraph = document.add_paragraph("City: ")
    entries = '<w:result w:val="1"/><w:listEntry w:val="Millport"/><w:listEntry w:val="Oakport"/>'
    xml(paragraph, f'<w:r><w:fldChar w:fldCharType="begin"><w:ffData><w:ddList>{entries}</w:ddList></w:ffData></w:fldChar></w:r>')


def numbered(paragraph, num, level):
    xml(paragraph, "<w:pPr/>") if paragraph._p.pPr is None else None
    paragraph._p.pPr.append(parse_xml(f'<w:numPr {NAMESPACES}><w:ilvl w:val="{level}"/><w:numId w:val="{num}"/></w:numPr>'))


@word(".docx", "automatic numbers", ("4.2 " + FACT,), ("4.1 The rent",), ("(a) the keys",), absent=["4.2 The rent"])
def clauses(document):
    lists = document.part.numbering_part.element
    levels = "".join(
        f'<w:lvl w:ilvl="{n}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/><w:lvlText w:val="{text}"/></w:lvl>'
        for n, (start, form, text) in enumerate([(4, "decimal", "%1."), (1, "decimal", "%1.%2"), (1, "lowerLetter", "(%3)")])
    )
    lists.insert(0, parse_xml(f'<w:abstractNum {NAMESPACES} w:abstractNumId="90">{levels}</w:abstractNum>'))
    lists.append(parse_xml(f'<w:num {NAMESPACES} w:numId="90"><w:abstractNumId w:val="90"/></w:num>'))
    for level, text in enumerate(["Money", "The rent is 2000 euro a month.", "the keys"]):
        numbered(document.add_paragraph(text), 90, level)
    numbered(document.add_paragraph(FACT), 90, 1)


@word(".docx", "text boxes", ("Emergency number 4711",))
def box(document):
    paragraph = document.add_paragraph(FACT)
    inner = "<w:p><w:r><w:t>Emergency number 4711</w:t></w:r></w:p>"
    xml(paragraph, f"<w:r><w:pict><w:txbxContent>{inner}</w:txbxContent></w:pict></w:r>")


@word(".docx", "tables", *COLUMNS)
def table(document):
    made = document.add_table(rows=3, cols=3)
    for row, texts in zip(made.rows, STAFF, strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text


@word(".docx", "merged cells, rows of heads", *HEADS)
def merged(document):
    made = document.add_table(rows=4, cols=5)
    for number, texts in enumerate(ROWS):
        for cell, text in zip(made.rows[number].cells, texts, strict=True):
            cell.text = text
            for run in cell.paragraphs[0].runs:
                run.bold = number < 2
    for first, last in (((0, 0), (1, 0)), ((0, 1), (0, 2)), ((0, 3), (0, 4)), ((2, 0), (3, 0))):
        made.cell(*first).merge(made.cell(*last))


@word(".docx", UNREAD, (FACT,), note="^1 picture is not read$")
def pictures(document):
    document.add_paragraph(FACT)
    document.add_picture(png(), width=docx.shared.Inches(6), height=docx.shared.Inches(0.5))
    document.add_picture(png(), width=docx.shared.Inches(6), height=docx.shared.Inches(0.5))
    document.add_picture(png(10), width=docx.shared.Inches(2), height=docx.shared.Inches(0.7))


CASES.text(".docx", "password", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", refused="has a password")
CASES.text(".docx", "damaged", b"PK no zip", refused="cannot be read as a Word document")


def png(grey=200):
    buffer = io.BytesIO()
    Image.new("L", (60, 80), grey).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


@CASES.add(".docm", "text", (FACT,))
def macro(file):
    document = docx.Document()
    document.add_paragraph(FACT)
    document.save(str(file))
    with zipfile.ZipFile(file) as old:
        parts = {entry: old.read(entry) for entry in old.namelist()}
    plain = b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(
        plain, b"application/vnd.ms-word.document.macroEnabled.main+xml"
    )
    with zipfile.ZipFile(file, "w") as new:
        for entry, data in parts.items():
            new.writestr(entry, data)


# --- Excel


def excel(feature, *facts, **others):
    def keep(write):
        def make(file):
            book = openpyxl.Workbook()
            write(book)
            book.save(file)

        CASES.add(".xlsx", feature, *facts, **others)(make)
        return write

    return keep


@excel("tables", *COLUMNS, ("Rate", "12%", "Start", "2026-03-01"))
def sheet(book):
    for row in STAFF:
        book.active.append(row)
    second = book.create_sheet("Rent")
    second.append(["Flat", "Rate", "Start"])
    second.append([7, 0.12, datetime.date(2026, 3, 1)])
    second["B2"].number_format = "0%"


@excel("merged cells, rows of heads", *HEADS)
def merged_sheet(book):
    for row in ROWS:
        book.active.append(
            [int(text) if text in ("51", "31", "61", "41", "52", "32", "62", "42") else text or None for text in row]
        )
    for area in ("A1:A2", "B1:C1", "D1:E1", "A3:A4"):
        book.active.merge_cells(area)


@excel("comments", ("key is under the mat 4711",))
def sheet_comment(book):
    for row in STAFF:
        book.active.append(row)
    book.active["C2"].comment = Comment("The key is under the mat 4711", "Anna")


@excel("headers and footers", ("Contract 4821-K",))
def sheet_header(book):
    book.active.append([FACT])
    book.active.oddHeader.center.text = "Contract 4821-K"


@excel("formulas without a value", (FACT,), note="1 formula is not read")
def formula(book):
    book.active.append([FACT, "=1+1"])


CASES.text(".xlsx", "password", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", refused="has a password")
CASES.text(".xlsx", "damaged", b"PK no zip", refused="cannot be read as an Excel workbook")


# --- PowerPoint


def slides(feature, *facts, **others):
    def keep(write):
        def make(file):
            deck = pptx.Presentation()
            slide = deck.slides.add_slide(deck.slide_layouts[1])
            slide.shapes.title.text = "Terms"
            write(deck, slide)
            deck.save(str(file))

        CASES.add(".pptx", feature, *facts, **others)(make)
        return write

    return keep


@slides("text", (FACT,), ("rent of 4711",))
def text_slide(deck, slide):
    slide.placeholders[1].text = FACT
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(2), Inches(1)).text_frame.text = "The rent of 4711"


@slides("tables", *COLUMNS)
def table_slide(deck, slide):
    made = slide.shapes.add_table(3, 3, 0, 0, Inches(4), Inches(2)).table
    for number, texts in enumerate(STAFF):
        for column, text in enumerate(texts):
            made.cell(number, column).text = text


@slides("charts", ("2025", "North", "61"))
def chart_slide(deck, slide):
    data = CategoryChartData()
    data.categories = ["2024", "2025"]
    data.add_series("North", (51, 61))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), data)


@slides("speaker notes", ("key is under the mat 4711",))
def speaker(deck, slide):
    slide.notes_slide.notes_text_frame.text = "The key is under the mat 4711"


@slides("scanned pages among readable ones", (FACT,), note="only pictures on slide 2")
def picture_slide(deck, slide):
    slide.placeholders[1].text = FACT
    deck.slides.add_slide(deck.slide_layouts[6]).shapes.add_picture(png(), 0, 0, Inches(5))


@slides(UNREAD, (FACT,), note="^1 picture is not read$")
def picture_beside_text(deck, slide):
    slide.placeholders[1].text = FACT
    slide.shapes.add_picture(png(), 0, 0, Inches(5))
    slide.shapes.add_picture(png(10), 0, 0, Inches(1))
    again = deck.slides.add_slide(deck.slide_layouts[5])
    again.shapes.title.text = "More"
    again.shapes.add_picture(png(), 0, 0, Inches(5))


CASES.text(".pptx", "damaged", b"PK no zip", refused="cannot be read as a PowerPoint presentation")


# --- OpenDocument

ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text", "table", "style")
)


def odt(feature, body, *facts, styles="", manifest="", **others):
    def make(file):
        with zipfile.ZipFile(file, "w") as package:
            whole = f"<office:body><office:text>{body}</office:text></office:body>"
            package.writestr("content.xml", f"<office:document-content {ODF}>{whole}</office:document-content>")
            package.writestr("styles.xml", f"<office:document-styles {ODF}>{styles}</office:document-styles>")
            package.writestr("META-INF/manifest.xml", f"<manifest>{manifest}</manifest>")

    CASES.add(".odt", feature, *facts, **others)(make)


def odf_cells(texts):
    return "".join(f"<table:table-cell><text:p>{text}</text:p></table:table-cell>" for text in texts)


def odf_spanned(text, rows=1, columns=1):
    spans = f'table:number-rows-spanned="{rows}" table:number-columns-spanned="{columns}"'
    return f"<table:table-cell {spans}><text:p>{text}</text:p></table:table-cell>"


NOTE = (
    '<text:note text:note-class="{0}note"><text:note-citation>1</text:note-citation><text:note-body>'
    "<text:p>{1}</text:p></text:note-body></text:note>"
)
COVERED = "<table:covered-table-cell/>"
odt("text", f"<text:p>{FACT}</text:p>", (FACT,))
odt(
    "footnotes and endnotes",
    f"<text:p>The rent{NOTE.format('foot', 'plus 19 percent tax')} is 2000{NOTE.format('end', 'see 4711')}.</text:p>",
    ("Footnote", "plus 19 percent tax"),
    ("Endnote", "see 4711"),
)
odt(
    "headers and footers",
    f"<text:p>{FACT}</text:p>",
    ("Contract 4821-K",),
    styles="<style:header><text:p>Contract 4821-K</text:p></style:header>",
)
odt(
    "comments",
    f"<text:p>{FACT}<office:annotation><text:p>The key is under the mat 4711</text:p></office:annotation></text:p>",
    (FACT,),
    ("Comment", "key is under the mat 4711"),
)
odt(
    "deleted, moved and hidden text",
    "<text:tracked-changes><text:changed-region><text:deletion><text:p>Millport</text:p></text:deletion></text:changed-region>"
    f"</text:tracked-changes><text:p>{FACT}</text:p>",
    (FACT,),
    absent=["Millport"],
)
odt(
    "tables",
    "<table:table>" + "".join(f"<table:table-row>{odf_cells(row)}</table:table-row>" for row in STAFF) + "</table:table>",
    *COLUMNS,
)
odt(
    "merged cells, rows of heads",
    "<table:table><table:table-header-rows>"
    f"<table:table-row>{odf_spanned('Region', rows=2)}{odf_spanned('2024', columns=2)}{COVERED}"
    f"{odf_spanned('2025', columns=2)}{COVERED}"
    f"</table:table-row><table:table-row>{COVERED}{odf_cells(ROWS[1][1:])}</table:table-row></table:table-header-rows>"
    f"<table:table-row>{odf_spanned('North', rows=2)}{odf_cells(ROWS[2][1:])}</table:table-row>"
    f"<table:table-row>{COVERED}{odf_cells(ROWS[3][1:])}</table:table-row></table:table>",
    *HEADS,
)
ITEM = "<text:list-item>{}</text:list-item>"
odt(
    "automatic numbers",
    '<text:list text:style-name="L1">'
    + ITEM.format(
        "<text:p>Money</text:p><text:list>"
        + ITEM.format("<text:p>The rent is 2000 euro a month.</text:p>")
        + ITEM.format(f"<text:p>{FACT}</text:p>")
        + "</text:list>"
    )
    + "</text:list>",
    ("4.2 " + FACT,),
    ("4.1 The rent",),
    styles='<text:list-style style:name="L1">'
    '<text:list-level-style-number text:level="1" style:num-format="1" style:num-suffix="." text:start-value="4"/>'
    '<text:list-level-style-number text:level="2" style:num-format="1" text:display-levels="2"/></text:list-style>',
)
DRAWING = (
    'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" xmlns:x="http://www.w3.org/1999/xlink" '
    'xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"'
)
FRAME = f'<draw:frame {DRAWING} svg:width="{{}}cm" svg:height="{{}}cm">{{}}</draw:frame>'
IMAGE = '<draw:image x:href="{}"/>'
odt(
    UNREAD,
    f"<text:p>{FACT}" + FRAME.format(15, 1.5, IMAGE.format("a.png")) + FRAME.format(1, 1, IMAGE.format("b.png")) + "</text:p>",
    (FACT,),
    note="^1 picture is not read$",
)
odt(
    "charts",
    f"<text:p>{FACT}" + FRAME.format(9, 9, '<draw:object x:href="./Object 1"/>' + IMAGE.format("./Object 2")) + "</text:p>",
    (FACT,),
    note="^1 chart or embedded object is not read$",
)
odt("password", "", refused="needs a password", manifest="<encryption-data/>")
CASES.text(".odt", "damaged", b"PK no zip", refused="cannot be read as an OpenDocument text")
