"""Stores by their place: a folder or the address of a database; what only one kind has, and what both bear."""

from __future__ import annotations

import pytest

from distilledprag.documents import Passage
from distilledprag.documents.database import without_password
from distilledprag.documents.store import DocumentStore, PreparedDocument
from distilledprag.errors import StoreError
from distilledprag.retrieval.bm25 import StoreRetriever


@pytest.mark.parametrize(("place", "shown"), [
    ("postgresql://anna:s3cret@host/dprag", "postgresql://anna@host/dprag"),
    ("postgres://anna:a%2Fb%40c@host/dprag", "postgres://anna@host/dprag"),
    ("postgresql:///dprag?host=/tmp", "postgresql:///dprag?host=/tmp"),
    ("postgresql://host/dprag?user=anna&password=s3cret&port=1", "postgresql://host/dprag?user=anna&password=...&port=1"),
    ("folder/store", "folder/store"),
])  # fmt: skip
def test_a_place_is_shown_without_its_password(place, shown):
    assert without_password(place) == shown


@pytest.mark.parametrize(("place", "reason"), [
    ("postgresql://anna:s3cret@127.0.0.1:1/dprag", "cannot be reached.*refused"),
    ("postgresql://anna:s3cret@host/dprag?colour=red", "address is wrong"),
])  # fmt: skip
def test_a_database_that_is_not_there_is_an_error_without_the_password(place, reason):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=f"(?s){reason}") as caught:
        DocumentStore(place)
    assert "s3cret" not in str(caught.value)


def test_a_place_without_a_store_is_given_one_only_where_that_is_wanted(new_place):
    place = new_place()
    for _ in range(2):  # the first try has made nothing
        with pytest.raises(StoreError, match="no document store at"):
            DocumentStore(place, make=False)
    DocumentStore(place).close()
    store = DocumentStore(place, make=False)
    assert store.count() == 0
    store.close()


def test_what_a_database_cannot_hold_as_it_is_is_found_all_the_same(store):
    long = "a" * 3000
    passages = [Passage("One\0two, and it's a \\ b.", "", "", 0), Passage(f"{long} here", "", "", 1), Passage("...", "", "", 2)]
    store.add([PreparedDocument("a.txt", passages, "0", 1)])
    search = StoreRetriever(store.database)
    assert [p.index for p, _ in search.retrieve("two", 3)] == [0]
    assert [p.index for p, _ in search.retrieve(long, 3)] == [1]
    assert [p.text[-1] for p in store.passages(store.listed()[0].id)] == [".", "e", "."]
    assert len(store.texts_with(["it's a \\ b"])) == 1 and store.texts_with(["IT'S"]) == []


def test_another_process_of_the_same_store_sees_what_one_adds_and_removes(store, place):
    other = DocumentStore(place)
    (id,) = store.add([PreparedDocument("a.txt", [Passage("Anna lives in Oakport.", "")], "0", 1)], "people")
    assert other.add([PreparedDocument("a.txt", [Passage("Anna lives in Oakport.", "")], "0", 1)], "people") == [id]
    assert [found for _, _, found in StoreRetriever(other.database, "people").find("Oakport", 3)] == [id]
    other.delete([id])
    other.close()
    assert store.count() == 0 and StoreRetriever(store.database).retrieve("Oakport", 3) == []


def test_sqlite_asks_its_word_index_once_for_a_question_and_not_for_every_passage(tmp_path):
    store = DocumentStore(tmp_path / "store")
    store.add([PreparedDocument("a.txt", [Passage(f"Line {n}", "", "", n) for n in range(50)], "0", 1)], "people")
    connection, asked = store.database.connection(), []
    connection.set_trace_callback(asked.append)
    assert len(StoreRetriever(store.database, "people").find("Line", 3)) == 3
    connection.set_trace_callback(None)
    (search,) = [statement for statement in asked if statement.startswith("SELECT") and "MATCH" in statement]
    plan = [step.rpartition("INDEX ")[2] for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {search}") if "VIRTUAL" in step]
    matches = [step for step in plan if "M" in step]
    assert matches and not any("=" in step for step in matches)  # =: looked up again for each row id
    store.close()
