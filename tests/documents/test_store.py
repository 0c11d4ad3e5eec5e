"""The store: private, whole after any stop, and searched exactly as the passages in memory are."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import threading

import pytest

from distilledprag.documents import Passage
from distilledprag.documents.indexing import prepare_bytes, prepare_text
from distilledprag.documents.sqlite import SqliteDatabase
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import DiskFullError, InputError, StoreError, UnknownDocumentError
from distilledprag.retrieval import BM25Retriever
from distilledprag.retrieval.bm25 import StoreRetriever

WORDS = "amber birch copper delta ember fjord granite harbour island juniper kestrel lantern meadow nickel orchard".split()


def written(store, name, text, collection="default"):
    return store.add([prepare_text(name, text, store.reading_folder)], collection)[0]


def random_text(seed):
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(chosen.randint(3, 40)))


def check_whole(store):
    """Totals are those of the passages that are there; a file passes SQLite's checks, and its index has the same passages."""
    in_a_file = isinstance(store.database, SqliteDatabase)
    with store.database.reading() as connection:
        rows = connection.execute("SELECT id, words FROM passages").fetchall()
        assert connection.execute("SELECT passages, words FROM totals").fetchone() == (len(rows), sum(w for _, w in rows))
        if in_a_file:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert {id for id, _ in rows} == {id for (id,) in connection.execute("SELECT rowid FROM passage_words")}
        orphans = "SELECT count(*) FROM passages WHERE document NOT IN (SELECT id FROM documents)"
        assert connection.execute(orphans).fetchone() == (0,)
    if in_a_file:
        with store.database.writing() as connection:
            connection.execute("INSERT INTO passage_words (passage_words) VALUES ('integrity-check')")


def test_only_the_owner_can_read_the_store(file_store):
    written(file_store, "a.txt", "Anna lives in Oakport.")
    assert stat.S_IMODE(file_store.database.folder.stat().st_mode) == 0o700
    files = list(file_store.database.folder.iterdir())
    assert len(files) >= 2 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_what_was_added_is_there_after_reopening(store, place):
    id = written(store, "notes.txt", "Anna lives in Oakport.\n\nShe owns a boat.")
    store.close()
    again = DocumentStore(place)
    document = again.document(id)
    assert (document.name, document.passages, document.collection) == ("notes.txt", 2, "default")
    assert [passage.text for passage in again.passages(id)] == ["Anna lives in Oakport.", "She owns a boat."]
    again.close()


def test_the_same_upload_twice_is_one_document_and_another_text_under_its_name_a_second_one(store):
    first = written(store, "notes.txt", "Anna lives in Oakport.")
    assert written(store, "notes.txt", "Anna lives in Oakport.") == first
    assert written(store, "notes.txt", "Boris lives in Millport.") != first
    assert store.count() == 2


def test_search_ranks_and_scores_as_bm25_in_memory_does(store):
    texts = [random_text(seed) for seed in range(120)]
    for number, text in enumerate(texts):
        written(store, f"{number}.txt", text)
    memory = BM25Retriever([Passage(text, f"{number}.txt") for number, text in enumerate(texts)])
    for seed in range(1000, 1030):
        question = " ".join(random_text(seed).split()[:4]) + " unknown"
        expected = [(p.source, score) for p, score in memory.retrieve(question, 10) if score > 0]
        found = [(p.source, score) for p, score in StoreRetriever(store.database).retrieve(question, 10)]
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-5)


def test_search_after_deletions_is_that_of_a_store_that_never_had_them(store, new_place):
    ids = [written(store, f"{n}.txt", random_text(n)) for n in range(60)]
    store.delete(ids[::2])
    fresh = DocumentStore(new_place())
    for n in range(1, 60, 2):
        written(fresh, f"{n}.txt", random_text(n))
    for seed in range(1000, 1010):
        assert StoreRetriever(store.database).retrieve(random_text(seed), 8) == StoreRetriever(fresh.database).retrieve(
            random_text(seed), 8
        )
    check_whole(store)
    fresh.close()


def test_a_name_that_is_in_every_document_still_finds_them(store):
    for number in range(3):
        written(store, f"{number}.txt", f"Velkor Foods, report {number}.")
    found = StoreRetriever(store.database).retrieve("Velkor", 3)
    assert len(found) == 3 and all(score > 0 for _, score in found)


def test_a_collection_is_searched_alone(store):
    written(store, "a.txt", "Anna lives in Oakport.", "people")
    written(store, "b.txt", "Anna is a ship.", "ships")
    assert [p.source for p, _ in StoreRetriever(store.database, "ships").retrieve("Anna", 5)] == ["b.txt"]
    assert store.collections() == {"people": 1, "ships": 1}
    with pytest.raises(InputError, match="collection's name"):
        written(store, "c.txt", "Text.", "../people")


@pytest.mark.parametrize("question", ['"', "a OR b", "NEAR(", "words: x*", "'); DROP TABLE documents; --", "ß İ ﬁ 😀", "\0"])
def test_no_question_is_taken_for_a_query_language(store, question):
    written(store, "a.txt", "Words about a or b.")
    StoreRetriever(store.database).retrieve(question, 3)
    assert store.count() == 1


def test_words_of_deleted_documents_leave_the_files_when_compacted(file_store):
    id = written(file_store, "a.txt", "The password is Quarzklippe77.")
    written(file_store, "b.txt", "Another text.")
    file_store.delete([id])
    file_store.database.compact()
    for file in file_store.database.folder.iterdir():
        assert b"uarzklippe77" not in file.read_bytes().lower(), file.name


def test_deleting_an_unknown_document_deletes_nothing(store):
    id = written(store, "a.txt", "Text.")
    with pytest.raises(UnknownDocumentError):
        store.delete([id, "0000"])
    assert store.count() == 1


def test_a_full_disk_is_a_clear_error_and_costs_no_document(file_store):
    kept = written(file_store, "kept.txt", "Anna lives in Oakport.")
    connection = file_store.database.connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFullError, match="full"):
        file_store.add([prepare_text("large.txt", "\n\n".join(random_text(n) for n in range(500)), file_store.reading_folder)])
    assert [document.id for document in file_store.listed()] == [kept]
    connection.execute("PRAGMA max_page_count = 1000000")
    check_whole(file_store)
    assert written(file_store, "later.txt", "There is room again.")


@pytest.mark.parametrize("content", [b"not a database, only text of some length " * 20, b"SQLite format 3\0" + b"x" * 4096])
def test_another_file_is_not_taken_for_a_store(tmp_path, content):
    (tmp_path / "store.sqlite").write_bytes(content)
    with pytest.raises(StoreError):
        DocumentStore(tmp_path)
    assert (tmp_path / "store.sqlite").read_bytes() == content


def test_a_folder_with_other_things_does_not_become_a_store(tmp_path):
    (tmp_path / "thesis.doc").write_text("text")
    with pytest.raises(StoreError, match="something else"):
        DocumentStore(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.doc"]


def test_unreadable_uploads_are_refused_by_their_name_and_leave_no_copy(store):
    with pytest.raises(InputError, match=r"^scan\.pdf"):
        prepare_bytes("folder/scan.pdf", b"not a pdf", store.reading_folder)
    with pytest.raises(InputError, match="not supported"):
        prepare_bytes("film.mp4", b"\x89PNG", store.reading_folder)
    with pytest.raises(InputError, match="empty"):
        prepare_text("a.txt", "  ", store.reading_folder)
    assert all(file.name.startswith("store.sqlite") for file in store.reading_folder.iterdir())


def test_answers_are_remembered_per_engine_as_hashes_only(store):
    store.remember_answer("http://one", "Marten Hale leads it.")
    assert store.wrote_answer("http://one", " Marten Hale leads it. ")
    assert not store.wrote_answer("http://two", "Marten Hale leads it.")
    assert not any(b"Marten" in file.read_bytes() for file in store.database.folder.iterdir())


def test_threads_add_at_the_same_time_without_losing_any(store):
    def add(start):
        for number in range(start, start + 20):
            written(store, f"{number}.txt", f"Document {number} about {WORDS[number % 15]}.")

    threads = [threading.Thread(target=add, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 80
    check_whole(store)


_WRITER = """
import sys
from distilledprag.documents.indexing import prepare_text
from distilledprag.documents.sqlite import SqliteDatabase
from distilledprag.documents.store import DocumentStore, PreparedDocument
store, number = DocumentStore(sys.argv[1]), int(sys.argv[2])
while True:
    text = "\\n\\n".join(f"Document {number}, paragraph {p} about granite." for p in range(20))
    ids = store.add([prepare_text(f"{number}.txt", text, store.reading_folder)])
    print(number, ids[0], flush=True)
    if number % 5 == 4:
        store.delete(ids)
        print(number, "deleted", flush=True)
    number += 1
"""


def test_no_acknowledged_document_is_lost_when_the_process_is_killed_at_any_moment(place):
    acknowledged, deleted = {}, set()
    chosen = random.Random(0)
    for start in range(0, 5000, 1000):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(place), str(start)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) > chosen.randint(3, 25):
                break
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                number, id = line.split()
                if id == "deleted":
                    deleted.add(acknowledged.pop(number))
                else:
                    acknowledged[number] = id
    store = DocumentStore(place)
    store.clear_readings()
    stored = {document.id: document for document in store.listed(limit=10_000)}
    # The last deletion of a process may have been done and not been told.
    missing = {id for id in acknowledged.values() if id not in stored}
    assert missing <= {id for number, id in acknowledged.items() if int(number) % 5 == 4}
    assert deleted.isdisjoint(stored) and len(stored) > 20
    assert all(document.passages == 20 for document in stored.values())
    check_whole(store)
    store.close()


def test_another_process_may_read_while_one_writes(file_store):
    written(file_store, "a.txt", "Anna lives in Oakport.")
    code = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM documents').fetchone())"
    with file_store.database.writing() as connection:
        connection.execute("DELETE FROM documents")
        reader = [sys.executable, "-c", code, str(file_store.database.file)]
        assert subprocess.run(reader, capture_output=True, text=True, check=True).stdout == "1\n"
    assert file_store.count() == 0
