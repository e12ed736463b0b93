"""What q08 to q11 say of made-up summaries: never more than the tested intervals allow, and nothing of what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from loramem.studies.findings import Beside
from loramem.studies.q08.analysis import analyse as q08
from loramem.studies.q09.analysis import analyse as q09
from loramem.studies.q10.analysis import analyse as q10
from loramem.studies.q11.analysis import analyse as q11
from routed_summary import PAPERS, cell, gap, merged, numbered, q09_cells, rule_rows, sectors, summary

# -- q08 -----------------------------------------------------------------------------------------------


def book(equal: float, exposures: float, *tests: dict) -> dict:
    return summary(sectors(equal, exposures), tests)


def large(steps: int, mean: float, low: float, high: float) -> dict:
    return gap(f"large-{steps}", "sectors", mean, low, high, probe="trained")


def test_sectors_against_one_module_at_equal_steps_and_at_equal_exposures():
    said = q08(book(0.1, 0.9, large(240, -0.8, -0.9, -0.7), large(960, 0.0, -0.1, 0.1))).answer
    assert said[0] == (
        "At 4,000 tokens, with the right sector given, 4 modules of rank 4 hold more than one module of rank 16 trained for as many steps and "
        "are not told apart from one module of rank 16 trained for as many exposures."
    )
    assert (
        "each entry seen 24.0 times" in said[1]
        and "each entry seen 6.0 times" in said[1]
        and ": more (+80.0" in said[1]
    )
    assert "no clear difference" in said[2] and "ceiling" not in said[2]


@pytest.mark.parametrize(("low", "high", "word"), [(-0.9, -0.7, "hold more than"), (0.1, 0.2, "hold less than"), (-0.1, 0.1, "are not told apart from")])  # fmt: skip
def test_the_first_sentence_goes_with_the_interval(low, high, word):
    assert word in q08(book(0.1, 0.9, large(240, (low + high) / 2, low, high))).answer[0]


def test_two_that_are_both_full_are_said_to_be_at_the_ceiling():
    assert "ceiling" in " ".join(q08(book(0.1, 1.0, large(960, 0.0, 0.0, 0.0))).answer)


def test_without_a_test_of_the_pair_nothing_is_said_of_it():
    assert not any("large" in text or "one module" in text for text in q08(book(0.1, 0.9)).answer)


def test_routers_are_named_with_the_pool_and_with_what_they_find():
    tests = [
        gap("bm25", "sectors", 0.0, -0.1, 0.1, probe="trained"),
        gap("embedding", "sectors", -0.5, -0.6, -0.4, probe="trained"),
    ]
    text = " ".join(q08(book(0.1, 0.9, *tests)).answer)
    assert "all 4 sectors" in text and "25.0 % of the questions" in text
    assert "costs nothing that is told apart with bm25" in text and "costs answers with embedding" in text
    assert "embedding finds the sector for 40.0 %" in text


def test_the_papers_figures_stand_beside_ours_where_there_are_ours():
    rows = q08(book(0.1, 0.9)).beside
    assert [row.published for row in rows] == ["99.8 %", "6.2 %"]
    assert rows[1].ours.startswith("10.0 %")


# -- q09 -----------------------------------------------------------------------------------------------
def test_routers_are_counted_by_what_their_intervals_allow():
    tests = [gap("r-bm25", "right", 0.0, -0.05, 0.05), gap("r-embedding", "right", -0.1, -0.2, -0.01), gap("r-random", "right", -0.3, -0.4, -0.2)]  # fmt: skip
    said = q09(summary(q09_cells(), tests)).answer
    assert said[0] == (
        "Against the right module (60.0 % [55.0, 65.0]), of 3 routers none clearly above, 2 clearly below (embedding and random), 1 not told "
        "apart (bm25)."
    )
    assert said[1].startswith("routed by embedding 40.0 %") and ": less (-10.0 points" in said[1]


def test_a_pair_that_was_not_tested_is_compared_by_intervals_and_says_so():
    said = q09(summary(q09_cells(), [])).answer
    own = [
        text for text in said if "one module for all" in text and "not paired" in text and "nats" not in text
    ]
    assert len(own) == 2 and all("by their intervals, not paired" in text for text in own)


def test_a_tested_pair_of_router_and_one_module_for_all_is_used_for_every_router():
    said = " ".join(q09(summary(q09_cells(), [gap("r-bm25", "all", 0.2, 0.1, 0.3)])).answer)
    assert (
        "routed by bm25 60.0 % [55.0, 65.0] against one module for all 45.0 % [40.0, 50.0]: more (+20.0"
        in said
    )


def test_routes_and_strangers_are_scored_beside_the_answers():
    said = " ".join(q09(summary(q09_cells(), [])).answer)
    assert "pool of all 4 modules (chance 25.0 % for the first, 75.0 % for three)" in said
    assert "first choice right 80.0 %" in said and "MRR 0.90 [0.85, 0.95]" in said
    assert "AUROC of own questions against strangers' 0.75 [0.70, 0.80]" in said
    assert "65.0 % [60.0, 70.0] kept and 85.0 % [80.0, 90.0] refused" in said


def test_lag_over_a_pool_within_its_list_is_said_to_be_spectr():
    two = [
        cell("r-lag", 0.5, reading="routed", router="lag"),
        cell("r-spectr", 0.5, reading="routed", router="spectr"),
    ]
    assert any("the two are one" in text for text in q09(summary([*q09_cells(), *two], [])).answer)
    wide = [{**row, "pool_size": 40} for row in two]
    assert not any("the two are one" in text for text in q09(summary(wide, [])).answer)


def test_keys_are_held_against_the_whole_text_of_the_same_embedder():
    key = cell("r-key", 0.3, reading="routed", router="embedding-summary")
    said = q09(summary([*q09_cells(), key], [gap("r-key", "r-embedding", -0.1, -0.2, -0.05)])).answer
    assert any(text.startswith("the document's summary as key 30.0 %") and ": less" in text for text in said)


def test_harm_is_named_for_the_module_and_for_one_for_all_and_not_for_the_base():
    [text] = [
        text for text in q09(summary(q09_cells(), [])).answer if text.startswith("Beside what was written")
    ]
    assert "the base answers 90.0 %" in text and "the right module is 2.00 nats a token" in text
    assert "the base is" not in text


# -- q10 -----------------------------------------------------------------------------------------------
def test_rules_are_counted_against_the_first_choice_and_against_the_right_module():
    cells = merged({"cat": 0.1, "ties-delta": 0.5, "ties-factors": 0.3})
    tests = [
        gap("m-cat", "first", -0.3, -0.4, -0.2), gap("m-ties-delta", "first", 0.1, 0.02, 0.2), gap("m-ties-factors", "first", -0.1, -0.2, 0.1),
        gap("m-cat", "right", -0.5, -0.6, -0.4), gap("m-ties-delta", "right", -0.1, -0.2, -0.05), gap("m-ties-factors", "right", -0.3, -0.4, -0.2),
        gap("m-ties-delta", "m-ties-factors", 0.2, 0.1, 0.3),
    ]  # fmt: skip
    said = q10(summary(cells, tests)).answer
    assert said[0] == (
        "Against the first choice alone (40.0 % [35.0, 45.0]), of 3 rules 1 clearly above (ties-delta), 1 clearly below (cat), 1 not told apart "
        "(ties-factors)."
    )
    assert "the best rule, ties-delta," in said[1] and "more (+10.0" in said[1] and "flattered" in said[1]
    assert said[2].startswith("Against the right module (60.0 %") and "3 clearly below" in said[2]
    text = " ".join(said)
    assert "cat 10.0 % [5.0, 15.0]: -30.0 points [-40.0, -20.0] to the first choice, -50.0 points" in text
    assert (
        "On the update in place of the factors, 1 of 1 rules give clearly more, 0 clearly less; 0 are not told apart"
        in text
    )
    assert "ties-delta 50.0 % [45.0, 55.0] against ties-factors 30.0 % [25.0, 35.0]: more (+20.0" in text


def test_how_often_the_three_hold_the_right_one_bounds_what_can_be_repaired():
    rows = [*merged({"cat": 0.1}), *rule_rows("m-cat", route_at_1=0.7, route_at_3=0.95)]
    [text] = [text for text in q10(summary(rows, [])).answer if text.startswith("The first choice is right")]
    assert "70.0 %" in text and "95.0 %" in text and "all 4 modules" in text and "75 %" in text


def measures(cell: str, rule: str, away: float) -> dict:
    return {
        "cell": cell,
        "rule": rule,
        "measures": {"distance_to_mean": {"mean": away, "min": away, "max": away}},
    }


@pytest.mark.parametrize(("aways", "expected"), [((0.0, 1.0, 2.0), "-1.00"), ((2.0, 1.0, 0.0), "+1.00")])
def test_the_measures_are_described_and_not_tested(aways, expected):
    cells = merged({"linear-delta": 0.5, "ties-delta": 0.3, "cat": 0.1})
    found = summary(cells, [])
    found["merges"] = [
        measures(f"m-{rule}", rule, away)
        for rule, away in zip(("linear-delta", "ties-delta", "cat"), aways, strict=True)
    ]
    [text] = [text for text in q10(found).answer if "distance to the mean" in text]
    assert expected in text and text.endswith("(described, not tested).")


# -- q11 -----------------------------------------------------------------------------------------------
def falling(*gaps: tuple[float, float, float]) -> tuple[str, ...]:
    tests = [gap(f"linear-delta-{n + 2}", f"linear-delta-{n + 1}", *found) for n, found in enumerate(gaps)]
    tests.append(gap("linear-delta-3", "linear-delta-1", *[sum(part) for part in zip(*gaps, strict=True)]))
    return q11(summary(numbered("linear-delta", (0.6, 0.4, 0.1)), tests)).answer


def test_a_fall_at_every_step_is_said_where_every_step_was_clear():
    said = falling((-0.2, -0.3, -0.1), (-0.3, -0.4, -0.2))
    assert said[0] == "The right module among 3 merged gives clearly less than alone with linear-delta."
    assert any("it falls clearly at every step" in text for text in said)


def test_an_open_step_is_no_monotone_fall():
    [text] = [
        text
        for text in falling((-0.2, -0.3, 0.1), (-0.3, -0.4, -0.2))
        if text.startswith("linear-delta: N = 1")
    ]
    assert (
        "falls clearly at 1 of 2 steps, and the means fall or stay at each" in text
        and "every step" not in text
    )


def test_a_rise_is_named():
    [text] = [
        text
        for text in falling((0.2, 0.1, 0.3), (-0.3, -0.4, -0.2))
        if text.startswith("linear-delta: N = 1")
    ]
    assert "rises clearly at 1 to 2" in text and "means fall" not in text


def test_steps_that_were_not_tested_are_only_described():
    said = q11(summary(numbered("cat", (0.6, 0.4)), [])).answer
    assert said == ("cat: N = 1: 60.0 % [55.0, 65.0], N = 2: 40.0 % [35.0, 45.0] (no step was tested).",)


@pytest.mark.parametrize(("rule", "found", "expected"), [
    ("linear-delta", (0.0, 0.0, 0.0), "answers as the module itself does, by construction"),
    ("cat", (0.0, 0.0, 0.0), "answers as the module itself does."),
    ("ties-factors", (-0.02, -0.04, 0.0), "-2.0 points [-4.0, +0.0] to the module itself"),
])  # fmt: skip
def test_one_module_merged_beside_the_module_itself(rule, found, expected):
    said = " ".join(q11(summary(numbered(rule, (0.6, 0.4)), [gap(f"{rule}-1", "right", *found)])).answer)
    assert f"One module merged by {rule}: {expected}" in said


# -- missing -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("analyse", [q08, q09, q10, q11])
@pytest.mark.parametrize("cells", [
    [], [cell("right", 0.6)], [cell("first", 0.4, reading="routed", router="embedding")], [cell("closed", 0.0, reading="closed", partition=None)],
])  # fmt: skip
def test_what_is_missing_gives_no_sentence_and_no_exception(analyse, cells: list[dict[str, Any]]):
    found = analyse(summary(cells, []))
    assert not any("against" in text or "%: " in text for text in found.answer)
    assert all(isinstance(row, Beside) for row in found.beside)


@pytest.mark.parametrize(("analyse", "cells"), [
    (q08, sectors(0.1, 0.9)), (q09, q09_cells()), (q10, merged({"cat": 0.1, "ties-delta": 0.2})), (q11, numbered("cat", (0.5, 0.3))),
])  # fmt: skip
def test_cells_without_a_result_are_passed_over_one_after_the_other(analyse, cells):
    for missing in range(len(cells)):
        rows = [{**row, "mean": None} if number == missing else row for number, row in enumerate(cells)]
        found = analyse(summary(rows, []))
        assert all(text.endswith(".") and "nan" not in text for text in found.answer)


def test_the_source_is_that_of_the_figures():
    assert all(
        source == PAPERS
        for analyse in (q09, q10, q11)
        for _, source in analyse(summary(q09_cells(), [])).figures
    )
