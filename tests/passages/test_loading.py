"""Every format becomes the passages a reader would expect; unusable files say what is wrong."""

from __future__ import annotations

import json

import docx
import pytest
from fpdf import FPDF
from hypothesis import given
from hypothesis import strategies as st

from distilledprag.errors import InputError
from distilledprag.passages import load_file, load_passages
from distilledprag.passages.loading import split_words

FIRST = "Anna Tovberg lives in Oakport. She works for Velkor Foods."
SECOND = "Velkor Foods is based in Millport. It was founded in 1987."


def make(folder, kind):
    file = folder / f"sample.{kind}"
    if kind == "txt":
        file.write_text(f"{FIRST}\n\n{SECOND}\n")
    elif kind == "md":
        file.write_text(f"# Records\n\n{FIRST}\n\n{SECOND}\n")
    elif kind == "html":
        file.write_text(
            f"<html><head><style>p {{}}</style></head><body><h1>Records</h1><p>{FIRST}</p><p>{SECOND}</p></body></html>"
        )
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"title": "Records", "text": text}) + "\n" for text in (FIRST, SECOND)))
    elif kind == "json":
        file.write_text(json.dumps([{"title": "Records", "text": text} for text in (FIRST, SECOND)]))
    elif kind == "docx":
        document = docx.Document()
        document.add_heading("Records", 1)
        document.add_paragraph(FIRST)
        document.add_paragraph(SECOND)
        document.save(str(file))
    elif kind == "pdf":
        pdf = FPDF()
        pdf.add_page()
        pdf.set_font("Helvetica", size=11)
        for text in (FIRST, SECOND):
            pdf.multi_cell(0, 6, text, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(6)
        pdf.output(str(file))
    return file


@pytest.mark.parametrize("kind", ["txt", "md", "html", "jsonl", "json", "docx", "pdf"])
def test_each_paragraph_is_a_passage(tmp_path, kind):
    passages = load_file(make(tmp_path, kind))
    assert [passage.text for passage in passages] == [FIRST, SECOND]
    assert [passage.index for passage in passages] == [0, 1]
    if kind not in ("txt", "pdf"):
        assert {passage.title for passage in passages} == {"Records"}


def test_a_table_row_is_a_line_of_cells(tmp_path):
    file = tmp_path / "table.md"
    file.write_text("# Staff\n\n| name | city |\n|---|---|\n| Anna | Oakport |\n")
    assert [passage.text for passage in load_file(file)] == ["name, city", "Anna, Oakport"]


def test_a_folder_is_read_in_order_and_unknown_formats_are_passed_over(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text(SECOND)
    (tmp_path / "a.txt").write_text(FIRST)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / ".hidden.txt").write_text("hidden")
    assert [passage.text for passage in load_passages([tmp_path])] == [FIRST, SECOND]


def unreadable_pdf(file):
    file.write_bytes(b"%PDF-1.4 broken")


def encrypted_pdf(file):
    pdf = FPDF()
    pdf.set_encryption(owner_password="owner", user_password="secret")
    pdf.add_page()
    pdf.set_font("Helvetica", size=11)
    pdf.cell(text="hidden")
    pdf.output(str(file))


def blank_pdf(file):
    pdf = FPDF()
    pdf.add_page()
    pdf.output(str(file))


@pytest.mark.parametrize("name, write, message", [
    ("missing.txt", lambda file: None, "does not exist"),
    ("empty.txt", lambda file: file.write_text(""), "is empty"),
    ("blank.txt", lambda file: file.write_text(" \n\n "), "has no text"),
    ("binary.txt", lambda file: file.write_bytes(b"\0\1\2\3"), "binary file"),
    ("latin.txt", lambda file: file.write_bytes("café".encode("latin-1")), "not UTF-8"),
    ("odd.xyz", lambda file: file.write_text("x"), "not supported"),
    ("broken.pdf", unreadable_pdf, "cannot be read as PDF|has no text"),
    ("locked.pdf", encrypted_pdf, "encrypted"),
    ("blank.pdf", blank_pdf, "no text"),
    ("broken.docx", lambda file: file.write_bytes(b"PK not a zip"), "cannot be read as a Word document"),
    ("bad.jsonl", lambda file: file.write_text('{"text": "a"}\n{"text"\n'), "line 2 is not JSON"),
    ("other.jsonl", lambda file: file.write_text('{"body": "a"}\n'), "line 1: needs a non-empty `text`"),
])  # fmt: skip
def test_an_unusable_file_says_what_is_wrong(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        load_file(tmp_path / name)
    assert name in str(caught.value)


def test_utf_16_with_a_mark_is_read(tmp_path):
    (tmp_path / "a.txt").write_text(FIRST, encoding="utf-16")
    assert load_file(tmp_path / "a.txt")[0].text == FIRST


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(InputError, match="no readable documents"):
        load_passages([tmp_path])


def test_long_paragraphs_are_cut_at_sentence_ends():
    text = " ".join(f"Sentence number {number} has exactly seven words." for number in range(30))
    pieces = split_words(text, 20)
    assert " ".join(pieces) == text
    assert all(piece.endswith("words.") and len(piece.split()) <= 20 for piece in pieces)


@given(st.text(), st.integers(1, 30))
def test_splitting_loses_no_word_and_keeps_the_limit(text, longest):
    pieces = split_words(text, longest)
    assert " ".join(pieces).split() == text.split()
    assert all(0 < len(piece.split()) <= longest for piece in pieces)
