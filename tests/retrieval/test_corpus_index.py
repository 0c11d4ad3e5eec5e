"""An index over a corpus on disk ranks as BM25 in memory does, whatever its shards, and survives being stopped."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

from distilledprag.documents import Passage
from distilledprag.errors import InputError
from distilledprag.retrieval import BM25Retriever, corpus_index
from distilledprag.retrieval.corpus import Corpus
from distilledprag.retrieval.corpus_index import CorpusIndex

WORDS = [f"{letter}{number}" for letter in "abcdefg" for number in range(6)]
QUESTIONS = ["a1", "b2 c3 unknown", "a1 a1 d4 e5", "the of", "unknown", "c0 c1 c2 c3 c4 c5", "K-4821 \ud800"]


def texts(count: int) -> list[tuple[str, str]]:
    """(title, text): few words, so that many scores are equal; some passages have no words to search for."""
    chosen = random.Random(0)
    made = [(f"Title {n % 7}", " ".join(chosen.choices(WORDS, k=chosen.randint(1, 9)))) for n in range(count)]
    made[3], made[5] = ("", "the of"), ('Said "so"', 'Contract K-4821, "quoted"\tand Zu\u0308rich')
    return made


def write_jsonl(file: Path, rows: list[tuple[str, str]]) -> Path:
    file.write_text("".join(json.dumps({"title": title, "text": text}) + "\n" for title, text in rows))
    return file


def write_tsv(file: Path, rows: list[tuple[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "text", "title"])
        writer.writerows((number, text.replace("\t", " "), title) for number, (title, text) in enumerate(rows, start=1))
    return file


def build(corpus: Path, folder: Path, shard_passages: int = 10) -> CorpusIndex:
    return CorpusIndex.build(corpus, folder, shard_passages, show_progress=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", texts(41))


@pytest.mark.parametrize("shard_passages", [1, 7, 41, 1000])
def test_ranking_scores_and_ties_equal_one_index_in_memory(corpus, tmp_path, monkeypatch, shard_passages):
    monkeypatch.setattr(corpus_index, "HASHES_AT_ONCE", 25)  # several ranges of hashes, several blocks of pairs
    monkeypatch.setattr(corpus_index, "PAIRS_AT_ONCE", 13)
    index = build(corpus, tmp_path / "index", shard_passages)
    memory = BM25Retriever([index.passage(number) for number in range(len(index))])
    assert len(index) == 41
    for question in QUESTIONS:
        for k in (1, 5, 41):
            assert index.retrieve(question, k) == memory.retrieve(question, k)


def test_a_tsv_file_in_dprs_format_gives_the_same_passages(tmp_path):
    file = write_tsv(tmp_path / "psgs_w100.tsv", texts(12))
    index = build(file, tmp_path / "index", 5)
    found = [index.passage(number) for number in range(12)]
    assert [(passage.title, passage.text) for passage in found[:3]] == texts(12)[:3]
    assert found[5] == Passage('Contract K-4821, "quoted" and Zürich', str(file), 'Said "so"', 5)
    assert index.retrieve("contract k-4821", 1)[0][0] == found[5]


def test_blank_lines_and_line_ends_of_windows_do_not_shift_passages(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(b'\r\n{"text": "first a1"}\r\n\r\n{"contents": "second b2"}\r\n\r\n{"passage": "third c3"}')
    index = build(file, tmp_path / "index", 1)
    assert [index.passage(number).text for number in range(3)] == ["first a1", "second b2", "third c3"]
    assert index.rank("b2", 1)[0][0] == 1


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("step, call", [("save", 3), ("sum_frequencies", 1), ("inverse_frequencies", 2)])
def test_a_build_that_was_stopped_is_taken_up_and_gives_the_same_index(corpus, tmp_path, monkeypatch, step, call):
    build(corpus, tmp_path / "whole")
    place = corpus_index.Postings if step == "save" else corpus_index
    original, calls = getattr(place, step), []

    def stopping(*arguments):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(place, step, stopping)
    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "stopped")
    with pytest.raises(InputError, match="no finished index"):
        CorpusIndex(tmp_path / "stopped")
    (tmp_path / "stopped" / ".shard-00001.killed").mkdir()
    lines, read = Corpus.lines, []
    monkeypatch.setattr(Corpus, "lines", lambda self, offset, number: read.append(offset) or lines(self, offset, number))
    build(corpus, tmp_path / "stopped")
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole") and len(calls) > call
    assert read[0] > 0  # the shards that stood were not read again
    build(corpus, tmp_path / "stopped")
    assert len(read) == 1  # a finished index is not built again


def test_nothing_of_the_corpus_stays_in_memory(corpus, tmp_path):
    index = build(corpus, tmp_path / "index")
    for part in (*index.words, *(index.scores["data"] for index in index.indexes)):
        assert isinstance(part, np.memmap)
    assert not any(file.name == "counts.npy" for file in (tmp_path / "index").rglob("*"))


def test_the_corpus_may_move_but_not_change(tmp_path):
    file = write_jsonl(tmp_path / "corpus.jsonl", texts(8))
    before = build(file, tmp_path / "index").retrieve("a1 b2", 3)
    moved = file.rename(tmp_path / "moved.jsonl")
    with pytest.raises(InputError, match=r"does not exist.*give its place as `corpus`"):
        CorpusIndex(tmp_path / "index")
    found = CorpusIndex(tmp_path / "index", moved).retrieve("a1 b2", 3)
    assert [(passage.text, score) for passage, score in found] == [(passage.text, score) for passage, score in before]
    moved.write_text(moved.read_text().replace("Title 0", "Title X"))
    with pytest.raises(InputError, match="is not the corpus of the index"):
        CorpusIndex(tmp_path / "index", moved)


@pytest.mark.parametrize("name, content, message", [
    ("c.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
    ("c.jsonl", b'{"text": "a"}\n\n["b"]\n', "line 3 is not an object"),
    ("c.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 has no text"),
    ("c.jsonl", b'{"text": "a"}\n{"text": " "}\n', "line 2 has an empty text"),
    ("c.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not UTF-8"),
    ("c.jsonl", b"\n\n", "holds no passages"),
    ("c.jsonl", b"", "is empty"),
    ("c.tsv", b"1\ta\tb\n", "line 1 is not the header id text title"),
    ("c.tsv", b"id\ttext\ttitle\n1\ta\tb\n2\ta\n", "line 3 has 2 columns"),
    ("c.tsv", b'id\ttext\ttitle\n1\t"a\tb\n', "line 2 cannot be split"),
    ("c.tsv", b"id\ttext\ttitle\n", "holds no passages"),
    ("c.txt", b"a\n", "is not a corpus"),
    ("c.tsv.gz", b"a\n", "unpack it with gunzip"),
])  # fmt: skip
def test_a_corpus_that_cannot_be_read_names_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        build(tmp_path / name, tmp_path / "index")


def test_a_folder_with_something_else_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(InputError, match="something else than an index"):
        build(corpus, tmp_path / "mine")
    build(corpus, tmp_path / "index", 20)
    with pytest.raises(InputError, match="another corpus or with other settings"):
        build(corpus, tmp_path / "index", 30)
    with pytest.raises(InputError, match="at least 1"):
        build(corpus, tmp_path / "new", 0)


def test_a_damaged_index_says_so(corpus, tmp_path):
    build(corpus, tmp_path / "index")
    next((tmp_path / "index" / "shard-00001.bm25").glob("data*")).unlink()
    with pytest.raises(InputError, match="damaged"):
        CorpusIndex(tmp_path / "index")
    (tmp_path / "index" / "corpus_index.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        CorpusIndex(tmp_path / "index")


@pytest.mark.parametrize("question, k, message", [("a1", 42, "at most 41"), ("a1", 0, "at least 1"), (" ", 1, "is empty")])
def test_requests_that_cannot_be_served_say_why(corpus, tmp_path, question, k, message):
    index = build(corpus, tmp_path / "index")
    with pytest.raises(InputError, match=message):
        index.retrieve(question, k)
    with pytest.raises(InputError, match="no passage 41"):
        index.passage(41)
