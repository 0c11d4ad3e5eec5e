"""How sure a measured mean is, and whether two methods differ: bootstrap intervals and a paired permutation test.

Knows numbers only. Q = questions, R = resamples. Same values and seed, same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilledprag.errors import InputError

RESAMPLES = 10_000
_BLOCK = 4_000_000  # random numbers drawn at a time, so that memory does not grow with R * Q

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Two methods on the same questions. difference: mean of first minus second, with its confidence interval; p_value:
    two-sided, of the hypothesis that it makes no difference which method gave which of a question's two scores."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def bootstrap_interval(values: Sequence[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of `values` (Q,), one per question, and its percentile bootstrap interval (Efron 1979).

    level: share of intervals that should contain the true mean. Raises InputError for no values, NaN and infinities, a level
    outside of 0..1, and fewer than 100 resamples.
    """
    scores = _checked(values, "values")
    low, high = _bootstrap(scores, level, resamples, seed)
    return Interval(float(scores.mean()), low, high)


def paired_comparison(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedComparison:
    """Compare two methods by their scores (Q,) on the same questions in the same order.

    p_value: Fisher's permutation test. The signs of the Q differences are flipped at random R times; p is the share of means
    at least as far from 0 as the measured one, that one included: (count + 1) / (R + 1), so never below 1 / (R + 1).
    Raises InputError as `bootstrap_interval` does, and for different numbers of scores.
    """
    ours, theirs = _checked(first, "scores of the first method"), _checked(second, "scores of the second method")
    if len(ours) != len(theirs):
        raise InputError(
            f"the methods have {len(ours)} and {len(theirs)} scores; compare them on the same questions in the same order"
        )
    differences = ours - theirs
    low, high = _bootstrap(differences, level, resamples, seed)
    measured = abs(differences.sum())
    random = np.random.default_rng(seed)
    as_far = 0
    for rows in _blocks(resamples, len(differences)):
        signs = random.integers(0, 2, size=(rows, len(differences)), dtype=np.int8) * 2 - 1
        as_far += int((np.abs(signs @ differences) >= measured - 1e-9).sum())
    return PairedComparison(float(differences.mean()), low, high, (as_far + 1) / (resamples + 1), len(differences))


def _bootstrap(scores: Numbers, level: float, resamples: int, seed: int) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"a confidence level of {level} is not between 0 and 1; give for example 0.95")
    if resamples < 100:
        raise InputError(f"{resamples} resamples say too little; take at least 100, better {RESAMPLES}")
    random = np.random.default_rng(seed)
    means = np.concatenate([
        scores[random.integers(0, len(scores), size=(rows, len(scores)))].mean(axis=1)
        for rows in _blocks(resamples, len(scores))
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _blocks(resamples: int, questions: int) -> Iterator[int]:
    """How many resamples to draw at a time; they add up to `resamples`."""
    most = max(1, _BLOCK // questions)
    for begin in range(0, resamples, most):
        yield min(most, resamples - begin)


def _checked(values: Sequence[float], name: str) -> Numbers:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise InputError(f"the {name} have the shape {scores.shape}; give one number per question, and at least one")
    if not np.isfinite(scores).all():
        raise InputError(f"the {name} hold NaN or infinity at question {int(np.flatnonzero(~np.isfinite(scores))[0]) + 1}")
    return scores
