"""Intervals that cover the truth as often as they promise, and a test that finds differences and no others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distilledprag.errors import InputError
from distilledprag.evaluation.statistics import bootstrap_interval, paired_comparison, share_interval


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2000)
    found = bootstrap_interval(values, resamples=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_about_95_of_100_intervals_cover_the_true_mean():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        found = bootstrap_interval(random.integers(0, 2, size=100), resamples=400)
        covered += found.low <= 0.5 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_higher_level_gives_a_wider_interval_and_equal_values_one_of_no_width():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    narrow, wide = bootstrap_interval(values, 0.5), bootstrap_interval(values, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_interval([0.25] * 7) == bootstrap_interval([0.25]) and bootstrap_interval([0.25]).high == 0.25


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(2).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_the_p_value_is_the_share_of_sign_flips_at_least_as_far():
    first, second = [1.0, 0.9, 0.8, 0.4, 1.0, 0.3], [0.0, 0.5, 0.9, 0.1, 0.2, 0.3]
    differences = np.array(first) - np.array(second)
    sums = [abs(sum(signs * differences)) for signs in itertools.product((-1, 1), repeat=6)]
    exact = np.mean([value >= abs(differences.sum()) - 1e-9 for value in sums])
    found = paired_comparison(first, second, resamples=40_000)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert found.difference == pytest.approx(differences.mean()) and found.n == 6


def test_exchanging_the_methods_turns_the_difference_round():
    random = np.random.default_rng(5)
    first, second = random.random(40), random.random(40)
    one, other = paired_comparison(first, second), paired_comparison(second, first)
    assert one.difference == pytest.approx(-other.difference) and one.p_value == other.p_value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_a_small_difference_on_every_question_is_found_where_the_methods_alone_overlap():
    scores = np.random.default_rng(6).random(60)
    better = scores + np.random.default_rng(7).normal(0.05, 0.02, 60)
    assert bootstrap_interval(better).low < bootstrap_interval(scores).high
    found = paired_comparison(better, scores)
    assert found.p_value < 0.001 and 0.04 < found.low < found.difference < found.high < 0.06


def test_without_a_difference_p_values_are_even():
    random = np.random.default_rng(8)
    found = [paired_comparison(random.random(20), random.random(20), resamples=200).p_value for _ in range(200)]
    assert 0.02 <= np.mean(np.array(found) <= 0.1) <= 0.18 and 0.4 <= np.mean(found) <= 0.6
    assert paired_comparison([1.0, 0.0], [1.0, 0.0]).p_value == 1.0


def test_no_p_value_is_zero():
    found = paired_comparison(np.ones(100), np.zeros(100), resamples=999)
    assert found.p_value == 1 / 1000 and found.low == found.high == 1.0


def test_many_questions_are_resampled_in_several_blocks():
    values = np.random.default_rng(9).random(5000)
    found = bootstrap_interval(values, resamples=2000)  # ten million random numbers, drawn in three parts
    half = 1.96 * values.std() / np.sqrt(5000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)


def test_a_share_has_a_paired_interval():
    whole = np.random.default_rng(10).random(200)
    found = share_interval(0.8 * whole, whole)
    assert (found.mean, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))
    found = share_interval(whole + np.random.default_rng(11).normal(0, 0.1, 200), whole)
    assert found.low < 1 < found.high and found.high - found.low < 0.1
    assert share_interval([1.0, 0.0], [0.0, 0.0]) is None
    assert share_interval([0.5], [1.0]).low == 0.5


@pytest.mark.parametrize("call, message", [
    (lambda: bootstrap_interval([]), "at least one"),
    (lambda: bootstrap_interval([[1.0], [2.0]]), r"shape \(2, 1\)"),
    (lambda: bootstrap_interval([1.0, float("nan")]), "question 2"),
    (lambda: bootstrap_interval([1.0], level=95), "between 0 and 1"),
    (lambda: bootstrap_interval([1.0], resamples=9), "at least 100"),
    (lambda: paired_comparison([1.0], [1.0, 2.0]), "1 and 2 scores"),
    (lambda: paired_comparison([1.0], [float("inf")]), "second method"),
])  # fmt: skip
def test_numbers_that_cannot_be_used_say_why(call, message):
    with pytest.raises(InputError, match=message):
        call()
