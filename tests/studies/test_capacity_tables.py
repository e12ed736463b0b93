"""Capacity tables of made-up studies: limits with intervals, why cells fail, bits per parameter, rows for results.parquet."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from loramem.metrics.capacity import plan_holding
from loramem.studies.capacity import capacity, derived_rows, measured
from loramem.studies.results import as_frame
from loramem.studies.summary import summarise
from madeup import (
    BITS,
    LIMITS,
    LOADS,
    NLL,
    RANKS,
    STUDY,
    capacity_choice,
    modules,
    results,
    whole_study,
)


def tables(*parts, choices=None, made=None) -> dict:
    """`capacity` of the given (rows, items) and module facts."""
    rows = pd.concat([rows for rows, _ in parts], ignore_index=True)
    items = pd.concat([items for _, items in parts], ignore_index=True)
    cells = pd.DataFrame(summarise(rows, items, [], metrics=list(set(rows["metric"])))["cells"])
    return capacity(capacity_choice() if choices is None else choices, cells, items, made)


@pytest.fixture(scope="module")
def whole() -> dict:
    return whole_study()[0]["capacity"]


def by(rows: list[dict], **wanted) -> list[dict]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_every_rank_and_threshold_has_its_limit(whole):
    assert len(whole["limits"]) == 2 * len(RANKS)
    for row in whole["limits"]:
        assert row["t_max_tokens"] == LIMITS[row["rank"]] and row["facts"] == 60
        assert row["ci_low"] <= row["t_max_tokens"] <= row["ci_high"]
        if row["rank"] != 8:
            assert 0.999 <= row["crossing_tokens"] / row["t_max_tokens"] <= 2
            assert row["crossing_low"] <= row["crossing_tokens"] <= row["crossing_high"]
            assert row["tokens_per_parameter"] == LIMITS[row["rank"]] / (100 * row["rank"])


def test_a_rank_that_reaches_no_limit_has_no_efficiency(whole):
    for row in by(whole["limits"], rank=8):
        assert row["censored"] and row["high_censored"] and row["shown"] == ">= 4,000"
        efficiency = (
            "tokens_per_parameter",
            "per_parameter_low",
            "per_parameter_high",
            "crossing_per_parameter",
        )
        assert [row[key] for key in efficiency] == [None] * 4 and row["crossing_tokens"] is None
    assert not any(row["censored"] for row in whole["limits"] if row["rank"] != 8)


def test_a_rank_that_fails_at_the_smallest_load_is_below_the_grid():
    share = {("module", 1, 500): 0.5, ("module", 1, 1000): 1.0}
    (row,) = tables(results(share), made=modules(share))["limits"]
    assert row["t_max_tokens"] is None and row["facts"] == 0 and row["shown"] == "below the grid"
    assert (
        row["tokens_per_parameter"] is None and not row["censored"] and row["ci_low"] == row["ci_high"] == 0
    )


def test_the_interval_of_a_limit_holds_what_resampled_facts_allow():
    """55 of 60 facts at 1,000 tokens: by chance above 90 %, so the interval reaches down to 500."""
    share = {("module", 1, 500): 1.0, ("module", 1, 1000): 55 / 60, ("module", 1, 2000): 0.2}
    (row,) = tables(results(share), made=modules(share))["limits"]
    assert (row["ci_low"], row["t_max_tokens"], row["ci_high"]) == (500, 1000, 1000)
    clear = {**share, ("module", 1, 1000): 1.0}
    (row,) = tables(results(clear), made=modules(clear))["limits"]
    assert (row["ci_low"], row["ci_high"]) == (1000, 1000)


def test_a_load_that_may_pass_censors_the_upper_end():
    share = {("module", 1, 500): 1.0, ("module", 1, 1000): 53 / 60}
    (row,) = tables(results(share), made=modules(share))["limits"]
    assert not row["censored"] and row["high_censored"] and row["ci_high"] == 1000
    assert row["crossing_high"] is None and row["per_parameter_high"] is None
    assert row["per_parameter_low"] == 5.0, "the lower end is known"


def test_a_load_without_any_score_fails_and_the_others_stand():
    """All items of one load failed: no crossing beyond it, and no crash."""
    share = {("module", 1, 500): 1.0, ("module", 1, 1000): 1.0, ("module", 1, 2000): 1.0}
    rows, items = results(share)
    gone = items["cell"] == "phonebook-1000-r1-module"
    items.loc[gone, "value"] = math.nan
    rows.loc[rows["cell"] == "phonebook-1000-r1-module", ["value", "n_scored", "n_failed"]] = [None, 0, 60]
    (row,) = tables((rows, items), made=modules(share))["limits"]
    assert row["t_max_tokens"] == 500 and row["crossing_tokens"] is None and row["ci_high"] == 500


def test_failing_cells_are_called_by_their_own_training():
    for cause in ("capacity", "budget"):
        found = tables(results(STUDY), made=modules(STUDY, cause=cause))["cells"]
        for cell in found:
            fails = cell["size_tokens"] > LIMITS[cell["rank"]]
            assert cell["passes"] == {"0.9": not fails}
            assert (cell["cause"], cell["cause_from"]) == (
                (cause, "its own loss curve") if fails else (None, None)
            )


def test_one_seed_that_still_learnt_makes_it_the_budget():
    share = {("module", 1, 500): 0.2}
    made = modules(share)
    made.loc[made["seed"] == 1, "cause"] = "budget"
    (cell,) = tables(results(share), made=made)["cells"]
    assert cell["cause"] == "budget" and cell["causes"] == {"capacity": 1, "budget": 1}


@pytest.mark.parametrize(
    ("longer", "stood", "called"), [(0.2, "capacity", "capacity"), (1.0, "capacity", "budget"), (0.2, "budget", "budget")]
)  # fmt: skip
def test_the_same_cell_trained_to_a_plateau_decides(longer, stood, called):
    """It fails though its loss stood still: the rank holds no more. It passes, or still learnt: the budget was short."""
    share = {("module", 1, 500): 1.0, ("module", 1, 1000): 0.3}
    twin = {("module", 1, 1000): longer}
    made = pd.concat([
        modules(share, cause="capacity" if called == "budget" else "budget"),
        modules(twin, budget="plateau<=60", ended="plateau", cause=stood),
    ])  # fmt: skip
    found = tables(results(share), results(twin, budget="plateau<=60"), made=made)
    short = by(found["cells"], budget="exposures=20", size_tokens=1000)[0]
    decided_by = "better under plateau<=60" if longer == 1.0 else "the same cell trained to a plateau"
    assert (short["cause"], short["cause_from"]) == (called, decided_by)
    own = by(found["cells"], budget="plateau<=60")[0]
    expected = (None, None) if longer == 1.0 else (stood, "plateau search")
    assert (own["cause"], own["cause_from"]) == expected
    assert by(found["cells"], size_tokens=500)[0]["cause"] is None
    assert {row["budget"] for row in found["limits"]} == {"exposures=20", "plateau<=60"}, "series apart"


def test_a_plateau_of_another_rank_or_load_decides_nothing():
    share = {("module", 1, 1000): 0.3}
    others = {("module", 2, 1000): 1.0, ("module", 1, 500): 1.0}
    made = pd.concat([modules(share), modules(others, budget="plateau<=60", ended="plateau")])
    found = tables(results(share), results(others, budget="plateau<=60"), made=made)["cells"]
    assert by(found, budget="exposures=20")[0]["cause_from"] == "its own loss curve"


def test_bits_are_per_parameter_and_per_byte(whole):
    for cell in whole["cells"]:
        right = round(60 * STUDY["module", cell["rank"], cell["size_tokens"]])
        assert cell["bits_stored"] == pytest.approx(BITS * right) and cell["bits_written"] == 60 * BITS
        assert cell["bits_per_parameter"] == pytest.approx(BITS * right / (100 * cell["rank"]))
        assert cell["bits_per_byte"] == pytest.approx(BITS * right / (400 * cell["rank"] + 50))
        assert cell["bits_low"] <= cell["bits_stored"] <= cell["bits_high"]
        assert cell["tokens_per_parameter"] == cell["size_tokens"] / (100 * cell["rank"])


def test_without_a_score_of_bits_there_are_none():
    (cell,) = tables(results({("module", 1, 500): 1.0}), made=modules({("module", 1, 500): 1.0}))["cells"]
    assert cell["bits_stored"] is None is cell["bits_per_parameter"] is cell["bits_per_byte"]


def test_the_memory_law_is_fitted_to_the_fall_of_the_loss(whole):
    (law,) = whole["laws"]
    assert (law["scale"], law["a"], law["b"], law["c"]) == pytest.approx(
        (20, 0.5, 0.4, 0), rel=0.02, abs=0.02
    )
    assert law["r2_held_out"] > 0.999 and (law["fitted"], law["held_out"]) == (11, 5)
    assert len(law["points"]) == 16 and sum(point["held_out"] for point in law["points"]) == 5
    for point in law["points"]:
        assert point["gain"] == pytest.approx(6 - NLL["module", point["rank"], point["size_tokens"]])
        assert point["predicted"] == pytest.approx(point["gain"], rel=1e-2)
    held = [(point["rank"], point["size_tokens"]) for point in law["points"] if point["held_out"]]
    assert {rank for rank, _ in held} == set(RANKS) and {load for _, load in held} == set(LOADS)


def test_no_law_without_the_base_alone_and_no_capacity_without_a_choice():
    alone = {key: value for key, value in STUDY.items() if key[0] == "module"}
    assert tables(results(alone, nll=NLL), made=modules(alone))["laws"] == []
    nothing = {"cells": [], "limits": [], "laws": []}
    assert tables(results(STUDY), choices={}, made=modules(STUDY)) == nothing
    other = capacity_choice(metric="efficacy")
    assert tables(results(STUDY), choices=other, made=modules(STUDY)) == nothing


def test_rows_for_results_leave_what_was_solved_for_null(whole):
    frame = as_frame(list(derived_rows("made-up", whole)))
    limits = frame[frame["metric"].str.startswith("t_max")]
    assert set(limits["metric"]) == {
        f"t_max{what}@{t}" for what in ("", "_per_parameter") for t in ("0.9", "1")
    }
    assert limits["size_tokens"].isna().all() and limits["rank"].notna().all()
    laws = frame[frame["metric"].str.startswith("memory_law_")]
    assert len(laws) == 7 and laws["size_tokens"].isna().all() and laws["rank"].isna().all()
    for metric, values in (("t_max@0.9", LIMITS), ("t_max_per_parameter@0.9", {1: 5, 2: 5, 4: 5, 8: None})):
        own = limits[limits["metric"] == metric].set_index("rank")["value"]
        assert {rank: None if pd.isna(value) else value for rank, value in own.items()} == values
    assert (frame["study"] == "made-up").all() and (frame["budget"] == "exposures=20").all()
    assert not frame.duplicated(["cell", "metric"]).any()


def test_a_plan_of_holding_stands_on_the_limits_of_one_protocol(whole):
    summary = {"capacity": whole}
    known = measured(summary, "phonebook", 0.9, "exposures=20")
    assert known == [(1, 100, 60, False), (2, 200, 60, False), (4, 400, 60, False), (8, 800, 60, True)]
    assert measured(summary, "phonebook", 0.8) == [] == measured(summary, "book", 0.9)
    assert measured(summary, "phonebook", 0.9, "steps=9") == []
    best = plan_holding(130, known)[0]
    assert (best.rank, best.modules, best.parameters) == (1, 3, 300)
