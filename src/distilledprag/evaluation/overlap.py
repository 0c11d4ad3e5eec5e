"""How much test documents repeat training documents: MinHash estimates of the Jaccard similarity (Broder 1997).

Knows texts only. D = documents, P = permutations, S = shingles of a document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilledprag.errors import InputError

PERMUTATIONS = 256  # the standard error of an estimate is at most 1 / (2 sqrt(256)) = 0.03
SHINGLE_WORDS = 3
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_PRIME = 4_294_967_311  # the smallest above 2^32; (2^32 - 1)^2 + _PRIME is below 2^64, so nothing below overflows
_WORD = re.compile(r"\w+")
_BLOCK = 16_000_000  # compared numbers at a time

Signatures = NDArray[np.uint32]


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
    random = np.random.default_rng(seed)
    factors = random.integers(1, 2**32, size=permutations, dtype=np.uint64)
    offsets = random.integers(0, _PRIME, size=permutations, dtype=np.uint64)
    signatures = np.empty((len(documents), permutations), dtype=np.uint32)
    for place, document in enumerate(documents):
        found = shingles(document, words)
        if not found:
            raise InputError(f"document {place + 1} has no words; leave it out")
        digests = b"".join(hashlib.blake2b(shingle.encode("utf-8", "surrogatepass"), digest_size=4).digest() for shingle in found)
        hashes = np.frombuffer(digests, dtype="<u4").astype(np.uint64)  # (S,)
        signatures[place] = ((hashes[:, None] * factors + offsets) % np.uint64(_PRIME)).min(axis=0).astype(np.uint32)
    return signatures


def nearest(test: Signatures, training: Signatures) -> list[Overlap]:
    """The most similar training document of every test document; of equally similar ones the first.

    test: (D, P); training: (D', P). Raises InputError when either is empty or P differs.
    """
    if not len(test) or not len(training):
        raise InputError("there are no documents to compare; give at least one test and one training document")
    if test.shape[1] != training.shape[1]:
        raise InputError(
            f"the signatures have {test.shape[1]} and {training.shape[1]} permutations; make both with the same settings"
        )
    rows = max(1, _BLOCK // training.shape[1])
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
