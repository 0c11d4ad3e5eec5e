"""Files are read in bounded processes of their own: what a file may cost, and that nothing is left of one that cost too much."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile_files
import pytest
from fpdf import FPDF
from waiting import until

from distilledprag.documents import worker
from distilledprag.documents.indexing import prepare_bytes
from distilledprag.documents.limits import Limits
from distilledprag.documents.loading import load_document
from distilledprag.documents.reading import ReadingPool, ReadingStoppedError
from distilledprag.errors import ConfigError, DocumentError

TEXT = "# Ships\n\nThe Copperleaf carries wheat.\n\nVelkor Foods is in Millport."
SLOW = hostile_files.emphasis()  # minutes of a processor's time


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def children(pid=None):
    """The processes that this one, or another, has started and that run."""
    pid = pid or os.getpid()
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def is_running(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_pool_reads_what_this_process_would_read(tmp_path, reading):
    for name in ("a.md", "b.txt"):
        file = written(tmp_path, name, TEXT.encode())
        assert reading.read(file, 80) == load_document(file, 80)
    with pytest.raises(DocumentError, match=r"none\.txt does not exist"):
        reading.read(tmp_path / "none.txt", 80)


def test_reading_processes_import_no_torch():
    script = "import sys, distilledprag.documents.worker; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_a_file_that_takes_too_long_is_given_up_its_process_ended_and_the_next_one_read(tmp_path):
    with ReadingPool(Limits(seconds=0.2), workers=1) as pool:
        before = children()
        with pytest.raises(DocumentError, match=r"slow\.md was not read within 0\.2 seconds; .*`seconds`"):
            pool.read(written(tmp_path, "slow.md", SLOW), 80)
        assert not children() - before
        pool.limits = Limits()
        assert pool.read(written(tmp_path, "a.txt", b"Anna lives in Oakport."), 80).passages
    assert not children() - before


def test_a_file_that_takes_too_much_of_a_processor_or_of_the_memory_is_given_up(tmp_path):
    with ReadingPool(Limits(memory=48), workers=1) as pool:
        with pytest.raises(DocumentError, match=r"large\.json .*memory.*`memory`"):
            pool.read(written(tmp_path, "large.json", hostile_files.many_records()), 80)
        pool.limits = Limits(cpu=1)
        with pytest.raises(DocumentError, match=r"slow\.md was not read within 1 seconds of processor time; .*`cpu`"):
            pool.read(written(tmp_path, "slow.md", SLOW), 80)


def long_pdf(file):
    pdf = FPDF()
    for _ in range(3):
        pdf.add_page()
    pdf.output(str(file))
    return file.read_bytes()


@pytest.mark.parametrize(("name", "data", "limit", "message"), [
    ("bomb.docx", hostile_files.zip_bomb(2), {"unpacked": 1}, "unpacks to 2 MiB"),
    ("parts.docx", hostile_files.zip_bomb(0), {"parts": 5}, "packs 6 files"),
    ("long.pdf", long_pdf, {"pages": 2}, "has 3 pages"),
    ("deep.html", hostile_files.deep_html(500), {"nesting": 20}, "nests its parts too deeply"),
    ("deep.json", hostile_files.deep_json(2000), {"nesting": 200}, "nests its parts too deeply"),
    ("long.txt", b"word " * 500, {"text": 0.001}, "million characters"),
])  # fmt: skip
def test_a_file_above_a_limit_is_refused_by_that_limits_name(tmp_path, name, data, limit, message):
    file = tmp_path / name
    file.write_bytes(data(file) if callable(data) else data)
    depth = sys.getrecursionlimit()
    try:
        if "nesting" in limit:
            sys.setrecursionlimit(worker.FRAMES + worker.FRAMES_A_LEVEL * limit["nesting"])
        with pytest.raises(DocumentError, match=rf"{name} .*{message}.*`{next(iter(limit))}`"):
            worker.read(file, 80, Limits(**limit))
    finally:
        sys.setrecursionlimit(depth)


def test_text_without_an_end_of_a_sentence_is_split_in_linear_time(tmp_path):
    begun = time.process_time()
    worker.read(written(tmp_path, "dots.txt", hostile_files.dots(20_000)), 80, Limits())
    assert time.process_time() - begun < 2  # tried from each full stop it takes a hundred times as long


def test_styles_of_a_word_file_are_looked_up_in_linear_time(tmp_path):
    begun = time.process_time()
    file = written(tmp_path, "styles.docx", hostile_files.many_styles())
    assert len(worker.read(file, 80, Limits()).passages) == 3000
    assert time.process_time() - begun < 5  # tried one after the other it takes a minute


def test_what_nobody_waits_for_any_more_is_given_up(tmp_path):
    cancelled, file = threading.Event(), written(tmp_path, "slow.md", SLOW)
    with ReadingPool(workers=1) as pool:
        before = children()
        timer = threading.Timer(0.3, cancelled.set)
        timer.start()
        with pytest.raises(ReadingStoppedError):
            pool.read(file, 80, cancelled=cancelled)
        assert not children() - before
        threading.Timer(0.3, pool.close).start()
        with pytest.raises(ReadingStoppedError):
            pool.read(file, 80)
        assert not children() - before


def test_a_pool_never_has_more_processes_than_it_may(tmp_path):
    file, seen = written(tmp_path, "a.txt", b"Anna lives in Oakport."), []
    before = children()
    with ReadingPool(workers=2) as pool:
        threads = [threading.Thread(target=lambda: seen.append(len(pool.read(file, 80).passages))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [1] * 12 and 1 <= len(children() - before) <= 2


def test_a_process_that_ended_while_it_had_nothing_to_do_is_replaced(tmp_path):
    file = written(tmp_path, "a.txt", b"Anna lives in Oakport.")
    with ReadingPool(workers=1) as pool:
        before = children()
        pool.read(file, 80)
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)
        until(lambda: not is_running(process))
        until(lambda: len(os.listdir(f"/proc/{process}/task")) == 1)  # its other thread ends a moment later
        assert pool.read(file, 80).passages


_READER = """
import sys
from pathlib import Path
from distilledprag.documents.indexing import prepare_bytes
from distilledprag.documents.reading import ReadingPool
prepare_bytes("slow.md", Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), ReadingPool())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_process_and_no_copy_outlives_a_program_that_is_killed(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    file = written(tmp_path, "slow.md", SLOW)
    program = subprocess.Popen([sys.executable, "-c", _READER, str(file), str(folder)])
    until(lambda: children(program.pid))
    (process,) = children(program.pid)
    until(lambda: "lxml" in Path(f"/proc/{process}/maps").read_text())  # the reader's library: the file is being read
    program.kill()
    program.wait()
    until(lambda: not is_running(process))
    assert not list(folder.iterdir())


def test_an_upload_leaves_no_copy_whether_it_can_be_read_or_not(tmp_path, reading):
    prepared = prepare_bytes("a.md", TEXT.encode(), tmp_path, reading)
    assert [passage.text for passage in prepared.passages] == ["The Copperleaf carries wheat.", "Velkor Foods is in Millport."]
    with pytest.raises(DocumentError, match=r"^b\.json is not JSON"):
        prepare_bytes("b.json", b"{", tmp_path, reading)
    assert not list(tmp_path.iterdir())


def test_limits_are_read_from_one_option():
    assert Limits.parse(None) == Limits() == Limits.parse("")
    assert Limits.parse("cpu=1.5, pages=7") == Limits(cpu=1.5, pages=7)
    for wrong in ("speed=3", "cpu", "cpu=0", "pages=1.5", "memory=-1", "cpu=nan", "cpu=fast"):
        with pytest.raises(ConfigError, match=r"limit"):
            Limits.parse(wrong)


def test_answers_of_a_process_are_json_lines_and_nothing_that_a_library_prints(tmp_path):
    file = written(tmp_path, "a.jsonl", b"".join(json.dumps({"text": f"Record {n}."}).encode() + b"\n" for n in range(600)))
    request = {"file": str(file), "longest": 80, "scratch": None, "limits": {}, "ocr": None}
    command = [sys.executable, "-m", "distilledprag.documents.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answers = []
        while "last" not in (answer := json.loads(process.stdout.readline())):
            answers.append(answer)
        process.stdin.close()
    assert answer == {"notes": [], "last": False} and [len(part["passages"]) for part in answers] == [256, 256, 88]
