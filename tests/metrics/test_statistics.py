"""Intervals and tests against scipy and brute force; edit scores on the cases that the published code got wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from loramem.metrics.edits import harmonic_mean, prefers
from loramem.metrics.intervals import bootstrap_means, mean_interval, wilson
from loramem.metrics.paired import holm, paired_difference
from loramem.metrics.scorers import METRICS, score
from loramem.metrics.text import exact_match, exact_match_digits, token_f1
from loramem.sources.types import Probe


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_equals_scipy(successes, extra):
    n = successes + extra
    reference = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_one_seed_of_single_items_uses_wilson():
    values = np.array([[1.0, 1, 1, 0]])
    assert mean_interval(values, np.ones_like(values), binary=True) == (
        0.75,
        *wilson(3, 4),
    )


def test_unanimous_items_are_not_certain():
    values = np.ones((3, 20))
    mean, low, high = mean_interval(values, np.ones_like(values), binary=True)
    assert mean == high == 1.0 and low == pytest.approx(wilson(20, 20)[0])


def test_the_bootstrap_covers_facts_and_seeds():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        fact, seed = rng.normal(0, 0.2, 40), rng.normal(0, 0.05, 5)
        values = 0.5 + fact[None, :] + seed[:, None]
        _, low, high = mean_interval(values, np.ones_like(values), binary=False)
        hits += low <= 0.5 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_the_bootstrap_mean_is_a_weighted_mean():
    sums, counts = np.array([[2.0, 0.0], [1.0, 3.0]]), np.array([[2.0, 0.0], [1.0, 3.0]])
    means = bootstrap_means(sums, counts)
    drawn = np.isfinite(means)  # a draw of the second fact alone, under the first seed alone, holds nothing
    assert np.allclose(means[drawn], 1.0) and 0.5 < drawn.mean() < 1.0


def test_paired_permutation_equals_enumeration():
    a, b = np.array([1.0, 1, 0, 1, 1, 1]), np.array([0.0, 1, 0, 0, 0, 1])
    d = a - b
    exact = np.mean(
        [abs(np.mean(np.array(s) * d)) >= abs(d.mean()) - 1e-12 for s in itertools.product((-1, 1), repeat=6)]
    )
    mean, low, high, p = paired_difference(a, b)
    assert mean == pytest.approx(0.5) and low <= 0.5 <= high and p == pytest.approx(exact, abs=0.015)
    assert paired_difference(a, a)[3] == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.5]) == pytest.approx([0.03, 0.04, 0.5])
    assert holm([]) == []


def compare(new: list[float], true: list[float], gold: int = 0) -> float | None:
    probe = Probe("p", "c", "d", "compare", "trained", "x", ("new", "true"), gold)
    return score(
        METRICS.get("efficacy"),
        probe,
        {"sum_nats": [sum(new), sum(true)], "tokens": [len(new), len(true)], "failure": None},
    )


def test_targets_that_share_a_first_token_can_win():
    assert compare([-1.0, -0.1], [-1.0, -3.0]) == 1.0
    assert compare([-1.0, -3.0], [-1.0, -0.1]) == 0.0


def test_a_longer_target_is_not_punished_and_ties_count_half():
    assert compare([-1.0, -1.0, -1.0], [-1.5]) == 1.0
    assert compare([-1.0], [-1.0]) == 0.5 == prefers(-2.0, -2.0)
    assert compare([-1.0], [-2.0], gold=1) == 0.0, "a neighbour should keep its true target"


def test_a_failed_item_is_none_not_zero():
    probe = Probe("p", "c", "d", "generate", "trained", "x", ("201-555-0101",))
    assert score(METRICS.get("exact_match"), probe, {"prediction": "", "failure": "out of memory"}) is None
    assert score(METRICS.get("exact_match"), probe, {"prediction": "", "failure": None}) == 0.0


def test_edit_score():
    assert harmonic_mean([1.0, 0.5, 0.5]) == pytest.approx(3 / 5)
    assert harmonic_mean([1.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("201-555-0101", 1.0),
        ("It is 201 555 0101.", 1.0),
        ("201-555-01011", 0.0),
        ("201-555-0101 or 202-555-0101", 0.0),
        ("", 0.0),
        ("none", 0.0),
    ],
)
def test_phone_numbers_match_by_all_digits(prediction, expected):
    assert exact_match_digits(prediction, "201-555-0101") == expected


def test_text_scores():
    assert (
        exact_match("The Violin.", "violin") == 1.0
        and exact_match("viola", "violin") == 0.0
        and exact_match("", "") == 0.0
    )
    assert token_f1("a b", "b c") == pytest.approx(2 / 3) and token_f1("", "b") == 0.0
