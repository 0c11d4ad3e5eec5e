"""The Elasticsearch retriever against a real HTTP server that speaks the `_search` API over BM25."""

from __future__ import annotations

import json

import pytest
from json_server import JsonHandler, serving

from distilledprag.documents.passages import Passage
from distilledprag.errors import EndpointError, InputError
from distilledprag.retrieval.bm25 import BM25Retriever
from distilledprag.retrieval.elasticsearch import ElasticsearchRetriever

TEXTS = ["Rome is in Italy.", "Paris is in France.", "The Tiber flows through Rome."]


SEEN: list = []


class Handler(JsonHandler):
    def do_POST(self):
        body = json.loads(self.body())
        SEEN.append((self.path, body, self.headers.get("Authorization")))
        if self.path == "/wiki/_search":
            ranked = BM25Retriever([Passage(text, "", index=n) for n, text in enumerate(TEXTS)])
            found = ranked.retrieve(body["query"]["multi_match"]["query"], min(body["size"], len(TEXTS)))
            hits = [
                {"_id": str(p.index), "_score": score, "_source": {"txt": p.text, "title": f"T{p.index}"}}
                for p, score in found
                if score
            ]
            self.reply({"took": 1, "hits": {"total": {"value": len(hits)}, "hits": hits}})
        elif self.path == "/strange/_search":
            self.reply({"message": "hello"})
        else:
            self.reply({"error": {"type": "index_not_found_exception"}}, 404)


@pytest.fixture(scope="module")
def address():
    with serving(Handler) as address:
        yield address


def test_passages_come_best_first_with_their_titles_and_scores(address, monkeypatch):
    monkeypatch.setenv("SEARCH_KEY", "secret")
    found = ElasticsearchRetriever(address, "wiki", api_key_variable="SEARCH_KEY").retrieve("Where is Rome?", 3)
    direct = BM25Retriever([Passage(text, "") for text in TEXTS]).retrieve("Where is Rome?", 2)
    assert [p.text for p, _ in found] == [p.text for p, _ in direct]
    assert [score for _, score in found] == pytest.approx([score for _, score in direct])
    assert found[0][0].title == "T0" and found[0][0].source == "wiki/0"
    assert SEEN[-1][1]["size"] == 3 and SEEN[-1][2] == "ApiKey secret"


def test_a_server_that_does_not_answer_as_it_should_is_a_message(address):
    with pytest.raises(EndpointError, match="404"):
        ElasticsearchRetriever(address, "other").retrieve("Rome", 1)
    with pytest.raises(EndpointError, match="names of the fields"):
        ElasticsearchRetriever(address, "strange").retrieve("Rome", 1)
    with pytest.raises(EndpointError, match="names of the fields"):
        ElasticsearchRetriever(address, "wiki", title_field="title", text_field="body").retrieve("Rome", 1)


@pytest.mark.parametrize("question, k", [(" ", 1), ("Rome", 0)])
def test_a_question_that_cannot_be_asked_is_refused(address, question, k):
    with pytest.raises(InputError):
        ElasticsearchRetriever(address, "wiki").retrieve(question, k)


def test_an_address_that_is_not_http_is_refused():
    with pytest.raises(InputError, match="http"):
        ElasticsearchRetriever("file:///etc", "wiki")
