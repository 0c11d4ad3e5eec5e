"""The prompts themselves: wording, alignment, numbering, lengths, errors."""

from __future__ import annotations

import pickle

import pytest

from distilledprag.errors import CheckpointError, InputError
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.builder import rounded

ROME = "Rome is the capital of Italy."
OPEN = "You should answer the question by referring to the knowledge provided below and integrating your own "


@pytest.fixture(scope="module")
def builder(tokenizer, mask_id):
    return PromptBuilder(tokenizer, mask_id(tokenizer))


def test_the_wording_is_the_papers(builder, tokenizer):
    prompt = builder.build("Where is it?", [ROME, "Lyon."])
    assert tokenizer.decode(prompt.open_ids) == (
        f"<s>{OPEN}knowledge.\nPassage 1: {ROME}\nPassage 2: Lyon.\n\nQuestion: Where is it?\nThe answer is"
    )
    assert tokenizer.decode(builder.closed_book("Where is it?")) == (
        "<s>You should answer the question by integrating your own knowledge.\n\nQuestion: Where is it?\nThe answer is"
    )
    assert tokenizer.decode(builder.answer_ids("Rome")) == " Rome</s>"


def test_segments_join_to_the_tokenization_of_the_whole_text(builder, tokenizer):
    prompt = builder.build("Where is it?", [ROME, "Alice Moreau"])
    whole = tokenizer.decode(prompt.open_ids)
    assert prompt.open_ids == tokenizer.encode(whole, add_special_tokens=False)


def test_masked_prompt_differs_from_the_open_one_exactly_in_documents(builder, tokenizer):
    prompt = builder.build("Where is it?", [ROME, "Lyon."])
    documents = [i for i, hidden in zip(prompt.open_ids, prompt.is_document, strict=True) if hidden]
    assert tokenizer.decode(documents) == f" {ROME} Lyon."
    for shown, masked, hidden in zip(prompt.open_ids, prompt.masked_ids, prompt.is_document, strict=True):
        assert masked == (builder.mask_token_id if hidden else shown)


def test_prompt_is_context_then_question(builder):
    prompt, context = builder.build("Where?", [ROME]), builder.context([ROME])
    question = builder.question("Where?")
    assert prompt.open_ids == context.open_ids + question
    assert prompt.masked_ids == context.masked_ids + question
    assert prompt.is_document == context.is_document + [False] * len(question)
    assert len(prompt) == len(prompt.open_ids)


def test_a_name_has_the_same_tokens_in_document_question_and_answer(any_tokenizer, mask_id):
    builder = PromptBuilder(any_tokenizer, mask_id(any_tokenizer))
    context = builder.context(["Moreau"])
    name = [i for i, hidden in zip(context.open_ids, context.is_document, strict=True) if hidden]
    answer = builder.answer_ids("Moreau")
    assert answer == [*name, any_tokenizer.eos_token_id]
    question = builder.question("Moreau")
    assert any(question[at : at + len(name)] == name for at in range(len(question)))


def test_spaces_around_a_text_do_not_change_its_tokens(builder):
    assert builder.build(" Where?\n", ["\t" + ROME + " "]) == builder.build("Where?", [ROME])


def test_an_empty_document_keeps_its_number_and_spans_nothing(builder, tokenizer):
    prompt = builder.build("Where?", ["", ROME, " \n "])
    assert "\nPassage 1:\nPassage 2: Rome" in tokenizer.decode(prompt.open_ids)
    assert tokenizer.decode(prompt.open_ids).endswith("\nPassage 3:\n\nQuestion: Where?\nThe answer is")
    assert sum(prompt.is_document) == sum(builder.build("Where?", [ROME]).is_document)


@pytest.mark.parametrize("round_to", [1, 8, 64])
def test_rounded_documents_differ_in_the_open_prompt_only(any_tokenizer, mask_id, round_to):
    builder = PromptBuilder(any_tokenizer, mask_id(any_tokenizer), max_tokens=10**6)
    texts = ["Rome", "", "Anna lives in Oakport and works there."]
    prompt = builder.build("Where?", texts, round_to=round_to)
    lengths = [rounded(builder.document_length(text), round_to) for text in texts]
    assert prompt.masked_ids == [*builder.masked_context(lengths), *builder.question("Where?")]
    assert sum(prompt.is_document) == sum(lengths) and lengths[1] == 0 and not any(length % round_to for length in lengths)
    assert (prompt == builder.build("Where?", texts)) == (round_to == 1)


def test_no_documents_at_all_give_the_closed_book_prompt(builder):
    prompt = builder.build("Where?", [])
    assert prompt.open_ids == prompt.masked_ids == builder.closed_book("Where?")
    assert not any(prompt.is_document)


def test_a_document_of_thousands_of_tokens_stays_aligned(builder):
    text = " ".join(f"Alice Moreau paid {number} to Northwind." for number in range(900))
    prompt = builder.build("Who paid?", [text, ROME])
    assert sum(prompt.is_document) > 5000
    assert len(prompt.open_ids) == len(prompt.masked_ids) == len(prompt.is_document)
    assert prompt.masked_ids.count(builder.mask_token_id) == sum(prompt.is_document)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\u2028", "\x0b", "\x00", "\u200b", "\ufeff"])
def test_separators_within_a_document_stay_within_it(builder, tokenizer, separator):
    prompt = builder.build("Where?", [f"Rome{separator}Question: Who?"])
    documents = [i for i, hidden in zip(prompt.open_ids, prompt.is_document, strict=True) if hidden]
    assert tokenizer.decode(documents) == f" Rome{separator}Question: Who?"


def test_too_long_a_prompt_is_refused_saying_by_how_much(tokenizer, mask_id):
    builder = PromptBuilder(tokenizer, mask_id(tokenizer), max_tokens=300)
    length = len(builder.build("Where?", [ROME]))
    assert len(builder.build("Where?", [ROME], max_tokens=length)) == length
    with pytest.raises(InputError, match=rf"has {length} tokens .* 3 more than the {length - 3} "):
        builder.build("Where?", [ROME], max_tokens=length - 3)
    with pytest.raises(InputError, match=r"more than the 300 .* shorter passages"):
        builder.build("Where?", [ROME * 99])


@pytest.mark.parametrize("bad", ["\ud800", "Rome \udcff end"])
def test_half_a_character_is_refused_naming_the_place(builder, bad):
    with pytest.raises(InputError, match=r"passage 2 holds half a character .* at position"):
        builder.build("Where?", [ROME, bad])
    with pytest.raises(InputError, match="the question holds half a character"):
        builder.build(bad, [ROME])
    with pytest.raises(InputError, match="the answer holds half a character"):
        builder.answer_ids(bad)


def test_unusable_inputs_are_refused(builder):
    with pytest.raises(InputError, match="question is empty"):
        builder.build(" \n", [ROME])
    with pytest.raises(InputError, match="answer is empty"):
        builder.answer_ids("")
    with pytest.raises(InputError, match="list of strings, not one string"):
        builder.build("Where?", ROME)
    with pytest.raises(InputError, match="passage 1 must be a string, not NoneType"):
        builder.build("Where?", [None])
    with pytest.raises(InputError, match="the text must be a string, not NoneType"):
        builder.document_ids(None)
    with pytest.raises(InputError, match="role 'tool'; use system, user or assistant"):
        builder.build("Where?", [], [{"role": "tool", "content": "x"}])
    with pytest.raises(InputError, match="message 1 of the history must have a role"):
        builder.build("Where?", [], ["hello"])
    with pytest.raises(InputError, match=r"content of message 1 .* must be a string, not list"):
        builder.build("Where?", [], [{"role": "user", "content": []}])


def test_history_without_a_template_is_written_as_lines(builder, tokenizer):
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    text = tokenizer.decode(builder.build("Where?", [ROME], history).open_ids)
    assert text.startswith("<s>User: Hello\nAssistant: Yes?\n\nYou should answer")
    assert text.endswith("\n\nQuestion: Where?\nThe answer is")


def test_a_pickled_builder_builds_the_same(builder):
    assert pickle.loads(pickle.dumps(builder)).build("Where?", [ROME]) == builder.build("Where?", [ROME])


def test_a_tokenizer_that_ends_no_text_cannot_write_answers(tokenizer, mask_id):
    endless = pickle.loads(pickle.dumps(tokenizer))
    endless.eos_token = None
    with pytest.raises(CheckpointError, match="end-of-text token"):
        PromptBuilder(endless, mask_id(endless)).answer_ids("Rome")
