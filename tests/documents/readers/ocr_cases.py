"""Scans: text drawn into pictures, which stand alone, in PDF files and in mail."""

from __future__ import annotations

import shutil
from email.message import EmailMessage

import pytest
from fpdf import FPDF
from PIL import Image, ImageDraw, ImageFont
from reader_cases import COLUMNS, FACT, STAFF, Cases

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
