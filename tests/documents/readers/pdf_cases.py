"""PDF files, made with fpdf2, and by hand where it cannot."""

from __future__ import annotations

from fpdf import FPDF
from PIL import Image
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NullObject
from reader_cases import COLUMNS, FACT, STAFF, Cases

CASES = Cases()
LEFT = [
    "The lease begins on the first of",
    "March 2026 and runs for three full",
    "years unless it is ended early.",
    "",
    FACT[:32],
    FACT[33:],
]
RIGHT = [
    "Repairs below 150 euro are paid",
    "by the tenant, who must report all",
    "damage within a week in writing.",
    "",
    "Keys are handed over by Maria",
    "Lindgren on the fifth floor.",
]


def page(text=FACT, pdf=None):
    pdf = pdf or FPDF()
    pdf.set_auto_page_break(False)
    pdf.add_page()
    pdf.set_font("Helvetica", size=10)
    if text:
        pdf.multi_cell(0, 6, text, new_x="LMARGIN", new_y="NEXT")
    return pdf


def picture(pdf):
    pdf.add_page()
    pdf.image(Image.new("L", (60, 80), 200), x=0, y=0, w=210, h=297)


CASES.add(".pdf", "text", (FACT,))(lambda file: page().output(file))


@CASES.add(".pdf", "scanned pages among readable ones", (FACT,), note="pages 2 and 3 hold no text")
def scans(file):
    pdf = page()
    picture(pdf)
    picture(pdf)
    page("The last page.", pdf).output(file)


@CASES.add(".pdf", "a damaged page before a scanned one", (FACT,), note="^page 3 holds no text")
@CASES.add(".pdf", "a damaged page", (FACT,), note=r"^page 2 cannot be read \(damaged\)")
def damaged(file):
    pdf = page()
    page("It will be lost.", pdf)
    picture(pdf)
    pdf.output(file)
    writer = PdfWriter(PdfReader(file))
    writer.root_object["/Pages"]["/Kids"][1] = NullObject()
    writer.write(file)


@CASES.add(".pdf", "only scanned pages", refused="OCR")
def scan(file):
    pdf = FPDF()
    picture(pdf)
    pdf.output(file)


@CASES.add(".pdf", "form fields", ("Full name", "Maria Lindgren"), ("smoker", "☒"))
def form(file):
    text = "BT /F1 12 Tf 20 150 Td (Application of the tenant) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[5 0 R 6 0 R]/DA(/Helv 0 Tf 0 g)>>>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F1 7 0 R>>>>/Annots[5 0 R 6 0 R]>>",
        f"<</Length {len(text)}>>\nstream\n{text}\nendstream",
        "<</Type/Annot/Subtype/Widget/FT/Tx/T(name)/TU(Full name)/V(Maria Lindgren)/Rect[100 100 200 120]/P 3 0 R>>",
        "<</Type/Annot/Subtype/Widget/FT/Btn/T(smoker)/V/Yes/AS/Yes/AP<</N<</Yes 8 0 R/Off 8 0 R>>>>/Rect[9 6 11 7]/P 3 0 R>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        "<</Type/XObject/Subtype/Form/BBox[0 0 10 10]/Length 0>>\nstream\n\nendstream",
    ]
    out, places = "%PDF-1.7\n", []
    for number, made in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{made}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    out += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<</Size {size}/Root 1 0 R>>\nstartxref\n{len(out)}\n%%EOF\n"
    file.write_bytes(out.encode("latin-1"))


@CASES.add(".pdf", "comments", ("key is under the mat 4711",))
def comment(file):
    pdf = page()
    pdf.text_annotation(20, 60, "The key is under the mat 4711.")
    pdf.output(file)


@CASES.add(".pdf", "headers and footers", ("Contract 4821-K",), ("Clause 2", "the tenant"))
def running(file):
    pdf = FPDF()
    for number in range(4):
        page("Contract 4821-K, Velkor Foods", pdf)
        pdf.ln(12)
        pdf.multi_cell(0, 6, f"Clause {number}: it binds the landlord and\nthe tenant of flat {number} in equal measure.")
        pdf.set_y(-20)
        pdf.cell(0, 5, f"{number + 1}")
    pdf.output(file)


@CASES.add(
    ".pdf", "two columns drawn row by row", ("lease begins", "three full years"), (FACT,), ("handed over by Maria Lindgren",)
)
def columns(file):
    pdf = page("")
    for number, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True)):
        for x, text in ((15, left), (110, right)):
            pdf.set_xy(x, 20 + 5 * number)
            pdf.cell(80, 5, text)
    pdf.output(file)


@CASES.add(".pdf", "tables", *COLUMNS)
def ruled(file):
    pdf = page()
    with pdf.table() as table:
        for row in STAFF:
            table.row(row)
    pdf.output(file)


@CASES.add(".pdf", "tables without rules", *COLUMNS)
def unruled(file):
    pdf = page("")
    for number, row in enumerate([*STAFF, ["Cara Holm", "Oakport", "4713"]]):
        for x, text in zip((15, 70, 120), row, strict=True):
            pdf.set_xy(x, 20 + 6 * number)
            pdf.cell(40, 5, text)
    pdf.output(file)


@CASES.add(".pdf", "merged cells, rows of heads", ("North", "2024", "Revenue", "51"), ("South", "2025", "Cost", "42"))
def merged(file):
    pdf = page()
    with pdf.table(num_heading_rows=2) as table:
        row = table.row()
        row.cell("Region", rowspan=2)
        row.cell("2024", colspan=2)
        row.cell("2025", colspan=2)
        for texts in (
            ["Revenue", "Cost", "Revenue", "Cost"],
            ["North", "51", "31", "61", "41"],
            ["South", "52", "32", "62", "42"],
        ):
            table.row(texts)
    pdf.output(file)


@CASES.add(".pdf", "rotated pages", (FACT,), ("Second line of 4711",))
def rotated(file):
    upright = file.with_suffix(".upright")
    pdf = page(f"{FACT}\nSecond line of 4711.")
    with pdf.rotation(90, 100, 150):
        pass
    pdf.output(upright)
    writer = PdfWriter()
    writer.add_page(PdfReader(upright).pages[0].rotate(90))
    writer.write(file)
    upright.unlink()


@CASES.add(".pdf", "password", refused="needs a password")
def locked(file):
    pdf = FPDF()
    pdf.set_encryption(owner_password="owner", user_password="secret")
    page(FACT, pdf).output(file)


CASES.text(".pdf", "damaged", b"%PDF-1.4 broken", refused="damaged")
