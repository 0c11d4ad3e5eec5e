"""The three walks of docs/design.md are what runs: each is traced, and has at most 15 files."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from pathlib import Path

import gateway_serving
from pairs import write_pairs
from tiny import PAPER

import distilledprag
import distilledprag.cli.encode
import distilledprag.cli.store  # both before a walk is traced: the bodies of classes count as calls
from distilledprag.distillation.generator_training import DistillTask
from distilledprag.distillation.recipes import DistillRecipe
from distilledprag.generators import build_generator
from distilledprag.pipeline import DistilledPRAG

SOURCES = Path(distilledprag.__file__).parent
DESIGN = (Path(__file__).parents[2] / "docs" / "design.md").read_text().partition("## Three walks")[2].partition("\n## ")[0]
WALKS = {
    paragraph.removeprefix("**").partition("**")[0]: re.findall(r"`([a-z0-9_/]+\.py)`", paragraph.rpartition(": `")[2].join("``"))
    for paragraph in DESIGN.split("\n\n")
    if paragraph.startswith("**")
}
# Of every room; docs/design.md names them.
TOOLS = {"errors.py", "files.py", "words.py", "journal.py", "json_lines.py", "sqlite_file.py"}
# Of these a chat request calls one helper each: a connection's bookkeeping, the adapter read back from its bytes, whether the
# passages fit, an answer's shape, near copies left out, which engine to ask, a step told to operators. The database is one of two
# under a store.
HELPERS = {
    "http/telemetry.py", "documents/sqlite.py",
    "http/listening.py", "lora/container.py", "generators/sentence_choice.py", "http/answers.py",
    "retrieval/selection.py", "generators/cross_encoder.py", "gateway/replicas.py",
}  # fmt: skip


@contextlib.contextmanager
def traced():
    """The files of the package of which a function is called while the block runs, in all threads that begin in it."""
    files: set[str] = set()

    def note(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name != "<module>" and file.startswith(str(SOURCES)):
            files.add(Path(file).relative_to(SOURCES).as_posix())

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_each_walk_has_at_most_fifteen_files():
    assert WALKS.keys() == {"A document to its adapter", "A chat request to the wire", "An example to the loss"}
    for name, files in WALKS.items():
        assert 8 < len(files) == len(set(files)) <= 15, name


def test_a_document_to_its_adapter(dprag, tiny_base, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Anna Tovberg lives in Oakport. She earns $46,000 a year.")
    monkeypatch.setattr(DistilledPRAG, "from_pretrained", lambda *_, **__: DistilledPRAG(tiny_base, layer=1))
    with traced() as files:
        assert dprag("encode", tmp_path / "a.txt", "--for", "engine", "--out", tmp_path / "adapter")[0] == 0
    assert files - TOOLS == set(WALKS["A document to its adapter"])


def test_a_chat_request_to_the_wire(stage, monkeypatch):
    monkeypatch.setattr(gateway_serving, "greedy_ids", lambda *_: [[5, 6]])  # the engine's part
    with traced() as files:
        running = stage()
        running.add()
        files.clear()
        assert running.ask("Where does Anna Tovberg live?").status_code == 200
    assert running.engine.uploads()
    assert files - TOOLS - HELPERS - set(WALKS["A document to its adapter"]) == set(WALKS["A chat request to the wire"])
    told = re.search(r"a chat request passes (\d+) files", " ".join(DESIGN.split()))
    assert told is not None and 0 <= int(told[1]) - len(files - TOOLS) <= 3  # some are called once a process


def test_an_example_to_the_loss(tiny_base, tmp_path):
    values = {
        "output": tmp_path / "run",
        "generator": PAPER,
        "data": {"files": [write_pairs(tmp_path)]},
        "training": {"steps": 1},
    }
    generator = build_generator(PAPER, tiny_base)
    with traced() as files:
        task = DistillTask(tiny_base, generator, DistillRecipe(**values))
        task.losses(task.batch(0), generator, 1)
    assert files - TOOLS == set(WALKS["An example to the loss"])
