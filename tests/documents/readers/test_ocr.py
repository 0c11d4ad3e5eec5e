"""Scans are read on demand only, within limits, and by a program that ends with whoever asked. (What is read: ocr_cases.py.)"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import ocr_cases
import pytest
from text_cases import book_of
from waiting import until

from distilledprag.documents.indexing import index_path
from distilledprag.documents.limits import Limits
from distilledprag.documents.loading import load_document, load_documents
from distilledprag.documents.readers.ocr import PROGRAM, Ocr
from distilledprag.documents.reading import Reading, ReadingPool, ReadingStoppedError
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import ConfigError, DocumentError

SPAN = "<span class='ocr_line' title='bbox 9 9 99 30; baseline 0 -5; x_size 20'>{}</span>"
WORD = "<span class='ocrx_word' title='bbox {} 10 {} 25; x_wconf {}'>{}</span>"


def page_of(*words):
    """hOCR as tesseract writes it. words: (text, how sure the program is)."""
    line = SPAN.format("".join(WORD.format(20 * n, 20 * n + 18, sure, text) for n, (text, sure) in enumerate(words)))
    page = f"<div class='ocr_page' title='bbox 0 0 200 100; scan_res 150 150'><div><p class='ocr_par'>{line}</p></div></div>"
    return f"<html xmlns='http://www.w3.org/1999/xhtml'><body>{page}</body></html>"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script in the place of tesseract, which knows English and German."""

    def install(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        file = folder / PROGRAM
        languages = 'if [ "$1" = --list-langs ]; then printf "List:\\neng\\ndeu\\n"; exit; fi'
        file.write_text(f"#!/bin/sh\n{languages}\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


def saying(tmp_path, *words):
    (tmp_path / "hocr").write_text(page_of(*words))
    return f"cat > /dev/null; cat '{tmp_path}/hocr'"


@pytest.fixture
def scan(tmp_path):
    ocr_cases.save(ocr_cases.fact(), tmp_path / "scan.pdf")
    return tmp_path / "scan.pdf"


def test_words_in_doubt_are_counted_and_what_ocr_cannot_read_is_reported(tmp_path, program, scan):
    program(saying(tmp_path, ("Rent", 95), ("is", 40), ("due", 96)))
    loaded = load_document(scan, ocr=Ocr())
    assert [passage.text for passage in loaded.passages] == ["Rent is due"]
    assert loaded.notes == ("page 1 was read by OCR (1 of 3 words are in doubt)",)
    program(saying(tmp_path))
    with pytest.raises(DocumentError, match="page 1 holds no text that OCR finds"):
        load_document(scan, ocr=Ocr())
    program("echo it is broken >&2; exit 3")
    with pytest.raises(DocumentError, match="page 1 not read by OCR: it is broken"):
        load_document(scan, ocr=Ocr())


def test_a_page_that_takes_too_long_is_reported_and_the_others_are_read(tmp_path, program):
    ocr_cases.save(ocr_cases.fact(), tmp_path / "two.pdf", ocr_cases.drawn([(10, 10, "Slow.")], height=200))
    (tmp_path / "hocr").write_text(page_of(("Rent", 95)))
    program(f'size=$(wc -c); if [ "$size" -lt 1500000 ]; then while :; do :; done; fi; cat "{tmp_path}/hocr"')
    loaded = load_document(tmp_path / "two.pdf", ocr=Ocr(seconds=1))
    assert [passage.text for passage in loaded.passages] == ["Rent"]
    assert loaded.notes[1] == "page 2 not read by OCR: it took more than 1 seconds of a processor; raise the limit `ocr`"


def test_a_picture_within_a_document_keeps_the_limits_of_reading_and_the_text_around_it(tmp_path, program):
    book_of(tmp_path / "a.epub", ["<p>Anna.</p><img src='0.png'/><img src='1.png'/>"], [
        (f"O/{number}.png", ocr_cases.png(ocr_cases.fact(f"{number}")).getvalue()) for number in range(2)
    ])  # fmt: skip
    program(saying(tmp_path, ("Rent", 95)))
    with ReadingPool(Limits(pictures=1), workers=1, ocr="eng") as pool:
        loaded = pool.read(tmp_path / "a.epub", 80)
    assert [passage.text for passage in loaded.passages] == ["Anna.", "Rent"]
    assert loaded.notes[1] == "1 picture not read by OCR: they are more than 1; raise the limit `pictures`"
    program("exec sleep 60")
    loaded = load_document(tmp_path / "a.epub", ocr=Ocr(all_seconds=0.3))
    assert [passage.text for passage in loaded.passages] == ["Anna."] and len(loaded.notes) == 2
    assert loaded.notes[0] == "1 picture not read by OCR: it took all the time that was left; raise the limit `seconds`"


_READER = """
import sys
from pathlib import Path
from distilledprag.documents.reading import ReadingPool
ReadingPool(ocr="eng").read(Path(sys.argv[1]), 80)
"""


def is_running(mark):
    """Whether a process runs whose command line holds `mark`."""
    found = subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True).stdout.split()
    return bool(set(found) - {str(os.getpid())})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes as Linux shows them")
@pytest.mark.parametrize("end", ["time", "nobody waits", "killed"])
def test_the_program_ends_with_the_reading(tmp_path, program, scan, end):
    mark = f"61{os.getpid()}{len(end)}"  # seconds, told apart from other sleeps
    program(f"exec sleep {mark}")
    if end == "killed":
        asking = subprocess.Popen([sys.executable, "-c", _READER, str(scan)])
        until(lambda: is_running(f"sleep {mark}"))
        asking.kill()
        asking.wait()
    else:
        cancelled = threading.Event()
        with ReadingPool(Limits(seconds=2 if end == "time" else 60), workers=1, ocr="eng") as pool:
            if end == "time":
                error = DocumentError
            else:
                error = ReadingStoppedError
                threading.Thread(target=lambda: (until(lambda: is_running(f"sleep {mark}")), cancelled.set())).start()
            with pytest.raises(error):
                pool.read(scan, 80, cancelled=cancelled)
    until(lambda: not is_running(f"sleep {mark}"))


def test_pictures_are_documents_of_a_folder_only_where_there_is_ocr(tmp_path, program):
    program(saying(tmp_path, ("Rent", 95)))
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_text("Anna lives in Oakport.")
    ocr_cases.fact().save(folder / "b.PNG")
    assert load_documents(folder).files == 1
    with ReadingPool(workers=1, ocr="eng") as pool:
        loaded = load_documents(folder, load=pool.read, pictures=True)
    assert [passage.text for passage in loaded.passages] == ["Anna lives in Oakport.", "Rent"]
    assert not loaded.failed


def test_an_index_made_without_ocr_reads_what_may_hold_scans_again_with_it(tmp_path, program):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_text("Anna lives in Oakport.")
    page = ocr_cases.FPDF()
    page.add_page()
    page.set_font("Helvetica", size=12)
    page.text(20, 20, "The first page.")
    page.add_page()
    page.image(ocr_cases.fact(), x=0, y=0, w=210, h=297)
    page.output(folder / "b.pdf")
    program(saying(tmp_path, ("Rent", 95)))
    store = DocumentStore(tmp_path / "store")
    try:
        assert index_path(store, folder).notes == [f"{folder}/b.pdf: page 2 holds no text (scanned?)"]
        with ReadingPool(workers=1, ocr="eng") as pool:
            report = index_path(store, folder, load=pool.read, ocr=pool.ocr)
            assert (report.changed, report.unchanged) == (1, 1)
            assert report.notes == [f"{folder}/b.pdf: page 2 was read by OCR"]
            assert index_path(store, folder, load=pool.read, ocr=pool.ocr).unchanged == 2
    finally:
        store.close()


def test_what_ocr_needs_is_told_before_anything_is_read(program, monkeypatch, tmp_path):
    program("exit 0")
    Ocr("deu+eng").check()
    with pytest.raises(ConfigError, match=r"no language fra \(installed: deu, eng\); apt install tesseract-ocr-fra"):
        Reading(ocr=True, language="fra")
    with pytest.raises(ConfigError, match="name languages as tesseract does"):
        ReadingPool(ocr="../eng")
    with pytest.raises(ConfigError, match="add --ocr"):
        Reading(language="deu")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt install tesseract-ocr"):
        Reading(ocr=True)


def test_options_are_handed_on_to_another_command(program):
    program("exit 0")
    assert Reading("cpu=3", ocr=True, language="deu").arguments() == ["--ocr", "--limits", "cpu=3", "--ocr-language", "deu"]
    assert Reading().arguments() == []
    with Reading("ocr=3", ocr=True).pool() as pool:
        assert (pool.ocr, pool.limits.ocr) == ("eng", 3)


def test_a_picture_without_ocr_is_refused_and_says_what_to_do(tmp_path):
    ocr_cases.fact().save(Path(tmp_path / "photo.jpg"))
    with pytest.raises(DocumentError, match=r"photo\.jpg is a picture; --ocr reads its text"):
        load_document(tmp_path / "photo.jpg")
