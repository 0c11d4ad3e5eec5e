"""Dense and hybrid retrieval behind the protocol of BM25, over a tiny encoder with random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import save_tiny_encoder
from transformers import AutoModel, AutoTokenizer

from distilledprag.documents import Passage
from distilledprag.documents.indexing import prepare_text
from distilledprag.documents.store import DocumentStore
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.retrieval import BM25Retriever
from distilledprag.retrieval.dense import (
    DenseRetriever,
    SentenceEncoder,
    StoreDenseRetriever,
    checked_kind,
    fused,
    memory_retriever,
    store_finder,
)

TEXTS = ["Anna Tovberg lives in Oakport.", "Velkor Foods is based in Millport.", "The rent is $1,249.50 a month.", "The harbour."]
PASSAGES = [Passage(text, "a.txt", index=place) for place, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def pool(folder, kind):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{kind}": True}))


@pytest.fixture(scope="module")
def encoder(folder):
    return SentenceEncoder(folder)


def test_vectors_are_the_mean_of_the_tokens_states_at_unit_length_whatever_the_batch(encoder, folder):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [*TEXTS, "wheat " * 100]
    for text, vector in zip(texts, encoder.passages(texts), strict=True):
        with torch.no_grad():
            states = model(**tokenizer([text], truncation=True, max_length=32, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
        np.testing.assert_allclose(encoder.question(text), vector, atol=1e-5)


def test_pooling_and_prompts_are_read_from_the_encoders_files(encoder, folder):
    pool(folder, "cls_token")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Question: ", "document": "Passage 1: "}}')
    first = SentenceEncoder(folder)
    assert np.abs(first.passages(TEXTS) - encoder.passages(TEXTS)).max() > 1e-3
    pool(folder, "mean_tokens")
    prompted = SentenceEncoder(folder)
    np.testing.assert_allclose(prompted.question("Oakport?"), encoder.question("Question: Oakport?"), atol=1e-6)
    np.testing.assert_allclose(prompted.passages(["Oakport"]), encoder.passages(["Passage 1: Oakport"]), atol=1e-6)
    (folder / "config_sentence_transformers.json").unlink()
    pool(folder, "max_tokens")
    with pytest.raises(CheckpointError, match="pooling_mode_max_tokens"):
        SentenceEncoder(folder)
    pool(folder, "mean_tokens")


def test_a_folder_that_is_no_encoder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no sentence encoder"):
        SentenceEncoder(tmp_path)


def test_the_ranking_is_by_cosine(encoder):
    found = DenseRetriever(PASSAGES, encoder).retrieve("Where is Velkor Foods?", 4)
    cosines = encoder.passages(TEXTS) @ encoder.question("Where is Velkor Foods?")
    assert [passage.index for passage, _ in found] == np.argsort(-cosines).tolist()
    assert [score for _, score in found] == pytest.approx(sorted(cosines.tolist(), reverse=True))


def test_fused_scores_are_the_sum_of_inverse_ranks_and_what_does_not_match_has_none():
    a, b, c, d = ((Passage(name, ""),) for name in "abcd")
    found = fused([[(*a, 9.0), (*b, 5.0), (*d, 0.0)], [(*b, 0.9), (*c, 0.8), (*a, 0.1)]], 4)
    assert [passage.text for passage, _ in found] == ["b", "a", "c"]
    assert [score for _, score in found] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62])


def test_a_hybrid_retriever_fuses_bm25_and_the_dense_ranking(encoder):
    question = "Where is Velkor Foods based?"
    hybrid = memory_retriever("hybrid", PASSAGES, encoder)
    parts = [BM25Retriever(PASSAGES).retrieve(question, 4), DenseRetriever(PASSAGES, encoder).retrieve(question, 4)]
    assert hybrid.retrieve(question, 3) == fused(parts, 3) and len(hybrid) == 4
    with pytest.raises(InputError, match="only 4 passages"):
        hybrid.retrieve(question, 5)


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_a_store_ranks_as_the_passages_in_memory_do_and_follows_its_changes(encoder, new_place, kind):
    store = DocumentStore(new_place())
    for place, text in enumerate(TEXTS):
        store.add([prepare_text(f"{place}.txt", text, store.reading_folder)], "papers" if place else "other")
    finder = store_finder(kind, store.database, encoder)("papers")
    question = "Where is Velkor Foods in Millport, and the rent?"
    assert finder.retrieve(question, 9) == [(passage, score) for passage, score, _ in finder.find(question, 9)]
    if kind == "dense":  # BM25's scores are those over the whole store
        memory = memory_retriever(kind, PASSAGES[1:], encoder).retrieve(question, 3)
        assert [(p.text, pytest.approx(score, abs=1e-5)) for p, score in memory] == [
            (p.text, score) for p, score, _ in finder.find(question, 9)
        ]
    found = finder.find(question, 9)
    assert {passage.source for passage, _, _ in found} <= {"1.txt", "2.txt", "3.txt"} and found[0][1] >= found[-1][1]
    store.delete([id for passage, _, id in found if passage.source == "1.txt"])
    written = store.add([prepare_text("new.txt", "Velkor Foods moved to Ashford.", store.reading_folder)], "papers")
    assert {id for *_, id in finder.find(question, 9)} >= set(written)
    assert "1.txt" not in {passage.source for passage, *_ in finder.find(question, 9)}
    store.close()


def test_vectors_are_computed_once_and_again_for_another_encoder(encoder, new_place, monkeypatch):
    store = DocumentStore(new_place())
    store.add([prepare_text("a.txt", "\n\n".join(TEXTS), store.reading_folder)])
    counted = []
    vectors = StoreDenseRetriever(store.database, encoder)
    vectors.update(counted.append)
    vectors.update(counted.append)
    assert counted == [4]
    monkeypatch.setattr(encoder, "identity", "another")
    vectors.update(counted.append)
    assert counted == [4, 4]
    store.close()


def test_an_unknown_kind_of_retriever_is_refused():
    with pytest.raises(ConfigError, match="bm25, dense, hybrid"):
        checked_kind("sparse")
