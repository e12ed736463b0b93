"""What q01, q02 and q03 say of made-up summaries: never more than the intervals allow, and ranks left out are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.studies.findings import analysis_of, difference, main_budget, points, verb
from loramem.studies.q01.analysis import analyse as q01
from loramem.studies.q02.analysis import analyse as q02
from loramem.studies.q03.analysis import analyse as q03
from loramem.studies.spec import shipped
from madeup import whole_study

MAIN = "exposures=20"


def cell(rank: int, size: int, mean: float, half: float, **more) -> dict:
    row = {
        "cell": f"counterfact-{size}-r{rank}-module", "source": "counterfact", "metric": "efficacy", "probe": "trained",
        "reading": "module", "budget": MAIN, "snapshot": None, "rank": rank, "size_tokens": size, "mean": mean,
        "ci_low": mean - half, "ci_high": mean + half, "exposures": 20.0,
    }  # fmt: skip
    return {**row, **more}


def limit(rank: int, low: float | None, at: float | None, high: float | None, **more) -> dict:
    """A limit of `at` tokens with its interval, interpolated at the same place; None: censored."""
    parameters = 100 * rank
    row = {
        "source": "phonebook", "budget": MAIN, "rank": rank, "metric": "exact_match", "threshold": 0.9,
        "smallest_tokens": 250, "t_max_tokens": at if at is not None else 4000, "censored": at is None, "shown": ">= 4,000" if at is None else f"{at:,.0f}",
        "ci_low": low if low is not None else 4000, "ci_high": high if high is not None else 4000,
        "high_censored": high is None, "crossing_tokens": at, "crossing_low": low, "crossing_high": high,
        "parameters": parameters, "crossing_per_parameter": None if at is None else at / parameters,
    }  # fmt: skip
    return {**row, **more}


def summary(
    cells: list[dict] = (), limits: list[dict] = (), failing: list[dict] = (), laws: list[dict] = ()
) -> dict:
    own = [cell(1, 500, 1.0, 0.01, source="phonebook", metric="exact_match")] if limits and not cells else []
    capacity = {"cells": list(failing), "limits": list(limits), "laws": list(laws)}
    return {"cells": [*cells, *own], "capacity": capacity}


# -- intervals -----------------------------------------------------------------------------------------
halves = st.floats(0.001, 0.3)


@given(st.floats(0, 1), halves, st.floats(0, 1), halves)
def test_a_difference_of_overlapping_means_is_open_and_of_distant_ones_is_not(a, half_a, b, half_b):
    one, other = cell(1, 1, a, half_a), cell(2, 1, b, half_b)
    mean, low, high = difference(one, other)
    assert low <= mean <= high and mean == b - a
    assert difference(other, one) == pytest.approx((-mean, -high, -low))
    said = verb(low, high, "rises", "falls", "open")
    if abs(b - a) > half_a + half_b:
        assert said == ("rises" if b > a else "falls")
    if abs(b - a) < max(half_a, half_b):
        assert said == "open"


def test_points_are_per_cent():
    assert points(0.1, -0.05, 0.2) == "+10.0 points [-5.0, +20.0]"


def test_the_main_grid_is_the_one_with_most_cells_as_they_ended():
    cells = [cell(1, s, 0.5, 0.1) for s in (1, 2)] + [
        cell(1, s, 0.5, 0.1, budget="steps=9") for s in (1, 2, 3)
    ]
    assert main_budget({"cells": cells}, "counterfact") == "steps=9"
    cells += [cell(1, 1, 0.5, 0.1, snapshot=5) for _ in range(9)]
    assert main_budget({"cells": cells}, "counterfact") == "steps=9"
    assert main_budget({"cells": cells}, "phonebook") is None
    assert main_budget({"cells": [*cells[:2], *cells[2:4]]}, "counterfact") == MAIN, "the first of equals"


def test_every_shipped_question_has_an_analysis_that_stands_on_any_summary():
    assert {name for name in shipped() if analysis_of(name)} >= {"q01", "q02", "q03"}
    assert analysis_of("quick") is None and analysis_of("nowhere") is None
    whole, _ = whole_study()
    for analyse in (q01, q02, q03):
        assert analyse(summary()).answer == ()
        found = analyse(whole)
        assert found.answer and found.published and all(source in ("phonebook", "counterfact") for _, source in found.figures)  # fmt: skip


# -- q01: does capacity scale with rank? -------------------------------------------------------------
def test_q01_says_rises_only_where_the_interval_lies_above_zero():
    apart = [cell(1, 1000, 0.7, 0.03), cell(16, 1000, 0.95, 0.02)]
    overlap = [cell(1, 2000, 0.80, 0.05), cell(16, 2000, 0.84, 0.05)]
    down = [cell(1, 4000, 0.9, 0.02), cell(16, 4000, 0.6, 0.05)]
    first = q01(summary(apart + overlap + down)).answer[0]
    assert "rises with rank at 1 of 3 loads" in first and "falls at 1" in first and "leave 1 open" in first
    open_ = q01(summary(overlap)).answer
    assert "rises with rank at 0 of 1 loads" in open_[0] and "leave 1 open" in open_[0]
    assert not any(word in " ".join(open_[1:]) for word in ("rises", "falls", "diminishing", "accelerating"))


def test_q01_says_nothing_of_one_rank_alone():
    assert q01(summary([cell(4, 1000, 0.5, 0.1), cell(4, 2000, 0.4, 0.1)])).answer == ()


def test_q01_names_both_ends_with_their_intervals():
    said = q01(
        summary([cell(1, 1000, 0.7, 0.03), cell(4, 1000, 0.8, 0.03), cell(16, 1000, 0.95, 0.02)])
    ).answer
    assert said[1].startswith("At 1,000 tokens rank 1 gives 70.0 % [67.0, 73.0] and rank 16 95.0 % [93.0, 97.0]: +25.0 points [")  # fmt: skip


@pytest.mark.parametrize(
    ("means", "half", "said"),
    [
        ((0.5, 0.8, 0.82), 0.01, "(diminishing)"),
        ((0.5, 0.52, 0.82), 0.01, "(accelerating)"),
        ((0.5, 0.6, 0.65), 0.05, "(no clear difference between the two)"),
    ],
)
def test_q01_says_diminishing_only_where_the_halves_differ(means, half, said):
    cells = [cell(rank, 1000, mean, half) for rank, mean in zip((1, 4, 16), means, strict=True)]
    assert said in q01(summary(cells)).answer[1]


def test_q01_does_not_call_diminishing_what_one_uncertain_middle_may_explain():
    """The middle cell stands in both halves with opposite signs: its error counts twice, not once each."""
    cells = [cell(1, 1000, 0.70, 0.02), cell(4, 1000, 0.815, 0.05), cell(16, 1000, 0.84, 0.02)]
    assert "no clear difference between the two" in q01(summary(cells)).answer[1]


@pytest.mark.parametrize("ranks", [(1, 4, 16, 64), (1, 2, 64), (1, 32, 64), (1, 2, 4, 8, 16, 64)], ids=str)
def test_q01_does_not_call_a_steady_rise_diminishing_wherever_the_middle_lies(ranks):
    cells = [cell(rank, 1000, 0.3 + 0.05 * rank.bit_length(), 0.01) for rank in ranks]
    said = q01(summary(cells)).answer[1]
    assert "+5.0 points, beyond it +5.0 (no clear difference between the two)" in said


def test_q01_leaves_other_protocols_snapshots_and_missing_results_out():
    cells = [cell(1, 1000, 0.7, 0.03), cell(16, 1000, 0.95, 0.02), cell(64, 1000, float("nan"), 0.0)]
    more = [cell(64, 1000, 0.1, 0.01, snapshot=3), cell(64, 1000, 0.1, 0.01, budget="steps=9")]
    assert q01(summary(cells + more)).answer == q01(summary(cells[:2])).answer


# -- q02: is there a limit? --------------------------------------------------------------------------
def test_q02_says_grows_only_where_the_ends_are_apart():
    apart = q02(summary(limits=[limit(1, 400, 500, 600), limit(4, 900, 1000, 1100)])).answer
    assert "the limit grows with rank" in apart[1]
    overlap = q02(summary(limits=[limit(1, 400, 500, 1000), limit(4, 500, 1000, 1100)])).answer
    assert "does not clearly grow with rank" in overlap[1] and " grows" not in " ".join(overlap)
    touching = q02(summary(limits=[limit(1, 400, 500, 900), limit(4, 900, 1000, 1100)])).answer
    assert "does not clearly grow" in touching[1]
    dip = [limit(1, 400, 500, 600), limit(2, 300, 400, 450), limit(4, 900, 1000, 1100)]
    assert "does not clearly grow" in q02(summary(limits=dip)).answer[1], (
        "apart at the ends, not growing between"
    )


def test_q02_says_nothing_of_the_limit_of_a_censored_rank():
    limits = [limit(1, 400, 500, 600), limit(4, 900, 1000, None), limit(16, None, None, None), limit(64, None, None, None)]  # fmt: skip
    first, second, *_ = q02(summary(limits=limits)).answer
    assert "rank 1 500 tokens [400, 600]; rank 4 1,000 tokens [900, >= 4,000]" in first
    for rank in (16, 64):
        assert f"rank {rank} passes its largest load" in first and "so nothing is said of its limit" in first
    assert "16" not in second and "64" not in second
    alone = q02(summary(limits=[limit(16, None, None, None)])).answer
    assert (
        len(alone) == 1
        and "no rank reaches its limit" in alone[0]
        and "nothing is said of its limit" in alone[0]
    )


def test_q02_names_ranks_that_fail_at_the_smallest_load():
    below = limit(
        1, 0, None, 0, t_max_tokens=None, censored=False, high_censored=False, shown="below the grid"
    )
    (said,) = q02(summary(limits=[below, limit(4, 900, 1000, 1100)])).answer
    assert "rank 1 fails at its smallest load already" in said and "rank 4 1,000 tokens" in said


def test_q02_takes_the_middle_threshold_of_the_main_protocol():
    limits = [limit(1, 1, 100 * n, 900, threshold=t) for n, t in enumerate((0.9, 0.95, 1.0), start=1)]
    limits += [limit(1, 1, 777, 900, threshold=0.95, budget="steps=9")]
    said = " ".join(q02(summary(limits=limits)).answer)
    assert "at 95 % the limit is rank 1 200 tokens" in said and "777" not in said


def test_q02_counts_failing_cells_by_their_cause():
    causes = ["capacity", "budget", "capacity", None]
    failing = [{"source": "phonebook", "budget": MAIN, "cause": cause} for cause in causes]
    said = q02(summary(limits=[limit(1, 400, 500, 600)], failing=failing)).answer
    assert (
        "of 3 cells that fail 90 %, 2 stand at a plateau of the loss (capacity) and 1 still fell" in said[-1]
    )


def test_q02_reports_the_law_with_what_it_did_not_see():
    law = {
        "source": "phonebook", "budget": MAIN, "scale": 20.0, "a": 0.5, "b": 0.4, "c": 0.1, "r2": 0.99, "r2_held_out": -0.3,
        "fitted": 11, "held_out": 5,
    }  # fmt: skip
    said = q02(summary(limits=[limit(1, 400, 500, 600)], laws=[law])).answer[-1]
    assert "dL = 20 r^0.50 l^-0.40 +0.10" in said and "-0.30 of 5 it did not see" in said


def protocol(size: int, mean: float, half: float, budget: str, exposures: float) -> dict:
    return cell(
        4, size, mean, half, source="phonebook", metric="exact_match", budget=budget, exposures=exposures
    )


def test_q02_compares_protocols_by_their_intervals():
    cells = [
        protocol(500, 1.0, 0.02, MAIN, 20), protocol(500, 0.99, 0.02, "steps=40", 80), protocol(1000, 0.9, 0.03, MAIN, 20),
        protocol(4000, 0.9, 0.02, MAIN, 20), protocol(4000, 0.4, 0.05, "steps=40", 10),
    ]  # fmt: skip
    said = [s for s in q02(summary(cells, [limit(4, 1, 9, 10)])).answer if "constant exposures" in s]
    assert len(said) == 2, "at the smallest and the largest load that both protocols have"
    assert "500 tokens: constant exposures (20 per fact) hold neither clearly more nor less than fixed steps (80" in said[0]  # fmt: skip
    assert "4,000 tokens" in said[1] and "hold more than fixed steps (10 per fact): 90.0 %" in said[1]


# -- q03: is the highest rank the most efficient? ----------------------------------------------------
def test_q03_says_not_the_most_efficient_only_where_intervals_do_not_touch():
    (apart,) = q03(summary(limits=[limit(1, 450, 500, 550), limit(4, 900, 1000, 1100)])).answer
    assert "rank 4, is not the most efficient: rank 1 is" in apart and "clearly below it: rank 4" in apart
    (overlap,) = q03(summary(limits=[limit(1, 200, 500, 550), limit(4, 900, 1000, 1100)])).answer
    assert (
        "not the most efficient" not in overlap and "do not separate it from the highest, rank 4" in overlap
    )
    assert "none is clearly below it" in overlap
    (open_end,) = q03(summary(limits=[limit(1, 450, 500, 550), limit(4, 900, 1000, None)])).answer
    assert "not the most efficient" not in open_end, "the upper end of rank 4 is unknown"


def test_q03_says_the_highest_is_the_most_efficient_by_its_mean_where_it_is():
    (said,) = q03(summary(limits=[limit(1, 90, 100, 110), limit(4, 1900, 2000, 2100)])).answer
    assert "the highest of them, rank 4, is the most efficient by its mean; clearly below it: rank 1." in said
    assert "rank 1 1000; rank 4 5000" in said


def test_q03_leaves_censored_ranks_out_and_names_them():
    limits = [limit(1, 450, 500, 550), limit(4, 900, 1000, 1100), limit(16, None, None, None)]
    (said,) = q03(summary(limits=limits)).answer
    assert said.endswith("Left out: rank 16 (limit outside the grid).")
    assert "the highest of them, rank 4" in said and "rank 16 " not in said.split("Left out")[0]
    (one,) = q03(summary(limits=[limits[0], limits[2]])).answer
    assert (
        "efficiency cannot be compared" in one and "Left out: rank 16" in one and "most efficient" not in one
    )


def test_q03_has_a_sentence_per_threshold():
    limits = [limit(r, 1, 500, 900, threshold=t) for t in (0.9, 1.0) for r in (1, 4)]
    said = q03(summary(limits=limits)).answer
    assert [s.split(":")[0] for s in said] == ["phonebook at 90 %", "phonebook at 100 %"]


@given(
    st.lists(
        st.tuples(st.floats(10, 4000), st.floats(0.01, 0.9), st.floats(0.01, 0.9)), min_size=2, max_size=5
    )
)
def test_q03_never_ranks_what_overlaps(found):
    """Whatever the limits: `not the most efficient` means that the highest rank's interval ends below the best one's."""
    limits = [
        limit(2**place, at * (1 - down), at, at * (1 + up)) for place, (at, down, up) in enumerate(found)
    ]
    (said,) = q03(summary(limits=limits)).answer
    best = max(limits, key=lambda row: row["crossing_per_parameter"])
    apart = limits[-1]["crossing_high"] / limits[-1]["parameters"] < best["crossing_low"] / best["parameters"]
    assert ("is not the most efficient" in said) == (apart and best is not limits[-1])
