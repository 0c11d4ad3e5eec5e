"""Metrics as the official scripts compute them, on awkward cases."""

from __future__ import annotations

import pytest

from distilledprag.evaluation.metrics import exact_match, token_f1
from distilledprag.words import normalise


@pytest.mark.parametrize("prediction, answer, exact, f1", [
    ("The Beatles", "beatles", 1.0, 1.0),
    ("in Paris, France", "Paris", 0.0, 2 * (1 / 3) / (1 + 1 / 3)),
    ("yes", "Yes.", 1.0, 1.0),
    ("yes it is", "yes", 0.0, 0.0),
    ("no", "yes", 0.0, 0.0),
    ("", "", 1.0, 1.0),
    ("", "Paris", 0.0, 0.0),
    ("a an the", "", 1.0, 1.0),
    ("$46,000", "$46000", 1.0, 1.0),
    ("Zürich", "zürich", 1.0, 1.0),
    ("new york new york", "new york", 0.0, 2 * (1 / 2) / (1 + 1 / 2)),
])  # fmt: skip
def test_metrics_on_awkward_cases(prediction, answer, exact, f1):
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_normalisation_drops_articles_punctuation_and_case():
    assert normalise("  The U.S. of  A-merica! ") == "us of america"
