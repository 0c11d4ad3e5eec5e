"""How sure a measured mean is, and whether two methods differ: bootstrap intervals and a paired permutation test (scipy.stats).

Q = questions, R = resamples. Same values and seed, same result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distilledprag.errors import InputError

RESAMPLES = 10_000
_BLOCK = 4_000_000  # random numbers drawn at a time, so that memory does not grow with R * Q

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean (or another figure) and its confidence interval."""

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
    low, high = _bootstrap((scores,), np.mean, level, resamples, seed)
    return Interval(float(scores.mean()), low, high)


def share_interval(
    part: Sequence[float], whole: Sequence[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The mean of `part` (Q,) as a share of the mean of `whole` (Q,) on the same questions, with a paired bootstrap interval.

    None where the mean of `whole` is 0. Errors as in `paired_comparison`.
    """
    ours, theirs = _paired(part, whole)
    if not theirs.any():
        return None
    low, high = _bootstrap((ours, theirs), _share, level, resamples, seed)
    return Interval(float(ours.mean() / theirs.mean()), low, high)


def paired_comparison(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedComparison:
    """Compare two methods by their scores (Q,) on the same questions in the same order.

    p_value: Fisher's permutation test, the share of sign flips of the Q differences whose mean is at least as far from 0 as the
    measured one. All 2^Q of them where they are no more than R; else R random ones and the measured one, (count + 1) / (R + 1).
    Raises InputError as `bootstrap_interval` does, and for different numbers of scores.
    """
    ours, theirs = _paired(first, second)
    differences = ours - theirs
    low, high = _bootstrap((differences,), np.mean, level, resamples, seed)
    test = stats.permutation_test(
        (differences,),
        lambda values, axis: np.abs(np.mean(values, axis=axis)),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=_rows(len(differences)),
        rng=np.random.default_rng(seed),
    )
    return PairedComparison(float(differences.mean()), low, high, float(test.pvalue), len(differences))


def _share(part: Numbers, whole: Numbers, axis: int) -> Any:
    """Not a number where a resample of `whole` is all zeros."""
    below = np.asarray(np.mean(whole, axis=axis))
    return np.divide(np.mean(part, axis=axis), below, out=np.full_like(below, np.nan), where=below != 0)


def _bootstrap(
    samples: tuple[Numbers, ...], statistic: Callable[..., Any], level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of a statistic of samples (Q,) that are drawn together."""
    if not 0 < level < 1:
        raise InputError(f"a confidence level of {level} is not between 0 and 1; give for example 0.95")
    if resamples < 100:
        raise InputError(f"{resamples} resamples say too little; take at least 100, better {RESAMPLES}")
    if len(samples[0]) == 1:
        only = float(statistic(*samples, axis=0))
        return only, only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of resamples that have no share
        drawn = stats.bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            batch=_rows(len(samples[0])),
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _rows(questions: int) -> int:
    """How many resamples to draw at a time."""
    return max(1, _BLOCK // questions)


def _paired(first: Sequence[float], second: Sequence[float]) -> tuple[Numbers, Numbers]:
    ours, theirs = _checked(first, "scores of the first method"), _checked(second, "scores of the second method")
    if len(ours) != len(theirs):
        raise InputError(
            f"the methods have {len(ours)} and {len(theirs)} scores; compare them on the same questions in the same order"
        )
    return ours, theirs


def _checked(values: Sequence[float], name: str) -> Numbers:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise InputError(f"the {name} have the shape {scores.shape}; give one number per question, and at least one")
    if not np.isfinite(scores).all():
        raise InputError(f"the {name} hold NaN or infinity at question {int(np.flatnonzero(~np.isfinite(scores))[0]) + 1}")
    return scores
