"""Scans: text drawn into pictures, which stand alone, in PDF files, in mail and within documents."""

from __future__ import annotations

import io
import shutil
import zipfile
from email.message import EmailMessage

import docx
import pptx
import pytest
from fpdf import FPDF
from PIL import Image, ImageDraw, ImageFont
from pptx.util import Inches
from reader_cases import COLUMNS, FACT, STAFF, Cases
from text_cases import book_of

from distilledprag.documents.readers.ocr import PROGRAM

CASES = Cases()
SUFFIXES = {".png", ".tiff"}
WITH = "scans, with --ocr"
LEFT = ["The lease begins on the first of", "March 2026 and runs for three full", "years unless it is ended early."]
RIGHT = ["Repairs below 150 euro are paid", "by the tenant, who must report all", "damage within a week in writing."]


def need_tesseract():
    if shutil.which(PROGRAM) is None:
        pytest.skip("the program tesseract is not installed (apt install tesseract-ocr)")


def drawn(lines, height=400):
    """lines: (x, y, text) in pixels, 150 to the inch."""
    picture = Image.new("L", (1240, height), 255)
    draw = ImageDraw.Draw(picture)
    for x, y, text in lines:
        draw.text((x, y), text, font=ImageFont.load_default(26), fill=0)
    return picture


def fact(text=FACT):
    return drawn([(100, 100, text)])


def save(picture, file, *more):
    picture.save(file, resolution=150, dpi=(150, 150), save_all=True, append_images=more)


CASES.add(".pdf", WITH, (FACT,), note="^page 1 was read by OCR", ocr=True)(lambda file: save(fact(), file))
CASES.add(".png", WITH, (FACT,), note="^page 1 was read by OCR", ocr=True)(lambda file: save(fact(), file))
CASES.add(".png", "only scanned pages", refused="--ocr")(lambda file: save(fact(), file))
CASES.add(".tiff", "only scanned pages", refused="--ocr")(lambda file: save(fact(), file))


@CASES.add(".tiff", WITH, (FACT,), ("handed over",), note="^pages 1 and 2 were read by OCR", ocr=True)
def two(file):
    save(fact(), file, fact("Keys are handed over by Maria."))


@CASES.add(".eml", WITH, ("Oakport bank",), note="attachment lease.pdf: page 1 was read by OCR", ocr=True)
def attached(file):
    save(fact(), file.with_suffix(".pdf"))
    message = EmailMessage()
    message["Subject"] = "The lease"
    message.set_content("It is attached.")
    message.add_attachment(file.with_suffix(".pdf").read_bytes(), maintype="application", subtype="pdf", filename="lease.pdf")
    file.write_bytes(message.as_bytes())


@CASES.add(
    ".pdf",
    "tables and columns in scans, with --ocr",
    *COLUMNS,
    ("first of March", "ended early"),
    ("150 euro", "in writing"),
    note="read by OCR",
    ocr=True,
)
def laid_out(file):
    staff = enumerate([*STAFF, ["Carla Voss", "Oxhill", "4713"]])
    cells = [(100 + 350 * column, 40 + 40 * row, text) for row, texts in staff for column, text in enumerate(texts)]
    pairs = enumerate(zip(LEFT, RIGHT, strict=True))
    save(drawn(cells + [(x, 280 + 40 * row, text) for row, pair in pairs for x, text in zip((80, 660), pair, strict=True)]), file)


@CASES.add(
    ".png",
    "tables and columns in scans, with --ocr",
    ("Item", "Copper kettle", "Price", "$48", "Stock", "112"),
    ("Oak stool", "Stock: 7"),
    note="read by OCR",
    ocr=True,
)
def figures(file):
    rows = [["Item", "Price", "Stock"], ["Copper kettle", "$48", "112"], ["Oak stool", "$130", "7"], ["Towel", "$19", "640"]]
    save(drawn([(40 + 400 * c, 20 + 60 * r, text) for r, row in enumerate(rows) for c, text in enumerate(row)], height=270), file)


@CASES.add(".pdf", "scans lying on their side, with --ocr", (FACT,), ("ended early",), note="read by OCR", ocr=True)
def turned(file):
    lines = [(100, 60 + 40 * row, text) for row, text in enumerate([FACT, *LEFT])]
    save(drawn(lines).rotate(90, expand=True), file)


@CASES.add(
    ".pdf", "scans under a line of text, with --ocr", (FACT,), ("Received 4711-K",), note="page 1 was read by OCR", ocr=True
)
def stamped(file):
    pdf = FPDF(format=(210, 60))
    pdf.add_page()
    pdf.image(drawn([(100, 200, FACT)], height=354), x=0, y=0, w=210, h=60)
    pdf.set_font("Helvetica", size=12)
    pdf.text(20, 20, "Received 4711-K")
    pdf.output(file)


# --- pictures within documents

WITHIN = "pictures within the text, with --ocr"
NOTE = "^1 picture was read by OCR"


def png(picture):
    made = io.BytesIO()
    picture.save(made, "PNG")
    return made


def screenshot():
    """Small letters, as a screen has them, on a background that is transparent."""
    picture = Image.new("RGBA", (560, 60), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((10, 20), FACT, font=ImageFont.load_default(15), fill=(250, 250, 250, 255))
    return picture


@CASES.add(".docx", WITHIN, (FACT,), ("It begins in March.",), note=NOTE, ocr=True)
def in_word(file):
    document = docx.Document()
    document.add_heading("The lease", 1)
    document.add_paragraph("It begins in March.")
    document.add_picture(png(screenshot()))
    document.save(str(file))


@CASES.add(".pptx", WITHIN, (FACT,), note=NOTE, ocr=True)
def on_a_slide(file):
    deck = pptx.Presentation()
    for _ in range(2):  # the same picture counts once
        slide = deck.slides.add_slide(deck.slide_layouts[5])
        slide.shapes.title.text = "The lease"
        slide.shapes.add_picture(png(screenshot()), 0, Inches(3))
    deck.save(str(file))


@CASES.add(".epub", WITHIN, (FACT,), ("The lease", "Chapter one"), note=NOTE, ocr=True)
def in_a_book(file):
    pages = ['<svg><image xlink:href="pictures/a%20scan.png"/></svg>', "<p>The lease, Chapter one</p>"]
    book_of(file, pages, [("O/pictures/a scan.png", png(fact()).getvalue())])


@CASES.add(".odt", WITHIN, (FACT,), note=NOTE, ocr=True)
def in_open_document(file):
    names = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in ("office", "text"))
    names += ' xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" xmlns:x="http://www.w3.org/1999/xlink"'
    body = '<text:p>It begins.<draw:frame><draw:image x:href="Pictures/a.png"/></draw:frame></text:p>'
    with zipfile.ZipFile(file, "w") as package:
        package.writestr(
            "content.xml", f"<office:document-content {names}><office:body>{body}</office:body></office:document-content>"
        )
        package.writestr("Pictures/a.png", png(fact()).getvalue())
