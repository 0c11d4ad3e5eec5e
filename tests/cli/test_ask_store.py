"""`dprag ask --store`: a store that `dprag index` made is asked as a gateway asks it, and no mistake changes it."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import save_tiny_encoder

from distilledprag.base.llm import PassageEncoder
from distilledprag.generators.kept_states import KeptStates

QUESTION = "Where does Anna Tovberg live?"


@pytest.fixture
def models(tiny_prepared_folder):
    return ["--base", str(tiny_prepared_folder)]


def never(*_):
    raise AssertionError("a passage was encoded again")


@pytest.mark.parametrize("retriever", ["bm25", "dense", "hybrid"])
def test_a_store_is_asked_from_the_states_that_were_kept_and_each_collection_alone(
    dprag, indexed, models, encoder, retriever, monkeypatch
):
    monkeypatch.setattr(PassageEncoder, "states", never)
    by = ["--retriever", retriever, *(["--encoder", encoder] if retriever != "bm25" else [])]
    code, out, err = dprag("ask", QUESTION, "--store", indexed, "--collection", "people", "--json", *by, *models)
    record = json.loads(out)
    assert code == 0, err
    assert {passage["source"] for passage in record["passages"]} == {"people.md"} and record["sent"]["masks"] > 5
    if retriever == "bm25":
        assert [passage["text"] for passage in record["passages"]] == ["Anna Tovberg lives in Oakport."]
        assert record["passages"][0]["title"] == "Homes"
    code, out, err = dprag("ask", QUESTION, "--store", indexed, "--collection", "contracts", "--json", *by, *models)
    record = json.loads(out)
    assert code == 0, err
    assert {passage["source"] for passage in record["passages"]} <= {"rent.txt"}
    if retriever == "bm25":
        assert record["passages"] == [] and any("without documents" in note for note in record["notes"])


def test_an_answer_from_a_store_is_that_from_its_files_and_states_are_kept_with_the_first_question(dprag, tmp_path, models):
    (tmp_path / "a.txt").write_text("Anna Tovberg lives in Oakport.\n\nVelkor Foods is based in Millport.\n")
    assert dprag("index", tmp_path / "a.txt", "--store", tmp_path / "store")[0] == 0
    code, out, err = dprag("ask", QUESTION, "--store", tmp_path / "store", "--top-k", 1, "--compare", "--json", *models)
    assert code == 0, err
    stored = json.loads(out)
    other = json.loads(dprag("ask", QUESTION, "--docs", tmp_path / "a.txt", "--top-k", 1, "--compare", "--json", *models)[1])
    assert (stored["answer"], stored["sent"], stored["rag"]) == (other["answer"], other["sent"], other["rag"])
    assert stored["passages"][0]["score"] == other["passages"][0]["score"]
    kept = KeptStates(tmp_path / "store")
    assert kept.kept().passages == 1
    kept.write(b"as a gateway with a larger limit", {f"passage {n}": torch.ones(200, 2048) for n in range(5)})
    before = kept.kept()
    assert before.bytes > 2**20
    code, _, err = dprag("ask", QUESTION, "--store", tmp_path / "store", "--states-limit", 1, *models)
    assert code == 0 and kept.kept() == before, err
    kept.close()


def test_what_was_uploaded_since_is_found_by_meaning_too(dprag, tmp_path, models, encoder):
    (tmp_path / "a.txt").write_text("Anna Tovberg lives in Oakport.")
    (tmp_path / "b.txt").write_text("Bram Keller lives in Dunburg.")
    store = tmp_path / "store"
    by = ["--retriever", "dense", "--encoder", encoder]
    assert dprag("index", tmp_path / "a.txt", "--store", store, *by)[0] == 0
    assert dprag("index", tmp_path / "b.txt", "--store", store)[0] == 0
    code, out, err = dprag("ask", "Bram Keller lives in Dunburg.", "--store", store, "--top-k", 1, "--json", *by, *models)
    assert code == 0 and json.loads(out)["passages"][0]["source"] == "b.txt", err


def test_a_mistake_gives_one_message_and_changes_nothing_in_the_store(dprag, indexed, tmp_path, models, encoder):
    (tmp_path / "a.txt").write_text("Anna Tovberg lives in Oakport.")
    words, other = tmp_path / "words", save_tiny_encoder(tmp_path / "other", seed=1)
    assert dprag("index", tmp_path / "a.txt", "--store", words)[0] == 0
    (tmp_path / "nothing").mkdir()
    before = {file: file.read_bytes() for folder in (indexed, words) for file in folder.iterdir()}
    for options, message in [
        (["--store", tmp_path / "absent"], "no document store at"),
        (["--store", tmp_path / "nothing"], "no document store at"),
        (["--store", indexed, "--docs", indexed], "not both"),
        (["--store", indexed], "has no collection default; it has contracts (1), people (1)"),
        (["--store", indexed, "--collection", "a/b"], "a collection's name has"),
        (["--store", indexed, "--collection", "people", "--language", "german"], "searched by words as they are"),
        (["--store", indexed, "--collection", "people", "--limits", "pages=3"], "read by `dprag index`"),
        (["--store", indexed, "--collection", "people", "--top-k", 0], "top-k is 0"),
        (["--store", indexed, "--collection", "people", "--retriever", "dense", "--encoder", other], "by another encoder"),
        (["--store", words, "--retriever", "dense", "--encoder", encoder], "indexed by words only"),
        (["--docs", indexed, "--collection", "people"], "name it with --store"),
    ]:
        code, out, err = dprag("ask", QUESTION, *options, *models)
        assert code == 1 and out == "" and "Traceback" not in err, options
        assert message in " ".join(err.split()), (options, err)
    assert dprag("ask", QUESTION, *models)[0] == 2
    assert not (tmp_path / "absent").exists() and not list((tmp_path / "nothing").iterdir())
    assert before == {file: file.read_bytes() for folder in (indexed, words) for file in folder.iterdir()}


def test_an_empty_store_says_so(dprag, tmp_path, models):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("Anna Tovberg lives in Oakport.")
    store = tmp_path / "store"
    assert dprag("index", tmp_path / "documents", "--store", store)[0] == 0
    (tmp_path / "documents" / "a.txt").unlink()
    assert dprag("index", tmp_path / "documents", "--store", store, "--allow-empty")[0] == 0
    code, _, err = dprag("ask", QUESTION, "--store", store, *models)
    assert code == 1 and "holds no documents" in err
