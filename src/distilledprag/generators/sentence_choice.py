"""Sentence choice: which sentences of the passages a question seems to need, so that only these leave the trusted side.

Whole sentences are kept, in their order: those that a small trained scorer ranks highest, until it is sure enough to have what
the question needs. How sure is calibrated, so that a share of the rows is kept on average: less of it for a question whose
sentence stands out, up to twice as much for one that several could answer. A number of rows is a bound, and is filled.
Short passages are kept whole: where a document has a handful of sentences, the one with the answer often shares no word with the
question ("he").

Sentences are ranked by the base's own cross-encoder (`cross_encoder.py`), where it has one, and else by
`WordScorer`: an MLP with one hidden layer over features of a sentence (numbers without unit, most of them 0 to 1): the words,
word stems and letter 4-grams that it shares with the question, rare ones counting more; the same of its neighbours and of its
passage; its place and length; whether it holds numbers, years and names where the question asks for such. It was trained by
`scripts/train_word_scorer.py` on sentences that hold the answer. It sees words only: no LLM runs here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from distilledprag.errors import InputError
from distilledprag.words import sentence_spans, words_of

FEWEST = 60  # rows; passages that have fewer altogether are kept whole
MOST = 2.0  # times the share of rows that is asked for, for a single question
SHARES = (0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # that certainties are found for
WEIGHTS = Path(__file__).parents[1] / "weights" / "word-scorer.safetensors"
FEATURES = 53
_SUFFIX = re.compile(r"(ing|edly|ed|es|s|ly|er|ers|ion|ions|ment|al|'s)$")
_NUMBER, _YEAR = re.compile(r"\d"), re.compile(r"\b(1\d{3}|20\d{2})\b")
_NAME = re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z][a-z]+")
_PRONOUN = re.compile(r"\b(he|she|it|they|his|her|its|their|this|these|that|him|them)\b", re.IGNORECASE)
_OPENS_WITH_PRONOUN = re.compile(r"(He|She|It|They|His|Her|This|These|Its|Their)\b")
_ASKS_FOR = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(who|whom|whose)\b",
        r"\b(when|what year|which year|what date|what day|what month|how old|how long)\b",
        r"\b(where|what city|what country|which city|which country|what state)\b",
        r"\b(how many|how much|how (far|fast|large|big|high|tall)|what (percent|percentage|number|amount|price))\b",
        r"\b(why|how)\b",
    )
)


@dataclass(frozen=True)
class Sentence:
    """passage: number of its passage, from 0. place: its number in the passage, from 0. size: tokens."""

    passage: int
    place: int
    text: str
    size: int


# --- choosing


Certainty = Sequence[tuple[float, float]]  # (share of the rows, probability of the sentences kept), both rising


class Scorer(Protocol):
    """What ranks sentences for a question. certainty: of its scores, as `calibrated` finds it."""

    @property
    def certainty(self) -> Certainty: ...

    def scores(self, question: str, passages: Sequence[str], sentences: Sequence[Sentence]) -> NDArray[np.float64]:
        """(sentences,), higher for sentences that the question seems to need; sentences: of all passages, in their order."""


class SentenceChoice:
    """Chooses sentences for one tokenizer. count: tokens of a text. scorer: None ranks by words alone."""

    def __init__(self, count: Callable[[str], int], scorer: Scorer | None = None) -> None:
        self._count, self._scorer = count, scorer or WordScorer.default()

    def fitting(self, question: str, passages: Sequence[str], room: int) -> list[str]:
        """The passages as they are when their tokens fit into `room`; else with those sentences only that the question seems to
        need.

        One whose only chosen sentence is longer than `room` alone is left as it is, so that the prompt is refused for its length.
        """
        texts = list(passages)
        for share in (1.0, 0.9, 0.8):  # sentences are counted one by one, and encoded side by side
            if sum(map(self._count, texts)) <= room or room * share < 2:
                break
            texts = self.chosen(question, passages, room * share)
        return texts

    def chosen(self, question: str, passages: Sequence[str], rows: float) -> list[str]:
        """The passages with their chosen sentences only; one of which nothing is chosen becomes empty, and keeps its number.

        rows: a share of all rows (up to 1), on average over questions, or the most rows. Raises InputError for rows <= 0.
        """
        if not rows > 0:
            raise InputError(f"rows must be a share up to 1, or a number of rows; got {rows:g}")
        parts = cut(passages, self._count)
        if rows == 1 or sum(part.size for part in parts) <= max(FEWEST, rows if rows > 1 else 0):
            return list(passages)
        kept = choose(self._scorer.scores(question, passages, parts), parts, rows, self._scorer.certainty)
        return [
            " ".join(part.text for index, part in enumerate(parts) if part.passage == number and index in kept)
            for number in range(len(passages))
        ]


def cut(passages: Sequence[str], count: Callable[[str], int]) -> list[Sentence]:
    """All sentences of the passages, in order. count: tokens of a text."""
    return [
        Sentence(number, place, text, end - begin)
        for number, passage in enumerate(passages)
        for place, (text, begin, end) in enumerate(sentence_spans(passage, count))
    ]


def choose(scores: NDArray[np.float64], parts: Sequence[Sentence], rows: float, certainty: Certainty) -> set[int]:
    """Places of the sentences to keep, the best first.

    rows: up to 1, a share: sentences are kept until their probabilities, the softmax of `scores`, add up to what `certainty` says
    for it, and of up to `MOST` times the share. Above 1, a number: as many as fit. The best is always kept.
    """
    sizes = [part.size for part in parts]
    if rows > 1:
        return _kept(scores, sizes, max(FEWEST, rows), 1.0)
    shares, enough = zip((0.0, 0.0), *certainty, (1.0, 1.0), strict=True)
    return _kept(scores, sizes, max(FEWEST, MOST * rows * sum(sizes)), float(np.interp(rows, shares, enough)))


def _kept(scores: NDArray[np.float64], sizes: Sequence[int], most: float, enough: float) -> set[int]:
    probability = np.exp(scores - scores.max())
    probability /= probability.sum()
    kept: set[int] = set()
    used, sure = 0, 0.0
    for index in np.argsort(-scores, kind="stable"):
        if kept and sure >= enough and enough < 1:
            break
        if not kept or used + sizes[index] <= most:
            kept.add(int(index))
            used += sizes[index]
            sure += float(probability[index])
    return kept


def calibrated(examples: Sequence[tuple[NDArray[np.float64], Sequence[int]]]) -> list[tuple[float, float]]:
    """For each of `SHARES` how sure to be, so that this share of all rows of the questions is kept, or less.

    examples: scores and sizes of the sentences of questions that the scorer was not trained on.
    """
    found, rows = [], sum(sum(sizes) for _, sizes in examples)
    for share in SHARES:
        low, high = 0.0, 1.0
        for _ in range(16):
            middle = (low + high) / 2
            used = 0
            for scores, sizes in examples:
                most = max(FEWEST, MOST * share * sum(sizes))
                used += sum(sizes[index] for index in _kept(scores, sizes, most, middle))
            low, high = (middle, high) if used <= share * rows else (low, middle)
        found.append((share, round(low, 5)))
    return found


# --- scoring


def stem(word: str) -> str:
    """A word without common English endings, so that `acquired` meets `acquires`."""
    return _SUFFIX.sub("", word) if len(word) > 4 else word


def features(question: str, sentences: Sequence[Sentence]) -> NDArray[np.float64]:
    """(sentences, FEATURES), for sentences in the passages' order."""
    words = [words_of(sentence.text) for sentence in sentences]
    stems = [[stem(word) for word in found] for found in words]
    asked_words = words_of(question)
    asked, asked_stems = set(asked_words), {stem(word) for word in asked_words}
    asked_pairs = set(pairwise(asked_words))
    passages = np.array([sentence.passage for sentence in sentences])
    count = len(sentences)

    shared = _shared(asked_stems, stems)
    grams = _shared(_grams(asked_stems), [_grams(found) for found in stems])
    rank = np.argsort(np.argsort(-shared)) / count
    kinds = _kinds(question)
    rows = []
    for i, sentence in enumerate(sentences):
        same = passages == sentence.passage
        before = shared[i - 1] if i and same[i - 1] else 0.0
        after = shared[i + 1] if i + 1 < count and same[i + 1] else 0.0
        opens = bool(_OPENS_WITH_PRONOUN.match(sentence.text))
        names = [name for name in _NAME.findall(sentence.text) if stem(name.lower()) not in asked_stems]
        holds = np.array([
            bool(_NUMBER.search(sentence.text)),
            bool(_YEAR.search(sentence.text)),
            min(3, len(names)) / 3,
            any(_NUMBER.search(word) and word not in asked for word in words[i]),
        ], dtype=float)  # fmt: skip
        pairs = asked_pairs & set(pairwise(words[i]))
        rows.append([
            shared[i], shared[i] / (shared.max() or 1), grams[i], grams[i] / (grams.max() or 1),
            len(asked & set(words[i])) / (len(asked) or 1), len(pairs) / (len(asked_pairs) or 1),
            before, after, shared[same].max(), grams[same].mean(),
            math.log(1 + sentence.size), shared[i] / math.log(3 + sentence.size),
            sentence.place == 0, sentence.place == 1, min(sentence.place, 8) / 8, i + 1 == count or not same[i + 1],
            bool(_PRONOUN.search(sentence.text)), opens, *holds,
            len(set(stems[i]) - asked_stems) / 20, sentence.passage == 0, 1 / count,
            before * opens, (sentence.place == 0) * shared[same].max(), rank[i],
            *np.outer([*holds, shared[i]], kinds).ravel(),
        ])  # fmt: skip
    return np.array(rows, dtype=np.float64)


def _shared(asked: Iterable[str], found: Sequence[Iterable[str]]) -> NDArray[np.float64]:
    """Of what is asked, the share that each sentence holds, each item weighted by how few sentences hold it."""
    sets = [set(items) for items in found]
    holding = Counter(item for items in sets for item in items)
    weights = {item: math.log(1 + len(sets) / max(1, holding[item])) for item in asked}
    total = sum(weights.values()) or 1.0
    return np.array([sum(weights[item] for item in weights.keys() & items) / total for items in sets])


def _grams(words: Iterable[str]) -> set[str]:
    """Letter 4-grams of words, with their ends marked."""
    return {f"_{word}_"[i : i + 4] for word in words for i in range(max(1, len(word) - 1))}


def _kinds(question: str) -> NDArray[np.float64]:
    """What a question asks for, in {0, 1}: a person, a time, a place, an amount, a reason or manner."""
    found = [bool(pattern.search(question.lower())) for pattern in _ASKS_FOR]
    found[4] = found[4] and not found[1] and not found[3]
    return np.array(found, dtype=float)


class WordScorer:
    """Ranks by words alone. features -> GELU(W1 x + b1) -> w2; x normalised by the training set's mean and standard deviation."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}

    @property
    def certainty(self) -> Certainty:
        return [(share, sure) for share, sure in self._tensors["certainty"].tolist()]

    @classmethod
    @cache
    def default(cls) -> WordScorer:
        """The one that ships."""
        return cls(load_file(WEIGHTS))

    def scores(self, question: str, passages: Sequence[str], sentences: Sequence[Sentence]) -> NDArray[np.float64]:
        """(sentences,), higher for sentences that the question seems to need."""
        return self.of(features(question, sentences))

    def of(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (sentences,) of their features (sentences, FEATURES)."""
        t = self._tensors
        x = (found - t["mean"]) / t["deviation"]
        hidden = x @ t["hidden.weight"].T + t["hidden.bias"]
        hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        return np.asarray((hidden @ t["out.weight"].T + t["out.bias"])[:, 0])
