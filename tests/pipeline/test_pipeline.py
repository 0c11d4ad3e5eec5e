"""The main job: what is sent, what is not, and that the document is really used."""

from __future__ import annotations

import pytest
import torch

from distilledprag.base.llm import greedy_ids
from distilledprag.documents import Passage
from distilledprag.documents.loading import load_passages
from distilledprag.errors import CheckpointError, ConfigError, InputError
from distilledprag.lora.states import StateAdapter
from distilledprag.lora.weights import LoraWeights
from distilledprag.pipeline import DistilledPRAG
from distilledprag.retrieval import BM25Retriever

DOCUMENTS = ["Anna Tovberg lives in Oakport. She earns $46,000 a year.", "Velkor Foods is based in Millport."]


@pytest.fixture(scope="module")
def prag(tiny_prepared_folder):
    return DistilledPRAG.from_pretrained(tiny_prepared_folder, dtype=torch.float32)


def test_no_document_word_is_in_what_is_sent(prag):
    sent = prag.answer("Where does Anna Tovberg live?", DOCUMENTS).sent
    for word in ("Oakport", "46,000", "Velkor", "Millport", "earns"):
        assert word not in sent.prompt
    assert sent.prompt.count("<|doc_mask|>") == sum(len(prag.base.tokenizer(" " + d).input_ids) for d in DOCUMENTS)
    assert sent.bytes_total == sent.adapter_bytes + len(sent.prompt.encode())


def test_adapter_bytes_are_those_of_the_compact_file(prag):
    adapter = prag.encode_states([passage.text for passage, _ in prag.answer("Anna", DOCUMENTS).passages])
    assert prag.answer("Anna", DOCUMENTS).sent.adapter_bytes == len(adapter.to_bytes())


def test_the_pipeline_equals_its_parts_put_together_by_hand(prag):
    answer = prag.answer("Where does Anna Tovberg live?", DOCUMENTS[:1])
    prompt = prag.prompts.build("Where does Anna Tovberg live?", DOCUMENTS[:1]).masked_ids
    sent = StateAdapter.from_bytes(prag.encode_states(DOCUMENTS[:1]).to_bytes())
    ids = greedy_ids(prag.base, [prompt], None, prag.prompts.end_of_turn_id, states=[sent])[0]
    assert answer.text == prag.base.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_fewer_rows_are_sent_when_the_question_chooses(prag):
    long = ["Nothing of this has to do with it at all. " * 12 + "Anna Tovberg lives in Oakport."]
    whole, chosen = (prag.answer("Where does Anna Tovberg live?", long, rows=rows).sent for rows in (None, 0.3))
    assert chosen.masks < 0.5 * whole.masks and chosen.bytes_total < whole.bytes_total


def test_only_the_best_passages_are_used_in_retrieved_order(prag):
    documents = [f"Passage {number} speaks of Anna." for number in range(5)] + ["Anna Tovberg lives in Oakport."]
    answer = prag.answer("Where does Anna Tovberg live?", documents, top_k=2)
    assert next(passage.text for passage, _ in answer.passages) == documents[-1] and len(answer.passages) == 2
    scores = [score for _, score in answer.passages]
    assert scores == sorted(scores, reverse=True)


def test_encoded_documents_are_weights_that_save_and_load(prag, tmp_path):
    weights = prag.encode(DOCUMENTS)
    weights.save_pretrained(tmp_path / "adapter")
    loaded = LoraWeights.from_pretrained(tmp_path / "adapter")
    assert loaded.generator == "state" and loaded.base == prag.base.identity
    for key, pair in weights.modules.items():
        assert torch.equal(pair.a, loaded.modules[key].a) and torch.equal(pair.b, loaded.modules[key].b)


def retriever() -> BM25Retriever:
    return BM25Retriever([Passage(text, "a.txt") for text in DOCUMENTS])


def test_all_of_fewer_than_three_passages_are_used_where_nobody_says_how_many(prag):
    assert len(prag.answer("Where?", retriever=retriever()).passages) == 2
    others = [f"Field {number} grows wheat {word}." for number, word in enumerate(("here", "there", "now", "then"))]
    assert len(prag.answer("Where is wheat?", others).passages) == 3


def test_where_nothing_matches_only_the_question_is_sent_and_the_note_says_so(prag):
    answer = prag.answer("Where is Zzyzx?", [f"Field {number} grows wheat." for number in range(4)], rows=0.5)
    assert answer.passages == [] and (answer.sent.masks, answer.sent.adapter_bytes) == (0, 0)
    assert answer.text == prag.answer_closed_book("Where is Zzyzx?")
    assert any("no passage shares a word" in note for note in answer.notes)


def test_a_document_given_twice_is_used_once(prag):
    answer = prag.answer("Where does Anna Tovberg live?", [DOCUMENTS[0], DOCUMENTS[0], DOCUMENTS[1]], top_k=2)
    assert [passage.source for passage, _ in answer.passages] == ["document 1"]
    assert any("passed over (of document 2)" in note for note in answer.notes)


def test_what_is_too_long_is_refused_before_it_is_encoded(prag, monkeypatch):
    monkeypatch.setattr(prag.states, "states", lambda *_: pytest.fail("encoded"))
    with pytest.raises(InputError, match="more than the"):
        prag.answer("Where?", ["wheat " * 5000])


@pytest.mark.parametrize("call, message", [
    (lambda prag: prag.answer("  ", DOCUMENTS), "question is empty"),
    (lambda prag: prag.answer("Where?", []), "no passages"),
    (lambda prag: prag.encode([]), "no text to encode"),
    (lambda prag: prag.encode(["", " "]), "no text to encode"),
    (lambda prag: prag.encode("one string"), "list of strings"),
    (lambda prag: prag.answer("Where?", ["wheat " * 5000]), "more than the"),
    (lambda prag: prag.encode(["wheat " * 5000]), "masks: use fewer"),
    (lambda prag: prag.encode([DOCUMENTS[0], None]), "passage 2 must be a string"),
    (lambda prag: prag.encode(None), "list of strings"),
    (lambda prag: prag.answer(None, DOCUMENTS), "the question must be a string"),
    (lambda prag: prag.answer("Where?", "one document"), r"write \[document\]"),
    (lambda prag: prag.answer("Where?", [DOCUMENTS[0], 5]), "document 2 must be a string"),
    (lambda prag: prag.answer("Where?", retriever=retriever(), top_k=3), "only 2 passages"),
    (lambda prag: prag.answer("Where?", DOCUMENTS, top_k=0), "at least 1"),
])  # fmt: skip
def test_bad_input_is_a_clear_error(prag, call, message):
    with pytest.raises(InputError, match=message):
        call(prag)


def test_a_folder_without_a_base_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="prepare-base"):
        DistilledPRAG.from_pretrained(tmp_path)


def test_a_layer_that_does_not_exist_is_refused(tiny_base):
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        DistilledPRAG(tiny_base, layer=3)


def test_a_passages_heading_is_read_with_it(prag, tmp_path):
    """As in training: the title on a line of its own. A title that the text begins with is read once."""
    (tmp_path / "rooms.md").write_text("# Opening hours\n\nFrom 8 to 12 on weekdays.\n\n# Deposit\n\nDeposit: two rents.\n")
    passages = load_passages([tmp_path])
    length = prag.prompts.document_length
    answer = prag.answer("When are the opening hours?", retriever=BM25Retriever(passages), top_k=1)
    assert answer.sent.masks == length("Opening hours\nFrom 8 to 12 on weekdays.") > length("From 8 to 12 on weekdays.")
    answer = prag.answer("How high is the deposit?", retriever=BM25Retriever(passages), top_k=1)
    assert answer.sent.masks == length("Deposit: two rents.")
