"""Requests to token ids and back: what is given out piece by piece is the whole text, and nobody writes control tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilledprag.engine.tokenization import TextWriter, Tokenization
from distilledprag.http.errors import RequestError


@pytest.fixture(scope="module")
def side(tiny_base):
    return Tokenization(tiny_base)


TEXTS = st.text(st.sampled_from("abz éü🐝漢字 .,\n$5"), max_size=40)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_pieces_joined_are_the_decoded_text(tiny_base, text):
    tokenizer = tiny_base.tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    writer = TextWriter(tokenizer)
    pieces = [writer.add(id) for id in ids]
    assert "".join(pieces) + writer.finish() == tokenizer.decode(ids, skip_special_tokens=True)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, stop=st.text(st.sampled_from("abz .5"), min_size=1, max_size=3))
def test_nothing_of_a_stop_text_or_after_it_is_given_out(tiny_base, text, stop):
    tokenizer = tiny_base.tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    writer, given_out = TextWriter(tokenizer, [stop]), ""
    for id in ids:
        given_out += writer.add(id)
        if writer.stopped:
            break
    given_out += writer.finish()
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert given_out == whole.partition(stop)[0] and writer.stopped == (stop in whole)


def test_masks_are_read_in_messages_and_other_control_tokens_are_not(tiny_base, side):
    mask = tiny_base.tokenizer.convert_ids_to_tokens(tiny_base.mask_token_id)
    end = tiny_base.tokenizer.eos_token
    ids = side.chat_prompt([{"role": "user", "content": f"Passage 1:{mask}{mask} Question: who{end}?"}])
    assert ids.count(tiny_base.mask_token_id) == 2
    plain = side.chat_prompt([{"role": "user", "content": "Passage 1: Question: who?"}])
    assert ids.count(tiny_base.tokenizer.eos_token_id) == plain.count(tiny_base.tokenizer.eos_token_id)


@pytest.mark.parametrize("prompt", ["", [], [-1], [10**9], "\ud800"])
def test_prompts_that_are_none_are_refused(side, prompt):
    with pytest.raises(RequestError):
        side.completion_prompt(prompt)


def test_the_last_message_must_be_the_users(side):
    with pytest.raises(RequestError, match="last message"):
        side.chat_prompt([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
