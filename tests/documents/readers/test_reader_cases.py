"""Every fact of every generated file stands in a passage, what is missing is reported, and docs/formats.md says so."""

from __future__ import annotations

import re
from pathlib import Path

import ocr_cases
import office_cases
import pdf_cases
import pytest
import text_cases
from formats_table import table

from distilledprag.documents.loading import load_document
from distilledprag.documents.readers import READERS
from distilledprag.documents.readers.ocr import Ocr
from distilledprag.errors import DocumentError

CASES = [*pdf_cases.CASES.all, *office_cases.CASES.all, *text_cases.CASES.all, *ocr_cases.CASES.all]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_facts_stand_in_passages_and_what_is_missing_is_reported(case, tmp_path):
    file = tmp_path / f"document{case.suffix}"
    case.make(file)
    ocr = Ocr() if case.ocr else None
    if ocr:
        ocr_cases.need_tesseract()
    if case.refused:
        with pytest.raises(DocumentError, match=case.refused) as caught:
            load_document(file, ocr=ocr)
        assert file.name in str(caught.value)
        return
    loaded = load_document(file, ocr=ocr)
    texts = [passage.text for passage in loaded.passages]
    for words in case.facts:
        assert any(all(word in text for word in words) for text in texts), (words, texts)
    assert not [word for word in case.absent if any(word in text for text in texts)], texts
    if case.note:
        assert any(re.search(case.note, note) for note in loaded.notes), loaded.notes
    else:
        assert not loaded.notes


def test_every_format_has_a_case():
    assert {case.suffix for case in CASES} | {".text", ".markdown", ".htm", ".pptm", ".xlsm"} == {*READERS, *ocr_cases.SUFFIXES}


def test_the_table_of_formats_is_what_these_cases_say():
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    assert table(CASES) in page
