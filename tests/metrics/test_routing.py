"""Routing metrics: equal to brute force over pairs, subsets and thresholds; strangers and unknown gold are counted."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.answering.routers import Route
from loramem.core.errors import InputError
from loramem.metrics.routing import (
    accuracy_at,
    chance_at,
    mrr,
    none_auroc,
    none_detection,
    routing_quality,
    threshold_for,
)

few = st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0])
confidences = st.lists(few, min_size=1, max_size=12)


def test_rank_metrics_by_hand_with_module_0_as_gold():
    rankings = [[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 2]]
    gold = [frozenset({0}), frozenset({0, 2}), frozenset({0}), None]
    assert accuracy_at(rankings, gold, 1)[:3].tolist() == [1, 0, 0]
    assert accuracy_at(rankings, gold, 2)[:3].tolist() == [1, 1, 0]
    assert mrr(rankings, gold)[:3].tolist() == [1, 1 / 2, 1 / 3]
    assert np.isnan(accuracy_at(rankings, gold, 1)[3]) and np.isnan(mrr(rankings, gold)[3])


@given(st.integers(1, 6), st.data())
def test_chance_is_the_share_of_subsets_that_hold_a_right_one(pool, data):
    right, k = data.draw(st.integers(1, pool)), data.draw(st.integers(1, 7))
    subsets = list(itertools.combinations(range(pool), min(k, pool)))
    assert chance_at(pool, right, k) == pytest.approx(np.mean([min(s) < right for s in subsets]))


@given(confidences, confidences)
def test_auroc_is_the_share_of_pairs(own, strangers):
    pairs = [(a > b) + 0.5 * (a == b) for a in own for b in strangers]
    assert none_auroc(own, strangers) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert none_auroc(strangers, own) == pytest.approx(1 - np.mean(pairs), abs=1e-12)


def test_auroc_of_nothing_is_not_a_number():
    assert math.isnan(none_auroc([], [0.1])) and math.isnan(none_auroc([0.1], []))


@given(confidences, st.floats(0, 1))
def test_the_threshold_is_the_lowest_that_sends_the_share_away(strangers, share):
    found = threshold_for(strangers, share)
    assert np.mean(np.array(strangers) < found) >= share - 1e-9
    if share > 0.01:  # just below it, too few go
        lower = np.nextafter(found, -np.inf)
        assert np.mean(np.array(strangers) < lower) < share
    assert math.isfinite(found)


@settings(deadline=None)
@given(confidences, st.lists(st.tuples(few, st.sampled_from("abcd")), min_size=2, max_size=20))
def test_detection_is_calibrated_on_one_half_and_measured_on_the_other(own, strangers):
    values, groups = [v for v, _ in strangers], [g for _, g in strangers]
    if len(set(groups)) < 2:
        with pytest.raises(InputError, match="cannot be halved"):
            none_detection(own, values, groups=groups)
        return
    found = none_detection(own, values, share=0.8, groups=groups)
    assert sorted(found.calibrated + found.held_out) == list(range(len(values)))
    assert not {groups[i] for i in found.calibrated} & {groups[i] for i in found.held_out}
    assert found.threshold == threshold_for([values[i] for i in found.calibrated], 0.8)
    assert found.strangers_away == np.mean([values[i] < found.threshold for i in found.held_out])
    assert found.own_kept == np.mean([v >= found.threshold for v in own])


def test_a_lone_stranger_cannot_be_halved_and_bad_shares_are_refused():
    with pytest.raises(InputError, match="1 group"):
        none_detection([1.0], [0.5])
    with pytest.raises(InputError, match="at least one stranger"):
        threshold_for([], 0.5)
    with pytest.raises(InputError, match=r"share 1\.5"):
        threshold_for([0.1], 1.5)
    assert math.isnan(none_detection([], [0.1, 0.2]).own_kept)


def path(ranking: tuple[int, ...], used: int, confidence: float = 0.5) -> Route:
    ids = tuple(f"m{i}" for i in ranking[:used])
    return Route(ids, (0.1,) * used, confidence, ranking, tuple(float(-r) for r in ranking))


def test_quality_drops_no_question():
    routes = [path((0, 1, 2), 2), path((1, 0, 2), 1), path((2, 1, 0), 0, 0.1), path((0, 1, 2), 1)]
    gold = [frozenset({0}), frozenset({0}), frozenset(), None]
    found = routing_quality(routes, gold, 3, at=(1, 2, 3))
    assert all(len(values) == 4 for values in found.values())
    assert found["acc@1"][:2].tolist() == [1, 0] and found["acc@2"][:2].tolist() == [1, 1]
    assert "acc@3" not in found  # three of three are always right
    assert found["chance@2"][0] == pytest.approx(2 / 3)
    assert found["found"][:2].tolist() == [1, 0] and found["precision"][:2].tolist() == [0.5, 0]
    assert found["used"].tolist() == [2, 1, 0, 1] and found["none"].tolist() == [0, 0, 1, 0]
    assert found["stranger"].tolist() == [0, 0, 1, 0] and found["unknown"].tolist() == [0, 0, 0, 1]
    assert np.isnan(found["mrr"][2:]).all() and np.isnan(found["found"][2:]).all()
    assert found["confidence"].tolist() == [0.5, 0.5, 0.1, 0.5]


def test_an_own_question_sent_away_is_not_found_and_has_no_precision():
    found = routing_quality([path((0, 1), 0)], [frozenset({0})], 2)
    assert (
        found["found"].tolist() == [0] and np.isnan(found["precision"][0]) and found["acc@1"].tolist() == [1]
    )
    alone = routing_quality([path((0,), 1)], [frozenset({0})], 1)
    assert alone["acc@1"].tolist() == [1] and alone["chance@1"].tolist() == [1]


def test_routes_over_another_pool_are_refused():
    with pytest.raises(InputError, match="route 0 ranks 2 modules"):
        routing_quality([path((0, 1), 1)], [None], 3)
    with pytest.raises(InputError, match="1 routes, but gold of 2"):
        routing_quality([path((0, 1), 1)], [None, None], 2)
