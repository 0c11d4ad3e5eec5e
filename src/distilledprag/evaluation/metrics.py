"""Exact match, token F1, precision and recall as SQuAD and HotpotQA compute them (their normalisation: lower case, no
punctuation, no articles, single spaces), containment, and recall of retrieval.

With several right answers, each number is the best over them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from distilledprag.errors import InputError
from distilledprag.words import ALL_RIGHT, NONE_RIGHT, TokenScores, normalise, token_overlap


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if the normalised texts are equal, else 0.0."""
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall; yes, no and noanswer count only when equal (HotpotQA).

    Unlike in HotpotQA, two texts without words are equal.
    """
    return hotpotqa_scores(prediction, answer).f1 or exact_match(prediction, answer)


def hotpotqa_scores(prediction: str, answer: str) -> TokenScores:
    """As `hotpot_evaluate_v1.py` (2WikiMultihopQA and PRAG compute the same).

    yes, no and noanswer count only when equal; a text without words is never right, not even where the answer has none.
    """
    ours, theirs = normalise(prediction), normalise(answer)
    if ours != theirs and {ours, theirs} & {"yes", "no", "noanswer"}:
        return NONE_RIGHT
    return token_overlap(ours.split(), theirs.split())


def squad_scores(prediction: str, answer: str) -> TokenScores:
    """As SQuAD's `evaluate-v2.0.py`: no word is special; without words in either text, right only where both have none.

    SQuAD 1.1 (and so XQuAD) differs in that last case only: there two texts without words score 0. SQuAD reports F1 alone.
    """
    ours, theirs = normalise(prediction).split(), normalise(answer).split()
    if not ours or not theirs:
        return ALL_RIGHT if ours == theirs else NONE_RIGHT
    return token_overlap(ours, theirs)


def best_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals one of the answers. Raises InputError without answers."""
    return max(exact_match(prediction, answer) for answer in _some(answers))


def best_token_scores(
    prediction: str, answers: Sequence[str], scores: Callable[[str, str], TokenScores] = hotpotqa_scores
) -> TokenScores:
    """The best F1, the best precision and the best recall over the answers, each by itself (2WikiMultihopQA's script 1.1,
    PRAG). Raises InputError without answers."""
    found = [scores(prediction, answer) for answer in _some(answers)]
    return TokenScores(*(max(column) for column in zip(*found, strict=True)))


def containment(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the words of an answer stand in the prediction, normalised, side by side and whole ("no" is not in "north").

    An answer without words is contained only in a prediction without words. Raises InputError without answers.
    """
    ours = normalise(prediction)
    contained = (f" {theirs} " in f" {ours} " if theirs else not ours for theirs in map(normalise, _some(answers)))
    return float(any(contained))


def popqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if an answer is a substring of the prediction: as written, in lower case, or capitalised (PopQA's own script).

    Inside of words too, so `containment` is the safer number. Raises InputError without answers.
    """
    spellings = (spelling for answer in _some(answers) for spelling in (answer, answer.lower(), answer.capitalize()))
    return float(any(spelling in prediction for spelling in spellings))


def recall_at_k(retrieved: Sequence[str], gold: Collection[str], k: int) -> float:
    """Share of the `gold` titles (or passages) that are among the first `k` retrieved; each counts once.

    Raises InputError for a `k` below 1 and without gold titles.
    """
    if k < 1:
        raise InputError(f"recall at {k} was asked for; k must be at least 1")
    if not gold:
        raise InputError("recall needs gold titles; this benchmark file names none, so use answer_recall_at_k")
    return len(set(gold) & set(retrieved[:k])) / len(set(gold))


def answer_recall_at_k(retrieved: Sequence[str], answers: Sequence[str], k: int) -> float:
    """1.0 if one of the first `k` retrieved texts contains an answer (top-k accuracy of Karpukhin et al. 2020, with the
    normalisation of this module). Raises InputError for a `k` below 1 and without answers."""
    if k < 1:
        raise InputError(f"recall at {k} was asked for; k must be at least 1")
    named = [answer for answer in _some(answers) if normalise(answer)]
    return float(any(named and containment(text, named) for text in retrieved[:k]))


def _some(answers: Sequence[str]) -> Sequence[str]:
    """The answers. Raises InputError when there are none, or for a text in place of a list (its letters would count)."""
    if isinstance(answers, str) or not answers:
        raise InputError(f"a list of at least one right answer is needed, not {answers!r}")
    return answers
