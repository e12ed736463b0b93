"""Limits, causes, the memory law and plans of holding: laws that hold for every grid of loads and scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loramem.metrics.capacity import (
    PLATEAU_FALL,
    cause,
    fit_memory_law,
    limit,
    plan_holding,
)

shares = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.floats(0, 1), st.just(math.nan))
thresholds = st.one_of(st.sampled_from([0.5, 0.9, 1.0]), st.floats(0.01, 1))
grids = st.lists(st.tuples(st.integers(1, 50), shares), min_size=1, max_size=8).map(
    lambda steps: (np.cumsum([step for step, _ in steps]).tolist(), [score for _, score in steps])
)


# -- limits ------------------------------------------------------------------------------------------
@given(grids, thresholds)
def test_a_limit_is_the_last_load_before_the_first_failure(grid, threshold):
    loads, scores = grid
    first = next((i for i, score in enumerate(scores) if not score >= threshold), len(loads))
    found = limit(loads, scores, threshold)
    assert found.load == (loads[first - 1] if first else None)
    assert found.censored is (first == len(loads))
    between = 0 < first < len(loads) and not math.isnan(scores[first])
    assert (found.crossing is not None) is between
    if between:
        assert loads[first - 1] * (1 - 1e-9) <= found.crossing <= loads[first] * (1 + 1e-9)


@given(grids, thresholds, thresholds)
def test_a_higher_threshold_never_has_a_higher_limit(grid, one, other):
    low, high = (limit(*grid, threshold) for threshold in sorted((one, other)))
    assert (high.load or 0) <= (low.load or 0) and low.censored >= high.censored
    if low.crossing is not None and high.crossing is not None:
        assert high.crossing <= low.crossing * (1 + 1e-9)


@given(grids, thresholds, st.lists(shares, min_size=1, max_size=8))
def test_nothing_after_the_first_failure_counts(grid, threshold, others):
    loads, scores = grid
    found = limit(loads, scores, threshold)
    assume(not found.censored)
    failed = loads.index(found.load) + 1 if found.load is not None else 0
    later = [*scores[: failed + 1], *(others * 8)][: len(scores)]
    assert limit(loads, later, threshold) == found


@given(grids, thresholds, st.integers(0, 7))
def test_a_load_without_a_result_fails(grid, threshold, place):
    loads, scores = grid
    place %= len(loads)
    found = limit(loads, [*scores[:place], math.nan, *scores[place + 1 :]], threshold)
    assert not found.censored and (found.load or 0) < loads[place]


def test_the_crossing_is_interpolated_in_log_load():
    assert limit([10, 1000], [1.0, 0.0], 0.5).crossing == pytest.approx(100)
    assert limit([10, 1000], [0.9, 0.1], 0.9).crossing == pytest.approx(10)
    assert limit([10, 1000], [0.95, 0.45], 0.85).crossing == pytest.approx(10 * 100**0.2)


def test_limits_in_words():
    assert limit([500, 1000], [1, 0], 0.9).shown == "500"
    assert limit([500, 1000], [1, 1], 0.9).shown == ">= 1,000"
    assert limit([500, 1000], [0, 1], 0.9).shown == "below the grid"


# -- causes ------------------------------------------------------------------------------------------
def log(losses: list[float], every: int = 10) -> list[dict]:
    return [{"step": every * (i + 1), "loss": loss} for i, loss in enumerate(losses)]


def test_fixed_steps_are_judged_by_the_last_quarter():
    assert cause("steps", log([5, 4, 3, 3, 2, 2, 2, 2])) == "capacity"
    assert cause("steps", log([5, 4, 3, 3, 2, 2, 1, 1])) == "budget"
    assert cause("steps", log([9, 9, 1, 1, 1, 1, 1, 1])) == "capacity", "the first half plays no part"
    assert cause("steps", log([1, 1, 1, 1, 1, 1, 2, 2])) == "capacity", "a rising loss does not fall"


@given(st.floats(0.01, 10), st.floats(0.5, 1.5), st.integers(1, 500))
def test_the_share_of_the_fall_decides_whatever_the_scale(loss, ratio, every):
    assume(abs(ratio - (1 - PLATEAU_FALL)) > 1e-6)
    expected = "capacity" if ratio > 1 - PLATEAU_FALL else "budget"
    assert cause("steps", log([loss] * 6 + [loss * ratio] * 2, every)) == expected


def test_rows_weigh_by_the_steps_they_hold():
    """First row one step, last row short: as the training loop logs."""
    rows = [{"step": s, "loss": x} for s, x in ((1, 9.0), (50, 3.0), (60, 2.0), (75, 2.0), (99, 1.99), (100, 0.0))]  # fmt: skip
    assert cause("steps", rows) == "capacity", "one step of 25 makes a fall of 4 %"
    rows[-2:] = [{"step": 80, "loss": 1.99}, {"step": 100, "loss": 0.0}]
    assert cause("steps", rows) == "budget"


def test_the_way_a_search_ended_decides_without_the_log():
    falling, flat = log([8, 4, 2, 1]), log([1, 1, 1, 1])
    assert cause("plateau", falling) == "capacity" and cause("limit", flat) == "budget"
    assert cause("memorised", falling) == "capacity", "nothing was left to learn"
    assert cause("plateau", []) == "capacity"


def test_too_short_a_log_is_no_plateau():
    assert cause("steps", log([1.0])) == "budget" and cause("steps", [{"step": 3, "loss": 1.0}]) == "budget"


# -- the memory law ----------------------------------------------------------------------------------
RANKS, LOADS = np.meshgrid([1.0, 4.0, 16.0, 64.0], [500.0, 1000.0, 4000.0, 16000.0])
RANK, LOAD = RANKS.ravel(), LOADS.ravel()
HELD_OUT = np.arange(16) % 3 == 1


@pytest.mark.parametrize(
    ("scale", "a", "b", "c"), [(30.0, 0.5, 0.4, 0.0), (12.0, 0.2, 0.3, 0.5), (200.0, 0.7, 0.9, 0.1)]
)
def test_the_law_finds_its_constants_again(scale, a, b, c):
    law = fit_memory_law(RANK, LOAD, scale * RANK**a * LOAD**-b + c, HELD_OUT)
    assert law is not None and (law.fitted, law.held_out) == (11, 5)
    assert (law.scale, law.a, law.b, law.c) == pytest.approx((scale, a, b, c), rel=0.02, abs=0.02)
    assert law.r2 > 0.9999 and law.r2_held_out > 0.9999 and law.rmse_held_out < 1e-2
    assert law.predict(np.array([2.0]), np.array([2000.0]))[0] == pytest.approx(
        scale * 2**a * 2000**-b + c, rel=1e-2
    )


def test_held_out_cells_are_not_fitted():
    gain = 30 * RANK**0.5 * LOAD**-0.4
    broken = np.where(HELD_OUT, gain[::-1], gain)
    law, same = fit_memory_law(RANK, LOAD, broken, HELD_OUT), fit_memory_law(RANK, LOAD, gain, HELD_OUT)
    assert law is not None and same is not None
    assert (law.scale, law.a, law.b, law.c, law.r2) == (same.scale, same.a, same.b, same.c, same.r2)
    assert law.r2_held_out < 0.5 < same.r2_held_out and law.rmse_held_out > same.rmse_held_out


def test_the_fit_tells_noise_from_a_law():
    noise = np.random.default_rng(0).uniform(0, 1, 16)
    law = fit_memory_law(RANK, LOAD, noise, HELD_OUT)
    assert law is not None and law.r2_held_out < 0.5 and law.c >= 0


@pytest.mark.parametrize(("cells", "held_out"), [(7, 2), (7, 1), (16, 11), (3, 0)])
def test_too_few_cells_have_no_law(cells, held_out):
    held = np.arange(cells) < held_out
    gain = 30 * RANK**0.5 * LOAD**-0.4
    assert fit_memory_law(RANK[:cells], LOAD[:cells], gain[:cells], held) is None


# -- plans of holding --------------------------------------------------------------------------------
measurements = st.lists(
    st.tuples(st.integers(1, 64), st.integers(1, 10**6), st.integers(0, 500), st.booleans()), max_size=6
)


@given(st.integers(1, 10**5), measurements)
def test_a_plan_holds_every_fact_and_assumes_no_more_than_was_measured(facts, measured):
    plans = plan_holding(facts, measured)
    assert len(plans) == sum(most > 0 for _, _, most, _ in measured)
    for plan in plans:
        assert plan.modules * plan.facts_each >= facts > (plan.modules - 1) * plan.facts_at_most
        assert plan.facts_each <= plan.facts_at_most
        assert any(
            (rank, most, below, plan.modules * parameters)
            == (plan.rank, plan.facts_at_most, plan.below_limit, plan.parameters)
            for rank, parameters, most, below in measured
        )
    assert plans == sorted(plans, key=lambda plan: (plan.parameters, plan.modules))
