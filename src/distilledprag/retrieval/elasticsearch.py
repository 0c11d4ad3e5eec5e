"""BM25 by an Elasticsearch or OpenSearch server, for parity with papers that used one: its `_search` API, nothing else.

Knows nothing about models. The question leaves the machine in plain text, to the server that holds the passages.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from distilledprag.documents.passages import Passage
from distilledprag.errors import EndpointError, InputError


class ElasticsearchRetriever:
    """A Retriever (see retrieval.py). Passages are documents with a text and, perhaps, a title field."""

    def __init__(
        self,
        url: str,
        index: str,
        text_field: str = "txt",
        title_field: str = "title",
        api_key_variable: str = "ELASTICSEARCH_API_KEY",
        timeout: float = 30.0,
    ) -> None:
        """url: http(s) address of the server. timeout: seconds. Raises InputError for another kind of address."""
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise InputError(f"{url!r} is no http address; write for example http://localhost:9200")
        self.address = f"{url.rstrip('/')}/{urllib.parse.quote(index)}/_search"
        self.index, self.text_field, self.title_field, self.timeout = index, text_field, title_field, timeout
        self.headers = {"Content-Type": "application/json"}
        if key := os.environ.get(api_key_variable):
            self.headers["Authorization"] = f"ApiKey {key}"

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where fewer match) with their scores, best first.

        Raises InputError for an empty question or a `k` below 1, EndpointError when the server does not answer as it should.
        """
        if not question.strip():
            raise InputError("the question is empty; write one")
        if k < 1:
            raise InputError(f"top-k is {k}; it must be at least 1")
        fields = [self.title_field, self.text_field]
        match = {"query": question, "fields": fields, "type": "best_fields", "tie_breaker": 0.5}  # as PRAG and DyPRAG ask
        query = {"query": {"multi_match": match}, "size": k, "_source": fields}
        request = urllib.request.Request(self.address, json.dumps(query).encode(), self.headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                found: Any = json.load(response)
            hits = found["hits"]["hits"]
            return [(self._passage(hit, place), float(hit["_score"])) for place, hit in enumerate(hits)]
        except urllib.error.HTTPError as error:
            raise EndpointError(
                f"{self.address} answered {error.code} ({error.reason}); check the index's name and the key"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EndpointError(
                f"{self.address} did not answer as Elasticsearch does ({type(error).__name__}: {error}); check the address and "
                "the names of the fields"
            ) from error

    def _passage(self, hit: dict[str, Any], place: int) -> Passage:
        fields = hit["_source"]
        return Passage(str(fields[self.text_field]), f"{self.index}/{hit['_id']}", str(fields.get(self.title_field) or ""), place)
