"""How much test documents repeat training documents: MinHash estimates of the Jaccard similarity (Broder 1997; datasketch).

D = documents, P = permutations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from distilledprag.errors import InputError

PERMUTATIONS = 256  # the standard error of an estimate is at most 1 / (2 sqrt(256)) = 0.03
SHINGLE_WORDS = 3
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_WORD = re.compile(r"\w+")

Signatures = NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """A test document's most similar training document. test, training: places in their lists; similarity: estimated, 0..1."""

    test: int
    training: int
    similarity: float


def shingles(text: str, words: int = SHINGLE_WORDS) -> set[str]:
    """The runs of `words` lower-case words in the text; of a shorter text, all its words as one."""
    found = _WORD.findall(text.lower())
    return {" ".join(found[begin : begin + words]) for begin in range(max(1, len(found) - words + 1))} if found else set()


def minhash(documents: Sequence[str], permutations: int = PERMUTATIONS, words: int = SHINGLE_WORDS, seed: int = 0) -> Signatures:
    """Signatures (D, P) of the documents: the share of places where two agree estimates the Jaccard similarity of their
    shingles. Only signatures made with the same settings can be compared.

    Raises InputError for a document without words, and for fewer than 1 permutation or word.
    """
    if permutations < 1 or words < 1:
        raise InputError(f"MinHash with {permutations} permutations of {words} words cannot be made; give at least 1 of both")
    found = []
    for place, document in enumerate(documents, start=1):
        parts = shingles(document, words)
        if not parts:
            raise InputError(f"document {place} has no words; leave it out")
        found.append([part.encode("utf-8", "surrogatepass") for part in parts])
    made = MinHash.bulk(found, num_perm=permutations, seed=seed)
    return np.array([one.hashvalues for one in made], dtype=np.uint64).reshape(len(documents), permutations)


def nearest(test: Signatures, training: Signatures, block: int = 16_000_000) -> list[Overlap]:
    """The most similar training document of every test document; of equally similar ones the first.

    test: (D, P); training: (D', P); block: numbers compared at a time. Raises InputError when either is empty or P differs.
    """
    if not len(test) or not len(training):
        raise InputError("there are no documents to compare; give at least one test and one training document")
    if test.shape[1] != training.shape[1]:
        raise InputError(
            f"the signatures have {test.shape[1]} and {training.shape[1]} permutations; make both with the same settings"
        )
    rows = max(1, block // training.shape[1])
    found = []
    for place, signature in enumerate(test):
        agreeing = np.concatenate(
            [(training[begin : begin + rows] == signature).sum(axis=1) for begin in range(0, len(training), rows)]
        )
        best = int(agreeing.argmax())
        found.append(Overlap(place, best, float(agreeing[best]) / training.shape[1]))
    return found


def summarise(overlaps: Sequence[Overlap]) -> dict[str, Any]:
    """For a report: number of test documents, mean, median and maximum of their similarities, and the share of documents at or
    above 0.1 ... 0.9. Raises InputError without documents."""
    if not overlaps:
        raise InputError("there are no documents to report on; give at least one test document")
    similarities = np.array([overlap.similarity for overlap in overlaps])
    return {
        "documents": len(overlaps),
        "mean": round(float(similarities.mean()), 4),
        "median": round(float(np.median(similarities)), 4),
        "max": round(float(similarities.max()), 4),
        "share_at_least": {str(share): round(float((similarities >= share).mean()), 4) for share in SHARES},
    }
