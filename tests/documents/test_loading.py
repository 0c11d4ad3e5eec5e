"""Every format becomes the passages a reader would expect; unusable files say what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import docx
import pytest
from docx.oxml import OxmlElement
from fpdf import FPDF

from distilledprag.documents import load_file, load_passages
from distilledprag.documents.loading import load_documents
from distilledprag.errors import InputError

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


LIBRARIES = {"md": "markdown_it", "html": "bs4", "docx": "lxml", "pdf": "pypdfium2"}


@pytest.mark.parametrize("kind", LIBRARIES)
def test_without_a_readers_library_its_files_name_the_extra_and_others_are_read(tmp_path, monkeypatch, kind):
    file, plain = make(tmp_path, kind), make(tmp_path, "txt")
    for name in [name for name in sys.modules if name.startswith("distilledprag.documents.readers.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, LIBRARIES[kind], None)
    with pytest.raises(InputError, match=rf"{kind} needs {LIBRARIES[kind]}: pip install 'distilledprag\[documents\]'"):
        load_file(file)
    assert [passage.text for passage in load_file(plain)] == [FIRST, SECOND]


def test_no_library_is_loaded_before_a_file_needs_it(tmp_path):
    script = (
        "import sys, distilledprag.documents as d; d.load_file(sys.argv[1]); "
        f"print([name for name in {list(LIBRARIES.values())} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(make(tmp_path, "jsonl"))], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def texts(file, content):
    file.write_text(content)
    return [passage.text for passage in load_file(file)]


def test_a_table_row_names_its_columns(tmp_path):
    table = "# Staff\n\n| Name | City |\n|---|---|\n| Anna | Oakport |\n| Ben | Millport |\n"
    assert texts(tmp_path / "table.md", table) == ["Name: Anna; City: Oakport", "Name: Ben; City: Millport"]
    passages = load_file(tmp_path / "table.md")
    assert {passage.title for passage in passages} == {"Staff"}


def test_nested_lists_lose_nothing_and_short_items_stand_together(tmp_path):
    nested = "Duties:\n\n- Night shift\n  - Locks the gate\n  - Checks the pumps\n\n- Day shift\n"
    assert texts(tmp_path / "list.md", nested) == ["Duties: Night shift; Locks the gate; Checks the pumps; Day shift"]


@pytest.mark.parametrize("body", [
    f"<p>{FIRST}<p>{SECOND}",  # end tags may be left out
    f"<div>{FIRST}<div>{SECOND}</div></div>",
    f"<ul><li>{FIRST} It is there.<li>{SECOND} So it is.</ul>",
    f"<table><tr><td>{FIRST}<tr><td>{SECOND}</table>",
    f"{FIRST}<br><br>{SECOND}",
])  # fmt: skip
def test_untidy_html_loses_nothing(tmp_path, body):
    first, second = texts(tmp_path / "page.html", body)
    assert first.startswith(FIRST) and second.startswith(SECOND)


def test_html_shows_what_a_browser_shows(tmp_path):
    page = f"<nav>Home</nav><script>x = 1</script><!-- note --><p hidden>No</p><p>{FIRST}</p><template>no</template>"
    assert texts(tmp_path / "page.html", page) == [FIRST]


def test_the_encoding_an_html_page_declares_is_used(tmp_path):
    file = tmp_path / "page.html"
    file.write_bytes("<meta charset='iso-8859-1'><p>The café in Oakport is open.</p>".encode("latin-1"))
    assert [passage.text for passage in load_file(file)] == ["The café in Oakport is open."]


def test_tracked_insertions_in_word_are_read_and_deletions_are_not(tmp_path):
    document = docx.Document()
    paragraph = document.add_paragraph("Anna lives in ")
    for tag, name, word in (("w:del", "w:delText", "Millport"), ("w:ins", "w:t", "Oakport")):
        change, run, text = OxmlElement(tag), OxmlElement("w:r"), OxmlElement(name)
        text.text = word
        run.append(text)
        change.append(run)
        paragraph._p.append(change)
    document.save(str(tmp_path / "tracked.docx"))
    assert [passage.text for passage in load_file(tmp_path / "tracked.docx")] == ["Anna lives in Oakport"]


def test_a_line_separator_inside_json_does_not_end_the_line(tmp_path):
    record = json.dumps({"text": "Anna\u2028lives in Oakport."}, ensure_ascii=False)
    assert texts(tmp_path / "a.jsonl", record + "\n" + json.dumps({"text": FIRST})) == ["Anna lives in Oakport.", FIRST]


def test_every_record_of_a_pdf_is_its_own_passage(tmp_path):
    records = [
        f"Employee number {number} lives in Oakport and works for Velkor Foods since 19{number}." for number in range(70, 82)
    ]
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Helvetica", size=11)
    for record in records:
        pdf.multi_cell(0, 6, record, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(4)
    pdf.output(str(tmp_path / "records.pdf"))
    assert [passage.text for passage in load_file(tmp_path / "records.pdf")] == records


def test_a_pdf_that_only_forbids_printing_is_read(tmp_path):
    pdf = FPDF()
    pdf.set_encryption(owner_password="owner")
    pdf.add_page()
    pdf.set_font("Helvetica", size=11)
    pdf.cell(text=FIRST)
    pdf.output(str(tmp_path / "restricted.pdf"))
    assert [passage.text for passage in load_file(tmp_path / "restricted.pdf")] == [FIRST]


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
    ("really.txt", lambda file: file.write_bytes(b"%PDF-1.7 x"), "is a PDF file in spite of its name"),
    ("odd.xyz", lambda file: file.write_text("x"), "not supported"),
    ("broken.pdf", unreadable_pdf, "cannot be read as PDF|has no text"),
    ("locked.pdf", encrypted_pdf, "needs a password|is encrypted"),
    ("blank.pdf", blank_pdf, "no text"),
    ("broken.docx", lambda file: file.write_bytes(b"PK not a zip"), "cannot be read as a Word document"),
    ("bad.jsonl", lambda file: file.write_text('{"text": "a"}\n{"text"\n'), "line 2 is not JSON"),
    ("other.jsonl", lambda file: file.write_text('{"body": "a"}\n'), "line 1 has no text"),
])  # fmt: skip
def test_an_unusable_file_says_what_is_wrong(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        load_file(tmp_path / name)
    assert name in str(caught.value)


def test_utf_16_with_a_mark_is_read(tmp_path):
    (tmp_path / "a.txt").write_text(FIRST, encoding="utf-16")
    assert load_file(tmp_path / "a.txt")[0].text == FIRST


def test_one_bad_file_is_named_and_the_others_are_read(tmp_path):
    (tmp_path / "a.txt").write_text(FIRST)
    (tmp_path / "b.txt").write_bytes(b"\0\1\2")
    (tmp_path / "c.json").write_bytes(b"[")
    (tmp_path / "d.txt").write_text(SECOND)
    seen = []
    loaded = load_documents(tmp_path, on_file=seen.append)
    assert [passage.text for passage in loaded.passages] == [FIRST, SECOND] and loaded.files == len(seen) == 4
    assert len(loaded.failed) == 2 and "b.txt" in loaded.failed[0] and "c.json" in loaded.failed[1]
    with pytest.raises(InputError, match=r"b\.txt.*c\.json"):
        load_passages(tmp_path)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(InputError, match="no readable documents"):
        load_passages([tmp_path])
