"""Documents come out of every format whole, once, and the same way every time."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from qa_server import document

from distilledprag.errors import ConfigError, InputError
from distilledprag.synthesis import Document, plan_items, read_documents

TEXTS = [document(0), f'{document(1)} It calls itself "the ""tea"" house".', document(2)]


def write_tsv(file, rows, opener=open):
    """As DPR publishes it: text in quotes, quotes doubled."""
    with opener(file, "wt", encoding="utf-8") as out:
        out.write("id\ttext\ttitle\n")
        for number, (text, title) in enumerate(rows, start=1):
            quoted = text.replace('"', '""')
            out.write(f'{number}\t"{quoted}"\t{title}\n')
    return file


def write_jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


FORMATS = {
    "psgs_w100.tsv": lambda file: write_tsv(file, [(text, f"T{i}") for i, text in enumerate(TEXTS)]),
    "psgs_w100.tsv.gz": lambda file: write_tsv(file, [(text, f"T{i}") for i, text in enumerate(TEXTS)], gzip.open),
    "d.jsonl": lambda file: write_jsonl(file, [{"text": text, "title": f"T{i}"} for i, text in enumerate(TEXTS)]),
    "d.json": lambda file: file.write_text(json.dumps([{"text": t, "title": f"T{i}"} for i, t in enumerate(TEXTS)])),
    "d.parquet": lambda file: pyarrow.parquet.write_table(
        pyarrow.table({"contents": TEXTS, "title": ["T0", "T1", "T2"], "other": [1, 2, 3]}), file
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_collection_gives_the_same_documents(tmp_path, name):
    FORMATS[name](tmp_path / name)
    reading = read_documents([tmp_path / name])
    assert reading.documents == [Document(text, f"T{i}") for i, text in enumerate(TEXTS)]
    assert read_documents([tmp_path]).documents == reading.documents  # and from their folder


def test_a_row_is_not_cut_but_a_text_file_is(tmp_path):
    long = " ".join(document(i) for i in range(30))
    write_jsonl(tmp_path / "a.jsonl", [{"text": long}])
    assert [d.text for d in read_documents([tmp_path / "a.jsonl"], passage_words=40).documents] == [long]
    (tmp_path / "b.txt").write_text(long)
    passages = read_documents([tmp_path / "b.txt"], passage_words=40).documents
    assert len(passages) > 5 and all(len(d.text.split()) <= 40 for d in passages)
    assert " ".join(d.text for d in passages) == long


def test_short_and_repeated_documents_are_left_out_and_counted(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in (*TEXTS, TEXTS[0], "Too short.", "")])
    reading = read_documents([tmp_path / "a.jsonl"])
    assert [d.text for d in reading.documents] == TEXTS and reading.read == 6
    assert reading.skipped == {"duplicate": 1, "fewer than 10 words": 2}


def test_a_file_named_twice_is_read_once(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": TEXTS[0]}])
    assert read_documents([file, tmp_path]).read == 1


def test_titles_become_part_of_the_text_when_asked(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": TEXTS[0], "title": "Arvo"}, {"text": TEXTS[2]}])
    documents = read_documents([tmp_path / "a.jsonl"], titles=True).documents
    assert documents == [Document(f"Arvo: {TEXTS[0]}"), Document(TEXTS[2])]


def test_a_sample_is_seeded_distinct_and_in_reading_order(tmp_path):
    texts = [document(i) for i in range(200)]
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    first, again, other = (read_documents([tmp_path], limit=20, seed=seed).documents for seed in (0, 0, 1))
    assert first == again != other
    places = [texts.index(d.text) for d in first]
    assert len(set(places)) == 20 and places == sorted(places)
    assert len(read_documents([tmp_path], limit=500).documents) == 200


def test_every_document_is_as_likely_in_a_sample(tmp_path):
    texts = [document(i) for i in range(12)]
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    counts = Counter(d.text for seed in range(100) for d in read_documents([tmp_path], limit=4, seed=seed).documents)
    assert set(counts) == set(texts) and min(counts.values()) > 15 and max(counts.values()) < 52  # 33 expected


def test_a_cut_gzip_file_is_named_what_it_still_held_is_kept_and_other_files_are_read(tmp_path):
    file = write_tsv(tmp_path / "a.tsv.gz", [(text, "T") for text in TEXTS], gzip.open)
    file.write_bytes(file.read_bytes()[:-12])
    write_jsonl(tmp_path / "b.jsonl", [{"text": document(20)}, {"text": 3}, {"text": document(21)}])
    (tmp_path / "c.txt").write_text(document(22))
    (tmp_path / "d.docx").write_bytes(b"PK broken")
    sample = read_documents([tmp_path])
    assert {document(20), document(22)} <= {one.text for one in sample.documents}
    assert document(21) not in {one.text for one in sample.documents}
    failed = dict(zip(("a.tsv.gz", "b.jsonl, line 2", "d.docx"), sample.failed, strict=True))
    assert all(name in reason for name, reason in failed.items()) and "damaged or cut" in failed["a.tsv.gz"]


BAD = {
    "none.jsonl": (None, "does not exist"),
    "broken.jsonl": (b'{"text": "a"}\n{"text', "line 2 is not JSON"),
    "list.jsonl": (b"[1]\n", "line 1 is not an object"),
    "untexted.jsonl": (b'{"title": "a"}\n', "line 1 has no text"),
    "latin.jsonl": ('{"text": "caf\xe9"}\n'.encode("latin-1"), "not UTF-8"),
    "headless.tsv": (b"1\tsome text\tTitle\n", "column names"),
    "ragged.tsv": (b"id\ttext\ttitle\n1\tonly\n", "line 2 has 2 columns"),
    "no.parquet": (b"PAR1 nothing", "not a readable Parquet file"),
    "odd.xyz": (b"text", "not supported"),
    "short.jsonl": (b'{"text": "short"}\n', "no document has at least 10 words"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_files_are_named_with_the_place(tmp_path, name):
    content, message = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_documents([tmp_path / name])
    assert name in str(caught.value)


def test_an_empty_folder_and_an_empty_sample_are_refused(tmp_path):
    with pytest.raises(InputError, match="no readable documents"):
        read_documents([tmp_path])
    with pytest.raises(ConfigError, match="at least 1"):
        read_documents([tmp_path], limit=0)


DOCUMENTS = [Document(document(i)) for i in range(40)]


@pytest.mark.parametrize("partners", [0, 1, 3])
def test_every_document_is_asked_about_alone_and_with_its_partners(partners):
    items = plan_items(DOCUMENTS, partners, seed=0)
    assert [item.documents for item in items if item.kind == "single"] == [(d,) for d in DOCUMENTS]
    crossed = [item.documents for item in items if item.kind == "cross"]
    assert Counter(first for first, _ in crossed) == Counter(dict.fromkeys(DOCUMENTS, partners) if partners else {})
    assert len({frozenset(pair) for pair in crossed}) == len(crossed)
    assert all(len(set(pair)) == 2 for pair in crossed)


def test_the_plan_depends_on_the_seed_alone():
    assert plan_items(DOCUMENTS, 1, 0) == plan_items(DOCUMENTS, 1, 0) != plan_items(DOCUMENTS, 1, 1)


def test_two_documents_make_one_pair_and_one_makes_none():
    assert [item.kind for item in plan_items(DOCUMENTS[:2], 3, 0)].count("cross") == 1
    assert [item.kind for item in plan_items(DOCUMENTS[:1], 3, 0)] == ["single"]
