"""Documents that come more than once: equal bytes are one document, near-equal ones are told."""

from __future__ import annotations

import sqlite3

import pytest

from distilledprag.documents.indexing import index_path, prepare_text
from distilledprag.documents.store import DocumentStore
from distilledprag.retrieval.bm25 import StoreRetriever

TEXT = "Anna lives in Oakport near the old harbour.\n\n" + "\n\n".join(
    f"Rule {n}: the tenant keeps room {n} clean." for n in range(30)
)


def add(store, name, text=TEXT, collection="default"):
    return store.add([prepare_text(name, text, store.reading_folder)], collection)[0]


def test_equal_bytes_are_one_document_under_all_their_names(store):
    ids = {add(store, name) for name in ("a.txt", "b.txt", "a.txt", "b.txt")}
    (document,) = store.listed()
    assert ids == {document.id} and (document.name, document.copies) == ("a.txt", ("b.txt",))
    assert len(store.passages(document.id)) == document.passages == 31


def test_other_collections_and_other_types_are_documents_of_their_own(store):
    assert len({add(store, "a.txt"), add(store, "a.md"), add(store, "a.txt", collection="other")}) == 3


def test_indexed_copies_are_kept_once_and_survive_the_first_file(store, folder):
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text(TEXT)
    report = index_path(store, folder)
    assert (report.added, len(report.copies), store.count()) == (1, 2, 1) and report.copies[0][0].endswith("b.txt")
    again = index_path(store, folder)
    assert (again.added, again.unchanged, again.copies) == (0, 3, [])
    (before,) = store.listed()
    (folder / "a.txt").unlink()
    index_path(store, folder)
    (after,) = store.listed()
    assert after.id == before.id and (after.name, after.copies) == ("b.txt", ("c.txt",)) and after.source.endswith("b.txt")
    (folder / "b.txt").unlink()
    (folder / "c.txt").unlink()
    assert index_path(store, folder, allow_empty=True).deleted == 2 and store.count() == 0


def test_a_copy_that_changes_becomes_a_document_and_the_others_stay(store, folder):
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(TEXT)
    index_path(store, folder)
    (first,) = store.listed()
    (folder / "a.txt").write_text("Boris keeps bees.")
    index_path(store, folder)
    assert {(document.name, document.copies) for document in store.listed()} == {("a.txt", ()), ("b.txt", ())}
    assert store.document(first.id).name == "b.txt"
    (folder / "a.txt").write_text(TEXT)
    report = index_path(store, folder)
    (document,) = store.listed()
    assert (document.name, document.copies, len(report.copies)) == ("b.txt", ("a.txt",), 1)
    assert [p.source for p, _ in StoreRetriever(store.database).retrieve("Boris Oakport", 3)] == ["b.txt"]


def test_an_upload_of_an_indexed_file_stays_when_the_file_goes(store, folder):
    (folder / "a.txt").write_text(TEXT)
    index_path(store, folder)
    id = add(store, "mine.txt")
    (folder / "a.txt").unlink()
    index_path(store, folder, allow_empty=True)
    (document,) = store.listed()
    assert (document.id, document.name, document.source) == (id, "mine.txt", None)


def test_a_deletion_takes_all_names_with_it(store):
    store.delete(
        [
            add(store, "a.txt"),
        ][:1]
    )
    assert store.count() == 0 and add(store, "b.txt") and store.listed()[0].copies == ()


def test_a_document_that_nearly_repeats_an_earlier_one_is_told(store):
    first = add(store, "a.txt")
    second = add(store, "b.txt", TEXT.replace("harbour", "port"))
    other = add(store, "c.txt", "The vessel Copperleaf carries 412 passengers and a crew of thirty.")
    found = store.likenesses([first, second, other])
    assert set(found) == {second} and found[second].id == first and 0.8 <= found[second].similarity < 1
    store.delete([first])
    assert store.likenesses([second, other]) == {} == store.likenesses([])


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_taken_over_with_new_words(file_store, tmp_path, version):
    id = add(file_store, "a.txt", "नमस्ते दुनिया, INV_2023_0042")
    old = "".join(f"DROP TABLE {name};" for name in "vocabulary passage_words word_rule vectors copies signatures".split())
    if version == 1:
        old = "ALTER TABLE documents DROP COLUMN notes;" + old
    with sqlite3.connect(file_store.database.file) as connection:  # what these versions had
        connection.executescript(
            f"{old} CREATE VIRTUAL TABLE passage_words USING fts5 (words); CREATE VIRTUAL TABLE vocabulary USING fts5vocab "
            f"(passage_words, row); INSERT INTO passage_words VALUES ('नमस्ते'); PRAGMA user_version = {version}"
        )
    file_store.close()
    again = DocumentStore(tmp_path / "store")
    for question in ("नमस्ते", "0042"):
        assert [one[2] for one in StoreRetriever(again.database).find(question, 1)] == [id]
    assert add(again, "b.txt", "नमस्ते दुनिया, INV_2023_0042") == id
    again.close()


def test_the_index_command_names_what_it_kept_once_and_remembers_a_language(dprag, folder, tmp_path):
    (folder / "a.txt").write_text("Sie unterschrieb zwei Verträge.")
    (folder / "b.txt").write_text("Sie unterschrieb zwei Verträge.")
    code, out, err = dprag("index", folder, "--store", tmp_path / "s", "--language", "german")
    assert code == 0 and out == "1 documents in collection default\n" and "kept once:" in err and "1 added" in err
    store = DocumentStore(tmp_path / "s")
    assert len(StoreRetriever(store.database).retrieve("Vertrages", 3)) == 1
    store.close()
    code, _, err = dprag("index", folder, "--store", tmp_path / "s", "--language", "klingon")
    assert code == 1 and "no stemmer for 'klingon'" in " ".join(err.split())
