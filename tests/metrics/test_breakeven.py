"""Break-even points against counting question by question, and laws that hold for any costs."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.metrics.breakeven import BACKWARD, questions_to_pay, spread, spread_to_pay, training_tokens

costs = st.integers(0, 40)


def counted(fixed, each, other_fixed, other_each, most: int = 400) -> int | None:
    """By brute force: the first n after which the way is never dearer or equal again, within `most` questions."""
    cheaper = [fixed + n * each < other_fixed + n * other_each for n in range(1, most + 1)]
    if not cheaper[-1]:
        return None
    last_not = max((n for n, fine in enumerate(cheaper, start=1) if not fine), default=0)
    return last_not + 1


@given(costs, costs, costs, costs)
def test_it_is_the_number_that_counting_finds(fixed, each, other_fixed, other_each):
    assert questions_to_pay(fixed, each, other_fixed, other_each) == counted(
        fixed, each, other_fixed, other_each
    )


@given(costs, costs, costs, costs)
def test_of_two_ways_at_most_one_is_cheaper_for_good(fixed, each, other_fixed, other_each):
    one = questions_to_pay(fixed, each, other_fixed, other_each)
    other = questions_to_pay(other_fixed, other_each, fixed, each)
    assert one is None or other is None
    assert (one is None and other is None) == (each == other_each and fixed == other_fixed)


def test_equal_cost_is_not_cheaper_and_floats_are_exact():
    assert questions_to_pay(10, 1, 0, 2) == 11  # after 10 both have cost 20
    # 0.1 + 0.2 is more than 0.3 as floats are: the tiny rest decides, and no rounding hides it
    assert questions_to_pay(0.1 + 0.2, 1.0, 0.3, 1.0) is None
    assert questions_to_pay(0.3, 1.0, 0.1 + 0.2, 1.0) == 1
    assert questions_to_pay(Fraction(1, 3), 0, 0, Fraction(1, 9)) == 4
    huge = questions_to_pay(1e15, 1.0, 0.0, 1.0 + 2**-52)
    assert huge == int(1e15) * 2**52 + 1


def test_a_way_that_costs_nothing_before_pays_at_once_if_it_is_faster():
    assert questions_to_pay(0, 0, 0, 1) == 1
    assert questions_to_pay(0, 0, 0, 0) is None
    assert questions_to_pay(3, 5, 900, 1) is None  # cheaper for its first questions only


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_costs_that_are_none_are_refused(bad):
    for place in range(4):
        given_costs = [1, 1, 1, 1]
        given_costs[place] = bad
        with pytest.raises(ValueError, match="finite and not negative"):
            questions_to_pay(*given_costs)


def test_trained_tokens_count_their_backward_pass():
    assert training_tokens(7) == 7 * (1 + BACKWARD) == 21
    assert training_tokens(0, teacher=1, prompt=10, new=100) == 111


@given(st.lists(st.integers(1, 99) | st.none(), min_size=1, max_size=9))
def test_never_is_more_than_any_number(counts):
    found = spread_to_pay(counts)
    assert (found["high"] is None) == (None in counts)
    assert (found["low"] is None) == (set(counts) == {None})
    assert (found["median"] is None) == (counts.count(None) >= len(counts) - len(counts) // 2)


def test_a_spread_of_nothing_is_refused():
    for of in (spread, spread_to_pay):
        with pytest.raises(ValueError, match="nothing was measured"):
            of([])
