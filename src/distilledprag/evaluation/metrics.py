"""Exact match and token F1 as SQuAD and HotpotQA compute them (their normalisation: lower case, no punctuation, no
articles, single spaces)."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as the official scripts compare it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if the normalised texts are equal, else 0.0."""
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall; yes, no and noanswer count only when equal (HotpotQA)."""
    ours, theirs = normalise(prediction), normalise(answer)
    if ours != theirs and {ours, theirs} & {"yes", "no", "noanswer"}:
        return 0.0
    common = sum((Counter(ours.split()) & Counter(theirs.split())).values())
    if not common:
        return float(ours == theirs)
    precision, recall = common / len(ours.split()), common / len(theirs.split())
    return 2 * precision * recall / (precision + recall)


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a share measured on n questions (Wilson)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
