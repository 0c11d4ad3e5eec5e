"""Pictures within documents: where their text goes, what is not read, and that no picture costs its document anything.

In the place of tesseract stands a reader that says the width of what it is shown, and how dark its corner and its middle are.
"""

from __future__ import annotations

import io
import time
import zipfile
from dataclasses import dataclass

import docx
import pptx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from ocr_cases import png
from PIL import Image, ImageDraw
from pptx.util import Inches
from text_cases import book_of

from distilledprag.documents.loading import load_document
from distilledprag.documents.readers.layout import Line
from distilledprag.documents.readers.ocr import Ocr, Recognised
from distilledprag.errors import DocumentError


@dataclass(frozen=True)
class Said(Ocr):
    """empty: pictures of this width hold no text; doubted: of these it is unsure; slow: these take a quarter of a second."""

    empty: int = 0
    doubted: int = 0
    slow: int = 0

    def recognise(self, picture, dpi=None, **_):
        with Image.open(io.BytesIO(picture)) as shown:
            width = shown.width * 96 // dpi
            dark = [shown.getpixel(place) < 128 for place in ((0, 0), (shown.width // 2, shown.height // 2))]
        time.sleep(0.25 if width == self.slow else 0)
        if width == self.empty:
            return [Recognised([], 0, 0)]
        lines = [(f"Heading {width}", 30.0), (f"Words of picture {width} {dark}.", 10.0)]
        rows = [[Line(text, 0, 90, 700 - 100 * n, size, bold=False)] for n, (text, size) in enumerate(lines)]
        return [Recognised(rows, 6, 4 if width == self.doubted else 1)]


def plain(width, height=40):
    return Image.new("L", (width, height), 255)


def texts(file, ocr=None):
    loaded = load_document(file, ocr=ocr or Said())
    return [(passage.title, passage.text) for passage in loaded.passages], loaded.notes


def said(width, dark="[False, False]"):
    return [f"Heading {width}: Words of picture {width} {dark}."]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "document.docx"


def word(file, *pictures):
    document = docx.Document()
    document.add_paragraph("The lease begins in March.")
    for picture in pictures:
        document.add_picture(picture)
    document.save(str(file))


def test_the_text_of_a_picture_stands_where_the_picture_does_and_its_headings_are_not_the_documents(file):
    document = docx.Document()
    document.sections[0].header.paragraphs[0].add_run("Velkor").add_picture(png(plain(50)))
    document.add_heading("Lease", 1)
    document.add_paragraph("First ").add_run().add_picture(png(plain(51)))
    document.add_paragraph("Second")
    table = document.add_table(rows=2, cols=2)
    for number in range(4):
        table.cell(number // 2, number % 2).text = f"cell {number}"
    table.cell(0, 1).paragraphs[0].add_run().add_picture(png(plain(52)))
    hidden = document.add_paragraph("Third").add_run()
    hidden.add_picture(png(plain(53)))
    hidden.font.hidden = True
    old = document.part.relate_to(
        document.part.package.get_or_add_image_part(png(plain(54))), docx.opc.constants.RELATIONSHIP_TYPE.IMAGE
    )
    names = nsdecls("w", "r") + ' xmlns:v="urn:schemas-microsoft-com:vml"'
    picture = f'<w:r {names}><w:pict><v:shape><v:imagedata r:id="{old}"/></v:shape></w:pict></w:r>'
    document.add_paragraph("Fourth")._p.append(parse_xml(picture))
    document.save(str(file))
    found, notes = texts(file)
    order = [text for title, text in found if title in ("", "Lease")]
    assert order == [
        "Page header: Velkor", *said(50), "First", *said(51), "Second", "cell 0: cell 1; cell 2: cell 3", *said(52), "Third",
        "Fourth", *said(54),
    ]  # fmt: skip
    assert {title for title, _ in found[2:]} == {"Lease"}
    assert notes == ("4 pictures were read by OCR (4 of 24 words are in doubt)",)
    assert not [text for _, text in texts(file, ocr=None or Said(pictures=0))[0] if "picture" in text]


def test_a_slide_shows_its_pictures_after_its_words_and_each_picture_once(tmp_path):
    deck = pptx.Presentation()
    for number in range(2):
        slide = deck.slides.add_slide(deck.slide_layouts[5])
        slide.shapes.title.text = f"Slide {number}"
        group = slide.shapes.add_group_shape()
        group.shapes.add_picture(png(plain(60)), 0, 0)
        cropped = slide.shapes.add_picture(png(plain(200)), 0, Inches(2))
        cropped.crop_left, cropped.crop_right = 0.25, 0.25 * number
    deck.slides.add_slide(deck.slide_layouts[6]).shapes.add_picture(png(plain(70)), 0, 0)
    deck.save(str(tmp_path / "deck.pptx"))
    found, notes = texts(tmp_path / "deck.pptx", Said(empty=70))
    found = [(title, text) for title, text in found if text != "image.png"]  # a picture's description
    assert found == [
        *(("Slide 0", text) for text in (*said(60), *said(150))), *(("Slide 1", text) for text in said(100))
    ]  # fmt: skip
    assert notes == (
        "3 pictures were read by OCR (3 of 18 words are in doubt)",
        "only pictures on slide 3; OCR finds no text in them",
    )


def test_a_slide_or_page_whose_picture_was_read_before_or_not_at_all_is_not_said_to_hold_no_text(tmp_path):
    large = io.BytesIO(bytes_of(Image.new("1", (8000, 8000))))
    deck = pptx.Presentation()
    for picture in (png(plain(60)), png(plain(60)), large, png(plain(70)), png(plain(70))):
        deck.slides.add_slide(deck.slide_layouts[6]).shapes.add_picture(picture, 0, 0)
    deck.save(str(tmp_path / "deck.pptx"))
    assert texts(tmp_path / "deck.pptx", Said(empty=70))[1] == (
        "1 picture was read by OCR (1 of 6 words are in doubt)",
        "1 picture not read by OCR: more than 50 million pixels",
        "only pictures on slide 4, 5; OCR finds no text in them",
    )
    named = {"a": plain(60), "b": plain(70), "c": Image.new("1", (8000, 8000))}
    pictures = [(f"O/{name}.png", bytes_of(picture)) for name, picture in named.items()]
    book_of(tmp_path / "a.epub", [f"<img src='{name}.png'/>" for name in "acaabb"], pictures)
    assert "2 pages hold only pictures, in which OCR finds no text" in texts(tmp_path / "a.epub", Said(empty=70))[1]


def test_pictures_of_a_book_are_found_from_its_pages_and_hidden_ones_are_not_read(tmp_path):
    pages = [
        "<p>One.</p><img src='a.png'/><p>Two.</p><p style='display:none'><img src='b.png'/></p>",
        "<h1><img src='c.png'/></h1><table><tr><td><img src='d.png'/></td><td>Cell</td></tr></table><img src='http://x/e.png'/>",
    ]
    pictures = [(f"O/{name}.png", png(plain(80 + n)).getvalue()) for n, name in enumerate("abcd")]
    book_of(tmp_path / "a.epub", list(reversed(pages)), pictures)
    found, notes = texts(tmp_path / "a.epub")
    assert [text for _, text in found] == ["One.", *said(80), "Two.", *said(82), f"{said(83)[0]}: Cell"]
    assert found[-1][0] == said(82)[0] and notes[0].startswith("3 pictures were read")


def test_an_equations_picture_is_not_read_beside_it_and_of_the_same_picture_in_two_formats_one_is(tmp_path):
    spaces = "".join(
        f' xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
        for short, long in (("office", "office"), ("text", "text"), ("draw", "drawing"))
    )
    frames = (
        '<draw:object xlink:href="./Object 1"/><draw:image xlink:href="./ObjectReplacements/Object 1"/>',
        '<draw:image xlink:href="Pictures/a.svg"/><draw:image xlink:href="Pictures/a.png"/>',
    )
    paragraphs = "".join(f"<text:p>Text <draw:frame>{frame}</draw:frame></text:p>" for frame in frames)
    body = f"<office:body><office:text>{paragraphs}</office:text></office:body>"
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as made:
        made.writestr(
            "content.xml",
            f'<office:document-content{spaces} xmlns:xlink="http://www.w3.org/1999/xlink">{body}</office:document-content>',
        )
        made.writestr("Object 1/content.xml", '<math xmlns="http://www.w3.org/1998/Math/MathML"><mi>a</mi></math>')
        made.writestr("ObjectReplacements/Object 1", bytes_of(plain(90)))
        made.writestr("Pictures/a.svg", "<svg/>")
        made.writestr("Pictures/a.png", bytes_of(plain(91)))
    found, notes = texts(tmp_path / "a.odt")
    assert [text for _, text in found] == ["Text a", "Text", *said(91)]
    assert notes == ("1 picture was read by OCR (1 of 6 words are in doubt)",)


@pytest.mark.parametrize(("letters", "dark"), [((0, 0, 0, 255), "[False, True]"), ((255, 255, 255, 255), "[True, False]")])
def test_letters_on_a_transparent_background_stand_out_from_it(file, letters, dark):
    picture = Image.new("RGBA", (90, 40), (0, 0, 0, 0))
    ImageDraw.Draw(picture).rectangle((30, 10, 60, 30), fill=letters)
    word(file, png(picture))
    assert texts(file)[0][1:] == [("", text) for text in said(90, dark)]


def test_letters_of_a_picture_with_16_bits_a_pixel_are_seen(file):
    picture = Image.new("I;16", (90, 40), 60_000)
    picture.paste(20_000, (30, 10, 60, 30))
    word(file, png(picture))
    assert texts(file)[0][1:] == [("", text) for text in said(90, "[False, True]")]


def bytes_of(picture, **options):
    made = io.BytesIO()
    picture.save(made, "PNG", **options)
    return made.getvalue()


def test_what_cannot_be_read_is_noted_and_costs_the_document_nothing(file):
    damaged = bytearray(bytes_of(Image.effect_noise((300, 300), 90)))
    damaged[1000:1100] = bytes(100)
    large = [io.BytesIO(bytes_of(Image.new("1", size))) for size in ((8000, 8000), (15_000, 12_000))]
    word(file, *(png(plain(width)) for width in (90, 91, 92, 93)), io.BytesIO(damaged), *large, png(plain(9, 9)))
    found, notes = texts(file, Said(empty=91, doubted=92))
    assert [text for _, text in found] == ["The lease begins in March.", *said(90), *said(93)]
    assert notes[0] == "2 pictures were read by OCR (2 of 12 words are in doubt)"
    assert notes[1] == "OCR is unsure of most of what it finds in 1 picture, which is left out"
    assert "2 pictures not read by OCR: more than 50 million pixels" in notes
    assert len(notes) == 4 and "1 picture not read by OCR: damaged" in notes


def test_a_document_has_so_many_pictures_and_so_much_time_for_them(file):
    word(file, *(png(plain(width)) for width in (90, 91, 92)))
    found, notes = texts(file, Said(pictures=2))
    assert [text for _, text in found] == ["The lease begins in March.", *said(90), *said(91)]
    assert notes[1] == "1 picture not read by OCR: they are more than 2; raise the limit `pictures`"
    for bounds in ({"all_seconds": 0.4}, {"own_seconds": -1.0}):
        found, notes = texts(file, Said(slow=90, **bounds))
        assert len(found) == (2 if "all_seconds" in bounds else 1)
        assert notes[-1].endswith("took all the time that a file's pictures may; raise the limits `seconds`, `cpu`")


def test_a_document_of_pictures_alone_says_how_it_can_be_read(tmp_path):
    book_of(tmp_path / "a.epub", ["<img src='a.png'/>"], [("O/a.png", bytes_of(plain(90)))])
    with pytest.raises(DocumentError, match=r"has no text \(1 page holds only pictures\); read its pictures with --ocr"):
        load_document(tmp_path / "a.epub")
    assert texts(tmp_path / "a.epub")[0] == [("Lease", text) for text in said(90)]
