"""BM25 as the formula says, with ties in the documents' order."""

from __future__ import annotations

import math
import sys
from collections import Counter

import pytest

from distilledprag.documents import Passage
from distilledprag.errors import ConfigError, InputError
from distilledprag.retrieval import BM25Retriever
from distilledprag.words import words_of

TEXTS = [
    "Velkor Foods is based in Oakport.",
    "Velkor Freight has its headquarters in Millport. Velkor Freight employs 64 people.",
    "Contract K-4821 was awarded to Halium Glass.",
    "Anna Tovberg can be reached at desk@nexmere.com.",
    "Oakport is a harbour town, and Millport is another one.",
]
PASSAGES = [Passage(text, f"{number}.txt") for number, text in enumerate(TEXTS)]


def bm25(question: str) -> list[float]:
    """Lucene's BM25 (k1 = 1.5, b = 0.75, without the constant k1 + 1), computed directly."""
    documents = [Counter(words_of(text)) for text in TEXTS]
    lengths = [sum(document.values()) for document in documents]
    average = sum(lengths) / len(lengths)
    scores = []
    for document, length in zip(documents, lengths, strict=True):
        score = 0.0
        for word in words_of(question):
            containing = sum(word in other for other in documents)
            if containing:
                idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
                frequency = document[word]
                score += idf * frequency / (frequency + 1.5 * (1 - 0.75 + 0.75 * length / average))
        scores.append(score)
    return scores


@pytest.mark.parametrize("question", ["Where is Velkor Freight based?", "Oakport Millport", "Who won Contract K-4821?"])
def test_scores_and_order_equal_a_direct_computation(question):
    found = BM25Retriever(PASSAGES).retrieve(question, len(PASSAGES))
    expected = bm25(question)
    order = sorted(range(len(TEXTS)), key=lambda place: -expected[place])
    assert [PASSAGES.index(passage) for passage, _ in found] == order
    assert [score for _, score in found] == pytest.approx([expected[place] for place in order], abs=1e-4)


def test_without_bm25s_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r"pip install 'distilledprag\[retrieval\]'"):
        BM25Retriever(PASSAGES)


def test_identifiers_and_addresses_are_found_whole():
    retriever = BM25Retriever(PASSAGES)
    assert retriever.retrieve("K-4821", 1)[0][0] is PASSAGES[2]
    assert retriever.retrieve("whose is desk@nexmere.com", 1)[0][0] is PASSAGES[3]


def test_without_a_common_word_documents_keep_their_order():
    found = BM25Retriever(PASSAGES).retrieve("zebra", 3)
    assert [passage for passage, _ in found] == PASSAGES[:3] and all(score == 0 for _, score in found)


@pytest.mark.parametrize("question, k, message", [
    ("Velkor", 6, "only 5 passages"),
    ("Velkor", 0, "at least 1"),
    ("  ", 1, "question is empty"),
])  # fmt: skip
def test_requests_that_cannot_be_served_say_why(question, k, message):
    with pytest.raises(InputError, match=message):
        BM25Retriever(PASSAGES).retrieve(question, k)


def test_no_passages_is_an_error():
    with pytest.raises(InputError, match="no passages"):
        BM25Retriever([])
