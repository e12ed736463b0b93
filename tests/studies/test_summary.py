"""Verdicts come from intervals; failed items widen bounds; missing cells are undecided, never dropped."""

from __future__ import annotations

import pandas as pd
import pytest

from loramem.core.errors import Faults
from loramem.studies.expectations import judge
from loramem.studies.summary import summarise
from madeup import BITS, GRID, expectation, results


def verdict(**settings) -> str:
    rows, items = results(GRID)
    return summarise(rows, items, [expectation(**settings)], metrics=["exact_match"])["verdicts"][0][
        "verdict"
    ]


def test_verdicts_follow_the_intervals():
    assert verdict(compare=["largest", "smallest"], margin=0.1) == "agrees"
    assert verdict(compare=["smallest", "largest"], margin=0.1) == "disagrees"
    assert verdict(compare=["largest", "smallest"], margin=0.88) == "undecided"
    assert verdict(at={"reading": "closed", "size_tokens": "largest"}, at_most=0.1) == "agrees"
    assert verdict(at={"reading": "closed", "size_tokens": "largest"}, at_most=0.01) == "undecided"
    assert verdict(at={"reading": "module", "rank": 4, "size_tokens": 1000}, at_least=0.9) == "disagrees"


def test_a_missing_cell_is_undecided_with_its_reason():
    rows, items = results(GRID)
    found = summarise(
        rows, items, [expectation(at={"reading": "icl"}, at_least=0.5)], metrics=["exact_match"]
    )["verdicts"]
    assert found[0]["verdict"] == "undecided" and "no such cell" in found[0]["reason"]
    empty = summarise(
        rows.iloc[:0],
        items.iloc[:0],
        [expectation(at={"reading": "icl"}, at_least=0.5)],
        metrics=["exact_match"],
    )
    assert empty["verdicts"][0]["verdict"] == "undecided" and empty["cells"] == []


def test_an_ambiguous_selector_is_undecided():
    assert "name more of" in judge(expectation(at={"reading": "module"}, at_least=0.5), table())["reason"]


def table() -> pd.DataFrame:
    rows, items = results(GRID)
    return pd.DataFrame(summarise(rows, items, [], metrics=["exact_match"])["cells"])


def test_failed_items_are_counted_and_bounded():
    rows, items = results(GRID, failed=6)
    cell = next(
        c
        for c in summarise(rows, items, [], metrics=["exact_match"])["cells"]
        if c["cell"] == "phonebook-1000-r4-module"
    )
    assert cell["n_failed"] == 12 and cell["n"] == 108
    assert cell["bound_low"] < cell["mean"] < cell["bound_high"]
    assert cell["bound_high"] - cell["bound_low"] == pytest.approx(12 / 120)


def test_every_module_cell_is_compared_with_the_base_and_p_values_are_adjusted():
    rows, items = results(GRID)
    compared = summarise(rows, items, [], metrics=["exact_match"])["comparisons"]
    assert compared["made"] == len(compared["tests"]) == 4
    assert all(
        test["p_holm"] >= test["p"] and test["ci_low"] <= test["difference"] <= test["ci_high"]
        for test in compared["tests"]
    )
    assert all(test["p_holm"] < 0.05 for test in compared["tests"] if test["difference"] > 0.4)


def test_a_summary_drawn_again_says_the_same():
    rows, items = results(GRID)
    assert summarise(rows, items, [], metrics=["exact_match"]) == summarise(
        rows, items, [], metrics=["exact_match"]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"at": {"rank": 1}},
        {"at": {"rank": 1}, "at_least": 1, "at_most": 1},
        {"compare": [{"rnk": 1}, {"rank": 2}]},
        {"compare": ["largest"]},
    ],
)
def test_unfit_expectations_are_refused(settings):
    with pytest.raises(Faults):
        expectation(**settings)


def test_a_difference_of_sums_is_in_the_unit_of_the_sums():
    shares = {("module", 1, 500): 0.5, ("module", 4, 500): 1.0}
    rows, items = results(shares, nll=dict.fromkeys(shares, 0.1))
    claim = expectation(
        metric="bits_stored", compare=[{"reading": "module", "rank": 1}, {"reading": "module", "rank": 4}], margin=200.0
    )  # fmt: skip
    (found,) = summarise(rows, items, [claim], metrics=["bits_stored"])["verdicts"]
    assert found["verdict"] == "agrees" and f"difference +{30 * BITS:.3f}" in found["reason"], found
