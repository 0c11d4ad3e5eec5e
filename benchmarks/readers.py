"""How much of the generated test files' facts well-kept libraries give as text, beside our readers.

    PYTHONPATH=tests/documents/readers python benchmarks/readers.py [--write docs/formats.md]

A case counts when every fact is found and nothing that should be left out is. A sentence is found when the library's text holds
it, however lines are broken; a row of a table when one line of the text holds the row's head, the columns' names and the
value, because passages are cut at lines. Files that have to be refused are not asked for. Libraries that are not installed are
left out. Our own readers are measured in the same way, on their passages.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import ocr_cases
import office_cases
import pdf_cases
import text_cases
from formats_table import table
from reader_cases import Case

from distilledprag.documents.loading import load_document
from distilledprag.files import write_section

CASES = [*pdf_cases.CASES.all, *office_cases.CASES.all, *text_cases.CASES.all, *ocr_cases.CASES.all]
GROUPS = {
    "PDF": (".pdf",),
    "Word": (".docx", ".docm"),
    "Excel": (".xlsx",),
    "PowerPoint": (".pptx",),
    "OpenDocument": (".odt",),
    "HTML, Markdown": (".html", ".md"),
    "csv, tsv": (".csv", ".tsv"),
    "rtf": (".rtf",),
    "e-mail": (".eml",),
    "epub": (".epub",),
}


def ours(file: Path) -> str:
    return "\n".join(passage.text for passage in load_document(file).passages)


def pypdf(file: Path) -> str:
    return "\n".join(page.extract_text() for page in importlib.import_module("pypdf").PdfReader(file).pages)


def pypdfium2(file: Path) -> str:
    return "\n".join(page.get_textpage().get_text_range() for page in importlib.import_module("pypdfium2").PdfDocument(file))


def pdfplumber(file: Path) -> str:
    with importlib.import_module("pdfplumber").open(file) as document:
        return "\n".join(
            part
            for page in document.pages
            for part in (page.extract_text(), *(" | ".join(map(str, row)) for rows in page.extract_tables() for row in rows))
        )


def mammoth(file: Path) -> str:
    with file.open("rb") as stream:
        html = importlib.import_module("mammoth").convert_to_html(stream).value
    return re.sub(
        r"<[^>]+>", " ", re.sub(r"</(?:p|tr|li|h\d)>", "\n", html.replace("</p></td>", "</td>").replace("</p></th>", "</th>"))
    )


def python_docx(file: Path) -> str:
    document = importlib.import_module("docx").Document(str(file))
    rows = [" | ".join(cell.text for cell in row.cells) for table in document.tables for row in table.rows]
    return "\n".join([*(paragraph.text for paragraph in document.paragraphs), *rows])


def openpyxl(file: Path) -> str:
    book = importlib.import_module("openpyxl").load_workbook(file, data_only=True)
    return "\n".join(" | ".join(str(value) for value in row if value is not None) for sheet in book for row in sheet.values)


def python_pptx(file: Path) -> str:
    slides = importlib.import_module("pptx").Presentation(str(file)).slides
    return "\n".join(shape.text_frame.text for slide in slides for shape in slide.shapes if shape.has_text_frame)


def striprtf(file: Path) -> str:
    return str(importlib.import_module("striprtf.striprtf").rtf_to_text(file.read_text()))


def markitdown(file: Path) -> str:
    return str(importlib.import_module("markitdown").MarkItDown().convert(str(file)).text_content)


def kreuzberg(file: Path) -> str:
    return str(importlib.import_module("kreuzberg").extract_file_sync(str(file)).content)


LIBRARIES: dict[str, tuple[Callable[[Path], str], tuple[str, ...]]] = {
    "pypdf": (pypdf, ("PDF",)),
    "pypdfium2": (pypdfium2, ("PDF",)),
    "pdfplumber": (pdfplumber, ("PDF",)),
    "python-docx": (python_docx, ("Word",)),
    "mammoth": (mammoth, ("Word",)),
    "openpyxl": (openpyxl, ("Excel",)),
    "python-pptx": (python_pptx, ("PowerPoint",)),
    "striprtf": (striprtf, ("rtf",)),
    "markitdown": (markitdown, tuple(GROUPS)),
    "kreuzberg": (kreuzberg, tuple(GROUPS)),
}


def passes(case: Case, text: str) -> bool:
    """Whether the text holds the facts of the case and nothing that is to be left out."""
    whole = " ".join(text.split())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    rows = "table" in case.feature or "merged" in case.feature

    def found(words: tuple[str, ...]) -> bool:
        if rows and len(words) > 1:
            return any(all(word in line for word in words) for line in lines)
        return all(word in whole for word in words)

    return all(map(found, case.facts)) and not any(word in whole for word in case.absent)


def score(read: Callable[[Path], str], suffixes: tuple[str, ...]) -> tuple[int, int, list[str]]:
    """Cases passed, cases in all, and the names of the others."""
    failed: list[str] = []
    cases = [case for case in CASES if case.suffix in suffixes and not case.refused and not case.ocr]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            file = Path(folder) / f"document{case.suffix}"
            case.make(file)
            try:
                good = passes(case, read(file))
            except Exception as error:  # a library that cannot read the file has not read its facts
                failed.append(f"{case.name} ({type(error).__name__})")
                continue
            if not good:
                failed.append(case.name)
    return len(cases) - len(failed), len(cases), failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the page whose marked tables are made anew")
    page = parser.parse_args().write
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    rows = [["ours", *score_row(ours, tuple(GROUPS))]]
    for name, (read, groups) in LIBRARIES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed")
            continue
        rows.append([f"{name} {version}", *score_row(read, groups)])
    scores = "\n".join(f"| {' | '.join(row)} |" for row in [["", *GROUPS], ["---"] * (len(GROUPS) + 1), *rows])
    print(scores)
    if page:
        for name, made in (("formats", table(CASES)), ("libraries", scores)):
            write_section(page, f"{name}: made by benchmarks/readers.py", made)


def score_row(read: Callable[[Path], str], groups: tuple[str, ...]) -> list[str]:
    cells = []
    for group, suffixes in GROUPS.items():
        if group not in groups:
            cells.append("")
            continue
        passed, number, failed = score(read, suffixes)
        cells.append(f"{passed}/{number}")
        print(*failed, sep="\n  ", end="\n" if failed else "")
    return cells


if __name__ == "__main__":
    main()
