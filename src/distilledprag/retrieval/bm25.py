"""Finding the passages for a question by BM25: in memory (bm25s) or on an Elasticsearch server, behind one protocol.

Words are taken as they are (no stemming), in languages that write spaces between them.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distilledprag.documents.passages import Passage
from distilledprag.errors import ConfigError, EndpointError, InputError
from distilledprag.text import words_of

USUAL_TOP_K = 3
K1, B = 1.5, 0.75  # BM25: how fast repetition saturates, how much length counts


def check_request(question: str, k: int, passages: int | None = None) -> None:
    """Raise InputError for an empty question, and for a `k` below 1 or above the number of passages (None: not known)."""
    if not question.strip():
        raise InputError("the question is empty; write one")
    if k < 1:
        raise InputError(f"top-k is {k}; it must be at least 1")
    if passages is not None and k > passages:
        raise InputError(f"top-k is {k} but there are only {passages} passages; use at most {passages}")


def load_bm25s() -> Any:
    """The library `bm25s`, imported when it is needed. Raises ConfigError when it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError("searching passages needs bm25s: pip install 'distilledprag[retrieval]'") from error
    return bm25s


def best_places(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places (k,) of the `k` best of `scores` (N,), k <= N, best first; ties in order."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]  # the k-th best score
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


class Retriever(Protocol):
    """Anything that ranks passages for a question."""

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their scores, best first."""
        ...


def usual_k(retriever: Retriever) -> int:
    """How many passages to use by default: 3, or all of a retriever that has fewer."""
    return min(USUAL_TOP_K, len(retriever)) if isinstance(retriever, Sized) else USUAL_TOP_K


class BM25Retriever:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over passages in memory; the heading counts as part of a passage.

    score(q, d) = sum over the words w of q of ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f / (f + k1 (1 - b + b |d| / mean |d|)),
    f = how often w is in d, n_w = passages with w, N = passages, |d| = words in d (Robertson and Zaragoza 2009; Kamphuis et
    al. 2020). Raises InputError without passages.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        if not passages:
            raise InputError("there are no passages to search; give at least one document")
        bm25s = load_bm25s()
        self.passages = list(passages)
        vocabulary: dict[str, int] = {}
        ids = []
        for passage in self.passages:
            words = words_of(f"{passage.title} {passage.text}") or ["\0"]
            ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
        self._vocabulary = vocabulary
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self._index.index((ids, vocabulary), show_progress=False)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.passages)

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages with their scores, best first; ties keep the documents' order.

        Passages that share no word with the question score 0. Raises InputError for an empty question, and for a `k` below 1
        or above the number of passages.
        """
        check_request(question, k, len(self))
        known = [self._vocabulary[word] for word in words_of(question) if word in self._vocabulary]
        scores = self._index.get_scores_from_ids(known) if known else np.zeros(len(self.passages), dtype=np.float32)
        return [(self.passages[int(place)], float(scores[place])) for place in best_places(scores, k)]


class ElasticsearchRetriever:
    """BM25 by the `_search` API of an Elasticsearch or OpenSearch server, for parity with papers that used one.

    Its documents are passages with a text and, perhaps, a title field. The question leaves this machine in plain text, to the
    server that holds the passages.
    """

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
            raise InputError(f"{url!r} is not an http address; write for example http://localhost:9200")
        self.address = f"{url.rstrip('/')}/{urllib.parse.quote(index)}/_search"
        self.index, self.text_field, self.title_field, self.timeout = index, text_field, title_field, timeout
        self.headers = {"Content-Type": "application/json"}
        if key := os.environ.get(api_key_variable):
            self.headers["Authorization"] = f"ApiKey {key}"

    def retrieve(self, question: str, k: int) -> list[tuple[Passage, float]]:
        """The `k` best passages (fewer where fewer match) with their scores, best first.

        Raises InputError for an empty question or a `k` below 1, EndpointError when the server does not answer as it should.
        """
        check_request(question, k)
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
