"""Text from outside never becomes a control token, on any make of tokenizer."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilledprag.errors import InputError
from distilledprag.prompts import PromptBuilder
from distilledprag.prompts.token_ids import PlainTextEncoder

CONTROL = [
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<|doc_mask|>",
]
MIXED = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*CONTROL, "<think>", "<unk>", " ", "\n", "😀"])))
TEXTS = MIXED.map("".join)
FEW = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def forbidden(tokenizer) -> set[int]:
    """Counted here without the code under test: every control token's id in this tokenizer."""
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[content] for content in CONTROL}
    return ids | {vocabulary[content] for content in ("<think>", "</think>") if content in vocabulary}


def test_control_texts_are_written_as_ordinary_pieces(any_tokenizer, mask_id, control_texts):
    encoder = PlainTextEncoder(any_tokenizer, mask_id(any_tokenizer), "<think></think>")
    for text in control_texts:
        for sentence in (text, f" Rome {text} Lyon", text * 3, f"a{text}b"):
            assert forbidden(any_tokenizer).isdisjoint(encoder.text(sentence)), sentence


@given(document=TEXTS, question=TEXTS)
@FEW
def test_any_text_gives_aligned_prompts_without_control_tokens(any_tokenizer, mask_id, document, question):
    builder = PromptBuilder(any_tokenizer, mask_id(any_tokenizer))
    prompt = builder.build(f"Q{question}", [document, "Rome"])
    assert len(prompt.open_ids) == len(prompt.masked_ids) == len(prompt.is_document)
    begin = any_tokenizer.bos_token_id
    assert prompt.open_ids[0] == begin
    assert forbidden(any_tokenizer).isdisjoint(prompt.open_ids[1:])
    for shown, masked, hidden in zip(prompt.open_ids, prompt.masked_ids, prompt.is_document, strict=True):
        assert masked == (builder.mask_token_id if hidden else shown)
    assert forbidden(any_tokenizer).isdisjoint(builder.answer_ids(f"A{document}")[:-1])


@given(document=TEXTS, question=TEXTS, history=TEXTS)
@FEW
def test_any_text_leaves_the_templates_control_tokens_alone(any_template, mask_id, document, question, history):
    builder = PromptBuilder(any_template, mask_id(any_template))
    turns = [{"role": "user", "content": f"H{history}"}, {"role": "assistant", "content": f"A{history}"}]
    prompt = builder.build(f"Q{question}", [document], turns)
    calm = builder.build("Q", ["D"], [{**turn, "content": "H"} for turn in turns])
    control = forbidden(any_template)
    assert [i for i in prompt.open_ids if i in control] == [i for i in calm.open_ids if i in control]
    assert [i for i, hidden in zip(prompt.masked_ids, prompt.is_document, strict=True) if hidden] == (
        [builder.mask_token_id] * sum(prompt.is_document)
    )


@given(text=st.text())
@FEW
def test_byte_level_text_reads_back_as_it_was(tokenizer, mask_id, text):
    encoder = PlainTextEncoder(tokenizer, mask_id(tokenizer))
    for written in (text, f"<|im_end|>{text}<|doc_mask|>"):
        assert tokenizer.decode(encoder.text(written), clean_up_tokenization_spaces=False) == written


def test_plain_text_has_the_tokens_the_tokenizer_gives_it(any_tokenizer, mask_id):
    encoder = PlainTextEncoder(any_tokenizer, mask_id(any_tokenizer))
    text = "You should answer the question, Alice Moreau. 😀"
    assert encoder.structure(text, at_start=True) == any_tokenizer.encode(text, add_special_tokens=False)


def test_structure_has_the_tokens_the_tokenizer_gives_it(any_tokenizer, mask_id):
    encoder = PlainTextEncoder(any_tokenizer, mask_id(any_tokenizer))
    for text in ("<s>[INST] You should [/INST]", "You</s>", "[INST]", "</s>\n<|im_start|>user\nYou"):
        assert encoder.structure(text, at_start=True) == any_tokenizer.encode(text, add_special_tokens=False)


def test_a_document_carries_one_word_mark_in_its_first_piece(any_tokenizer, mask_id):
    encoder = PlainTextEncoder(any_tokenizer, mask_id(any_tokenizer))
    pieces = any_tokenizer.convert_ids_to_tokens(encoder.text(" Alice"))
    assert not "".join(pieces).startswith("▁▁")
    assert any_tokenizer.convert_tokens_to_string(pieces).strip() == "Alice"


def test_control_tokens_that_swallow_spaces_do_so_in_structure(tokenizer, mask_id):
    from tokenizers import AddedToken

    greedy = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    greedy.add_special_tokens({"extra_special_tokens": [AddedToken("<|user|>", lstrip=True, rstrip=True, special=True)]})
    encoder = PlainTextEncoder(greedy, mask_id(tokenizer))
    text = "Passage <|user|>\nYou </s> Rome"
    assert encoder.structure(text) == greedy.encode(text, add_special_tokens=False)


def test_the_tokenizer_is_left_as_it_was_while_threads_encode(tokenizer, mask_id):
    encoder = PlainTextEncoder(tokenizer, mask_id(tokenizer))
    text = "Rome <|im_end|> and <|doc_mask|> " * 20
    plain, special = encoder.text(text), tokenizer.encode(text, add_special_tokens=False)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(50):
            if encoder.text(text) != plain or tokenizer.encode(text, add_special_tokens=False) != special:
                wrong.append("different")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert plain != special
    assert tokenizer.backend_tokenizer.encode_special_tokens is False


def test_text_that_cannot_be_spelled_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"</s>": 0, "Rome": 1}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="</s>")
    encoder = PlainTextEncoder(tokenizer, 1)
    with pytest.raises(InputError, match="no way to write"):
        encoder.text("😀")
