"""BM25 by an Elasticsearch or OpenSearch server, in two ways: over an index of ours, whose words are cut here, so that it finds
what the other retrievers find in every script; and over an index that is there, as the papers' were, whose server cuts words.

The question leaves this machine, to the server that holds the passages in plain text.
"""

from __future__ import annotations

import itertools
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

from distilledprag.documents.passages import Passage
from distilledprag.errors import EndpointError, InputError
from distilledprag.retrieval.bm25 import K1, B, check_request
from distilledprag.words import PLAIN, WordRule, words_of

WORDS_FIELD = "words"
_AT_ONCE = 500  # passages in a request

KEY_VARIABLE = "ELASTICSEARCH_API_KEY"


class Server:
    """JSON over HTTP to one server. timeout: seconds. Raises InputError for an address that is not http(s)."""

    def __init__(self, url: str, api_key_variable: str = KEY_VARIABLE, timeout: float = 30.0) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise InputError(f"{url!r} is not an http address; write for example http://localhost:9200")
        self.url, self._timeout = url.rstrip("/"), timeout
        self._headers = {"Authorization": f"ApiKey {key}"} if (key := os.environ.get(api_key_variable)) else {}

    def send(self, method: str, path: str, body: bytes, kind: str = "application/json") -> Any:
        """The server's answer. Raises EndpointError."""
        address = f"{self.url}/{path}"
        request = urllib.request.Request(address, body, self._headers | {"Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise EndpointError(
                f"{address} answered {error.code} ({error.reason}); check the index's name and the key"
            ) from error
        except (OSError, ValueError) as error:
            raise not_as_expected(address, error) from error


def not_as_expected(address: str, error: Exception) -> EndpointError:
    return EndpointError(
        f"{address} did not answer as Elasticsearch does ({type(error).__name__}: {error}); check the address and the names of "
        "the fields"
    )


def index_passages(
    server: Server, index: str, passages: Iterable[Passage], rule: WordRule = PLAIN, text_field: str = "txt"
) -> None:
    """Make `index`, a new one, of the passages: their texts, titles, and their words cut here, which the server only splits at
    spaces. One shard, so that scores are those of all passages.

    Raises EndpointError when the server does not take all of it, for example because the index is there already.
    """
    name = urllib.parse.quote(index)
    words = {"type": "text", "analyzer": "whitespace", "similarity": "passages"}
    fields = {text_field: {"type": "text", "index": False}, "title": {"type": "text", "index": False}, WORDS_FIELD: words}
    settings = {"number_of_shards": 1, "similarity": {"passages": {"type": "BM25", "k1": K1, "b": B}}}
    made = {"settings": settings, "mappings": {"properties": fields}}
    server.send("PUT", name, json.dumps(made).encode())
    numbered = enumerate(passages)
    while block := list(itertools.islice(numbered, _AT_ONCE)):
        lines: list[dict[str, Any]] = []
        for number, passage in block:
            cut = " ".join(words_of(f"{passage.title} {passage.text}", rule))
            lines += [{"index": {"_id": str(number)}}, {text_field: passage.text, "title": passage.title, WORDS_FIELD: cut}]
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        answer = server.send("POST", f"{name}/_bulk?refresh=true", body, "application/x-ndjson")
        if not isinstance(answer, dict) or answer.get("errors") is not False:
            raise EndpointError(f"{server.url}/{name} did not store all passages; look into the server's log")


class ElasticsearchRetriever:
    """A Retriever over an index of passages with a text and, perhaps, a title field. words_field: of an index that
    `index_passages` made; None: the server cuts the words of text and title, for parity with papers that did so."""

    def __init__(
        self,
        url: str,
        index: str,
        text_field: str = "txt",
        title_field: str = "title",
        api_key_variable: str = KEY_VARIABLE,
        timeout: float = 30.0,
        words_field: str | None = None,
        rule: WordRule = PLAIN,
    ) -> None:
        """url: http(s) address of the server. timeout: seconds. Raises InputError for another kind of address."""
        self._server = Server(url, api_key_variable, timeout)
        self._path = f"{urllib.parse.quote(index)}/_search"
        self.index, self.text_field, self.title_field, self.words_field, self._rule = (
            index, text_field, title_field, words_field, rule,
        )  # fmt: skip

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where fewer match) with their scores, best first.

        Raises InputError for an empty question or a `k` below 1, EndpointError when the server does not answer as it should.
        """
        check_request(question, k)
        fields = [self.title_field, self.text_field]
        match: dict[str, Any]
        if self.words_field is None:  # as PRAG and DyPRAG ask
            match = {"multi_match": {"query": question, "fields": fields, "type": "best_fields", "tie_breaker": 0.5}}
        else:
            match = {"match": {self.words_field: {"query": " ".join(words_of(question, self._rule))}}}
        query = {"query": match, "size": k, "_source": fields}
        found = self._server.send("POST", self._path, json.dumps(query).encode())
        try:
            hits = found["hits"]["hits"]
            return [(self._passage(hit, place), float(hit["_score"])) for place, hit in enumerate(hits)]
        except (ValueError, KeyError, TypeError) as error:
            raise not_as_expected(f"{self._server.url}/{self._path}", error) from error

    def _passage(self, hit: dict[str, Any], place: int) -> Passage:
        fields = hit["_source"]
        return Passage(str(fields[self.text_field]), f"{self.index}/{hit['_id']}", str(fields.get(self.title_field) or ""), place)
