"""What an answer rests on: passages that match, each text once; never a different fact taken for the same."""

from __future__ import annotations

import pytest

from distilledprag.documents import Passage
from distilledprag.errors import InputError
from distilledprag.retrieval import BM25Retriever, select
from distilledprag.retrieval.selection import FEW, NO_MATCH, best_of, nearly_equal

LONG = (
    "The tenant pays a deposit of $2,680 to Anna Berg before moving in, and gets it back within thirty days after the end of the "
    "lease, less the cost of repairs that go beyond the usual wear of the rooms and of the furniture"
)


def over(*texts: str) -> BM25Retriever:
    return BM25Retriever([Passage(text, f"{number}.txt") for number, text in enumerate(texts)])


def test_passages_that_share_no_word_with_the_question_are_left_out_and_the_note_says_so():
    found, notes = select(over("Oakport is a town.", "Wheat.", "Barley.", "Rye."), "Where is Oakport?", 3)
    assert [passage.text for passage, _ in found] == ["Oakport is a town."]
    assert notes == ["only 1 of 3 passages were used: the others share no word with the question"]


def test_where_nothing_matches_nothing_is_used():
    assert select(over("Wheat.", "Barley.", "Rye.", "Oats."), "Where is Oakport?", 3) == ([], [NO_MATCH])


def test_a_few_documents_are_read_whatever_the_question_says():
    found, notes = select(over("Wheat.", "Barley."), "Summarise!", 2)
    assert len(found) == 2 and notes == [FEW]


def test_more_passages_than_there_are_cannot_be_asked_for():
    with pytest.raises(InputError, match="only 2 passages"):
        select(over("Wheat.", "Barley."), "Wheat?", 3)


def test_the_same_text_counts_once_and_its_place_goes_to_another():
    copies = [LONG, LONG.replace(", and", " and") + ".", LONG.upper(), LONG.replace("usual", "ordinary")]
    found, notes = select(over(*copies, "The deposit of the office is $900.", "Rye."), "How much is the deposit?", 3)
    assert {passage.source for passage, _ in found} & {"0.txt", "1.txt", "2.txt", "3.txt"} and len(found) == 2
    assert "4.txt" in {passage.source for passage, _ in found}
    assert any("3 passages that nearly repeat a better one were passed over" in note for note in notes)


@pytest.mark.parametrize("change", [("$2,680", "$2,860"), ("Anna Berg", "Anna Holm"), ("lease", "押金"), ("pays", "K-7 pays")])
def test_texts_that_differ_in_a_number_a_name_or_another_script_are_different_facts(change):
    assert not nearly_equal(Passage(LONG, "a"), Passage(LONG.replace(*change), "b"))


def test_texts_under_other_headings_are_different_facts():
    assert not nearly_equal(Passage("The deposit is paid.", "a", "Flat A"), Passage("The deposit is paid.", "b", "Flat B"))
    assert nearly_equal(Passage("The deposit is paid.", "a", "Flat"), Passage("The deposit: is paid!", "b", "FLAT"))


def test_many_copies_do_not_hide_what_ranks_below_them():
    ranked = [(Passage(LONG, f"{n}"), 9.0) for n in range(200)] + [(Passage(f"Deposit {n}", "x"), 1.0) for n in range(2)]
    asked = []
    kept, repeated, _ = best_of(lambda n: asked.append(n) or ranked[:n], 3)
    assert len(kept) == 3 and len(repeated) == 199 and asked[-1] >= 202
