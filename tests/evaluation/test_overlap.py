"""MinHash estimates the Jaccard similarity of shingles, and finds the most similar training document."""

from __future__ import annotations

import random

import numpy as np
import pytest

from distilledprag.errors import InputError
from distilledprag.evaluation.overlap import minhash, nearest, shingles, summarise

WORDS = [f"w{number}" for number in range(400)]


def document(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def test_shingles_are_runs_of_words():
    assert shingles("One, two THREE-four!") == {"one two three", "two three four"}
    assert shingles("Just two") == {"just two"} and shingles("...") == set()
    assert shingles("a b a b", 2) == {"a b", "b a"}


@pytest.mark.parametrize("kept", [0, 15, 30, 45, 60])
def test_the_estimate_is_close_to_the_jaccard_similarity(kept):
    one = document(1).split()
    other = one[:kept] + document(2).split()[kept:]
    ours, theirs = shingles(" ".join(one)), shingles(" ".join(other))
    exact = len(ours & theirs) / len(ours | theirs)
    (found,) = nearest(minhash([" ".join(one)], 2048), minhash([" ".join(other)], 2048))
    assert found.similarity == pytest.approx(exact, abs=0.05)  # more than four standard errors of 0.011
    assert kept not in (0, 60) or found.similarity == exact


def test_order_of_shingles_and_repetition_do_not_count_but_the_text_does():
    one, other = minhash(["a b c d", "d c b a", "a b c d a b c d"], words=1)[[0, 1]]
    assert (one == other).all() and (minhash(["a b c d a b c d"], words=1)[0] == one).all()
    assert (minhash(["a b c d"])[0] != minhash(["a b c e"])[0]).any()


def test_the_nearest_document_is_found_across_blocks():
    training = [document(seed) for seed in range(20)]
    test = [training[13] + " and a little more", document(99), training[4], training[4].upper()]
    found = nearest(minhash(test), minhash(training), block=1000)  # three training documents at a time
    assert [overlap.training for overlap in found if overlap.test != 1] == [13, 4, 4]
    assert found[0].similarity > 0.8 and found[1].similarity < 0.1 and found[2].similarity == found[3].similarity == 1.0


def test_of_equally_similar_documents_the_first_is_named():
    signatures = minhash([document(1), document(2), document(2)])
    assert nearest(signatures[2:], signatures)[0].training == 1


def test_the_same_seed_gives_the_same_signatures_and_another_seed_others():
    assert (minhash([document(1)], seed=5) == minhash([document(1)], seed=5)).all()
    assert (minhash([document(1)], seed=5) != minhash([document(1)], seed=6)).any()


def test_the_summary_gives_shares():
    signatures = minhash([document(1), document(2)])
    found = summarise(nearest(signatures, np.concatenate([signatures[:1], minhash([document(3)])])))
    assert found["documents"] == 2 and found["max"] == 1.0 and found["mean"] == found["median"] == pytest.approx(0.5, abs=0.05)
    assert found["share_at_least"]["0.9"] == 0.5 and list(found["share_at_least"]) == [f"0.{n}" for n in range(1, 10)]


@pytest.mark.parametrize("call, message", [
    (lambda: minhash(["words", " ... "]), "document 2 has no words"),
    (lambda: minhash(["words"], permutations=0), "at least 1"),
    (lambda: minhash(["words"], words=0), "at least 1"),
    (lambda: nearest(minhash(["a"]), minhash([])), "no documents"),
    (lambda: nearest(minhash(["a"], 8), minhash(["a"], 16)), "8 and 16 permutations"),
    (lambda: summarise([]), "no documents"),
])  # fmt: skip
def test_what_cannot_be_compared_says_why(call, message):
    with pytest.raises(InputError, match=message):
        call()
