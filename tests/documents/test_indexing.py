"""`dprag index`: only what changed is read, what is gone is deleted, and no single bad file or stop spoils the rest."""

from __future__ import annotations

import os

import pytest

from distilledprag.documents import indexing
from distilledprag.documents.indexing import index_path
from distilledprag.documents.loading import LoadedDocument, load_document
from distilledprag.errors import InputError
from distilledprag.retrieval.bm25 import StoreRetriever


@pytest.fixture
def folder(folder):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_text("Anna lives in Oakport.")
    (folder / "deep" / "b.md").write_text("# Ships\n\nThe Copperleaf carries wheat.")
    (folder / "deep" / "er" / "c.html").write_text("<p>Velkor Foods is in Millport.</p>")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def texts(store):
    return sorted(passage.text for document in store.listed() for passage in store.passages(document.id))


def test_all_readable_files_below_a_folder_are_indexed(store, folder):
    report = index_path(store, folder)
    assert (report.added, report.skipped, report.failed) == (3, 1, [])
    assert texts(store) == ["Anna lives in Oakport.", "The Copperleaf carries wheat.", "Velkor Foods is in Millport."]


def test_unchanged_files_are_not_read_again(store, folder, monkeypatch):
    index_path(store, folder)
    monkeypatch.setattr(indexing, "prepare_file", lambda file, load, ocr: pytest.fail(f"{file} was read"))
    report = index_path(store, folder)
    assert (report.added, report.changed, report.unchanged, report.deleted) == (0, 0, 3, 0)


def test_changes_and_deletions_reach_the_store_and_its_search(store, folder):
    index_path(store, folder)
    (folder / "a.txt").write_text("Anna lives in Dunmouth now.")
    (folder / "deep" / "b.md").unlink()
    report = index_path(store, folder)
    assert (report.added, report.changed, report.unchanged, report.deleted) == (0, 1, 1, 1)
    search = StoreRetriever(store.database)
    assert search.retrieve("Oakport Copperleaf", 5) == []
    assert [p.text for p, _ in search.retrieve("Dunmouth", 5)] == ["Anna lives in Dunmouth now."]


def test_a_changed_file_keeps_its_id(store, folder):
    index_path(store, folder / "a.txt")
    before = store.listed()[0].id
    (folder / "a.txt").write_text("Anna lives in Dunmouth now.")
    index_path(store, folder / "a.txt")
    assert [document.id for document in store.listed()] == [before]


def test_a_subfolder_and_uploads_are_left_alone_when_another_place_is_indexed(store, folder, tmp_path):
    from distilledprag.documents.indexing import prepare_text

    index_path(store, folder)
    store.add([prepare_text("upload.txt", "Boris keeps bees.", store.reading_folder)])
    (folder / "a.txt").unlink()
    report = index_path(store, folder / "deep")
    assert report.deleted == 0 and store.count() == 4
    assert index_path(store, folder).deleted == 1 and "Boris keeps bees." in texts(store)


def test_a_damaged_file_is_reported_its_old_version_kept_and_the_rest_indexed(store, folder):
    index_path(store, folder)
    (folder / "a.txt").write_bytes(b"\0\1\2 binary")
    (folder / "new.txt").write_text("Boris keeps bees.")
    report = index_path(store, folder)
    assert [file.name for file, _ in report.failed] == ["a.txt"] and report.added == 1 and report.deleted == 0
    assert {"Anna lives in Oakport.", "Boris keeps bees."} <= set(texts(store))


def test_every_kind_of_bad_file_is_named_and_takes_no_other_with_it(store, folder, tmp_path, reading):
    (folder / "styles.docx").write_bytes(b"PK\x03\x04 broken")
    (folder / "bomb.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "half.json").write_bytes(b'[{"text": "a"}, {"te')
    os.symlink(folder / "nowhere.txt", folder / "link.txt")
    odd = os.fsencode(folder) + b"/caf\xe9.txt"
    with open(odd, "wb") as file:
        file.write(b"Boris keeps bees.")
    report = index_path(store, folder, load=reading.read)
    assert report.added == 4 and sorted(file.name for file, _ in report.failed) == ["bomb.pdf", "half.json", "styles.docx"]
    assert all(file.name in why for file, why in report.failed) and "Boris keeps bees." in texts(store)
    assert index_path(store, folder, load=reading.read).unchanged == 4
    os.unlink(odd)
    assert index_path(store, folder, load=reading.read).deleted == 1


def test_what_was_read_before_an_unforeseen_fault_is_kept(store, folder):
    def load(file, longest):
        if file.suffix == ".html":
            raise RuntimeError("a fault of the program")
        return load_document(file, longest)

    with pytest.raises(RuntimeError):
        index_path(store, folder, load=load)
    assert texts(store) == ["Anna lives in Oakport.", "The Copperleaf carries wheat."]


def test_what_could_not_be_read_of_a_document_is_kept_with_it(store, folder):
    def load(file, longest):
        return LoadedDocument(load_document(file, longest).passages, ("page 2 holds no text (scanned?)",))

    report = index_path(store, folder / "a.txt", load=load)
    assert report.notes == [f"{folder / 'a.txt'}: page 2 holds no text (scanned?)"]
    assert store.listed()[0].notes == store.document(store.listed()[0].id).notes == ("page 2 holds no text (scanned?)",)


def test_a_folder_that_became_empty_deletes_only_when_told_to(store, folder):
    index_path(store, folder / "deep")
    (folder / "deep" / "b.md").unlink()
    (folder / "deep" / "er" / "c.html").unlink()
    with pytest.raises(InputError, match="--allow-empty"):
        index_path(store, folder / "deep")
    assert store.count() == 2
    assert index_path(store, folder / "deep", allow_empty=True).deleted == 2 and store.count() == 0


def test_a_stopped_run_keeps_its_batches_and_the_next_one_reads_only_the_rest(store, folder, monkeypatch):
    monkeypatch.setattr(indexing, "BATCH", 1)

    def stop(done, total, file):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_path(store, folder, on_file=stop)
    assert store.count() == 2
    report = index_path(store, folder)
    assert (report.added, report.unchanged) == (1, 2)


def test_progress_counts_every_file(store, folder):
    seen = []
    index_path(store, folder, on_file=lambda done, total, file: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_missing_path_changes_nothing(store, folder):
    index_path(store, folder)
    with pytest.raises(InputError, match="does not exist"):
        index_path(store, folder / "none")
    assert store.count() == 3


@pytest.mark.slow
def test_ten_thousand_documents_are_indexed_searched_and_found_unchanged(store, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(10_000):
        (many / f"{number:05d}.txt").write_text(f"Record {number} says that part K-{number} weighs {number % 977} grams.")
    assert index_path(store, many).added == 10_000
    assert StoreRetriever(store.database).retrieve("What does part K-4821 weigh?", 1)[0][0].source == "04821.txt"
    assert index_path(store, many).unchanged == 10_000


def test_the_command_says_what_it_did(dprag, folder, tmp_path, place):
    code, out, err = dprag("index", folder, "--store", place, "--collection", "papers")
    assert code == 0 and out == "3 documents in collection papers\n" and "3 added" in err
    (folder / "bad.txt").write_bytes(b"\0\0\0")
    code, _, err = dprag("index", folder, "--store", place, "--collection", "papers")
    assert code == 1 and "bad.txt" in err and "3 unchanged" in err and "Traceback" not in err
    assert dprag("index", tmp_path / "none", "--store", tmp_path / "w")[0] == 1 and not (tmp_path / "w").exists()
