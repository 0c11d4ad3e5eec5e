"""`dprag search`: what retrieval finds in a store, and why; no LLM, no change to the store."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from distilledprag import pipeline
from distilledprag.cli.search import run
from distilledprag.cli.store import Search, Stored
from distilledprag.documents import Passage
from distilledprag.retrieval import dense


@pytest.fixture
def copied(dprag, tmp_path):
    """Four passages with one word of the question, of which the second nearly repeats the first."""
    texts = [
        "The deposit of the flat at Harbour Row is $2,680, and the tenant pays it to the owner of the flat in March.",
        "The deposit of the flat at Harbour Row is $2,680, and the tenant pays it to the owner of this flat in March.",
        "The deposit for the warehouse in Millport is $900, " + "which the company paid long before anybody moved in there, " * 5,
        "No deposit is due for the garage.",
        "The rent is $1,249.50 a month.",
    ]
    (tmp_path / "a.md").write_text("# Contracts\n\n" + "\n\n".join(texts))
    assert dprag("index", tmp_path / "a.md", "--store", tmp_path / "store")[0] == 0
    return tmp_path / "store"


def test_ranks_places_and_words_are_told_and_what_an_answer_would_use(dprag, copied, monkeypatch):
    monkeypatch.delattr(pipeline, "DistilledPRAG")  # no LLM is needed
    options = ("How high is the deposit of the caravan?", "--store", copied, "--top-k", 2)
    code, out, err = dprag("search", *options, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["words"] == {"high": 0, "deposit": 4, "caravan": 0} and record["retriever"] == "bm25"
    rows = record["passages"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4] and {row["title"] for row in rows} == {"Contracts"}
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True) and rows[-1]["score"] > 0
    by_place = {row["place"]: row for row in rows}
    assert by_place.keys() == {0, 1, 2, 3}
    assert {place for place, row in by_place.items() if row["used"]} == {0, 3}
    assert {place for place, row in by_place.items() if row["repeats"]} == {1}
    code, out, _ = dprag("search", *options)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0 and lines[0].endswith("high (0), deposit (4), caravan (0)") and len(lines) == 1 + 2 * 4
    assert lines[1].startswith("1 0.") and lines[1].endswith("a.md, passage 4 of 5, under 'Contracts' used")
    assert lines[2] == "No deposit is due for the garage." and lines[-1].endswith("…") and "moved in there, which" in lines[-1]
    assert sum(line.endswith("nearly repeats a better one") for line in lines) == 1
    assert len(json.loads(dprag("search", *options, "--limit", 1, "--json")[1])["passages"]) == 1


@pytest.mark.parametrize("retriever", ["dense", "hybrid"])
def test_it_ranks_as_a_gateway_on_the_store_does(dprag, indexed, encoder, retriever):
    options = ("--store", indexed, "--collection", "people", "--retriever", retriever, "--encoder", encoder, "--json")
    code, out, err = dprag("search", "Bram Keller lives in Dunburg.", *options)
    record = json.loads(out)
    assert code == 0 and {row["source"] for row in record["passages"]} == {"people.md"}, err
    assert record["passages"][0]["text"] == "Bram Keller lives in Dunburg."
    assert bool(record["words"]) is (retriever == "hybrid")


def test_what_is_not_found_and_what_cannot_be_asked(dprag, indexed, tmp_path):
    here = ["--store", indexed, "--collection", "people"]
    code, out, _ = dprag("search", "Zzyzx?", *here)
    assert code == 0 and "zzyzx (0)" in out and "no passage matches" in out
    for words, options, message in [
        ("Anna", ["--store", tmp_path / "absent"], "no document store at"),
        ("Anna", ["--store", indexed], "it has contracts (1), people (1)"),
        ("Anna", [*here, "--retriever", "sparse"], "bm25, dense, hybrid"),
        ("Anna", [*here, "--top-k", 0], "top-k is 0"),
        (" ", here, "question is empty"),
    ]:
        code, out, err = dprag("search", words, *options)
        assert code == 1 and message in " ".join(err.split()) and out == ""
    assert not (tmp_path / "absent").exists()


def test_passages_are_told_as_they_are_and_used_ones_also_where_more_are_shown_than_ranked_for_an_answer(monkeypatch, capsys):
    words = "one two three four five".split()
    passages = [Passage(f"Box {word} at 12:100: and :car:.", "a.md", "", place) for place, word in enumerate(words)]

    def finding(order):
        return SimpleNamespace(find=lambda _, k: [(passages[place], 1.0, "id") for place in order][:k])

    @contextlib.contextmanager
    def asked(*_):
        store = SimpleNamespace(document=lambda _: SimpleNamespace(passages=5))
        yield store, dense.HybridFinder([finding([0, 1, 2]), finding([3, 4, 0])])

    monkeypatch.setattr(dense, "DEPTH", 1)
    monkeypatch.setattr(Search, "asked", asked)
    run("box", Stored("store"), 1, 5, True, Search("dense"))
    rows = json.loads(capsys.readouterr().out)["passages"]
    assert len(rows) == 5 and [row["text"] for row in rows if row["used"]] == [passages[0].text]
    run("box", Stored("store"), 1, 5, False, Search("dense"))
    assert "Box one at 12:100: and :car:." in capsys.readouterr().out
