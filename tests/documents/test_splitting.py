"""Long texts are cut at sentence ends; no word is lost and no passage is too long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distilledprag.documents.passages import Block, sentences, split_blocks, split_text


def test_long_paragraphs_are_cut_at_sentence_ends():
    text = " ".join(f"Sentence number {number} has exactly seven words." for number in range(30))
    pieces = split_text(text, 20)
    assert " ".join(pieces) == text
    assert all(piece.endswith("words.") and len(piece.split()) <= 20 for piece in pieces)


def test_abbreviations_and_initials_do_not_end_a_sentence():
    text = "Dr. J. Berg signed No. 4 on 3 Sept. 2021. She left, e.g. by train. It cost 3.50 dollars!"
    assert sentences(text) == ["Dr. J. Berg signed No. 4 on 3 Sept. 2021.", "She left, e.g. by train.", "It cost 3.50 dollars!"]


def test_the_number_of_an_item_stays_with_its_words():
    assert sentences("4.2. The rent is due. (b) Keys. 12. It ends.") == ["4.2. The rent is due.", "(b) Keys.", "12. It ends."]
    assert sentences("a. Rent; 2. Keys. In 2019. Then") == ["a. Rent; 2. Keys.", "In 2019.", "Then"]


def test_a_sentence_that_is_too_long_is_cut_behind_a_comma():
    assert split_text("one two three, four five six seven", 4) == ["one two three,", "four five six seven"]


def test_paragraphs_are_never_joined_and_short_items_never_across_headings():
    blocks = [Block("A."), Block("B."), Block("x", "one", "item"), Block("y", "one", "item"), Block("z", "two", "item")]
    assert split_blocks(blocks, 80) == [("", "A."), ("", "B."), ("one", "x; y"), ("two", "z")]


@given(st.text(), st.integers(1, 30))
def test_splitting_loses_no_word_and_keeps_the_limit(text, longest):
    pieces = split_text(text, longest)
    assert " ".join(pieces).split() == text.split()
    assert all(0 < len(piece.split()) <= longest for piece in pieces)
