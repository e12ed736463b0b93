"""Finished runs: paired beside each other, exported as tables and figures, and used to plan how facts are held."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from loramem.core.errors import InputError
from loramem.studies.compare import compare_runs
from loramem.studies.results import ITEM_COLUMNS
from madeup import whole_study

A = {"1": (1, 1), "2": (1, 0), "3": (0, 0), "4": (1, 1)}
B = {"2": (1, 1), "3": (1, 0), "4": (1, 1), "5": (0, 0)}
"""Scores by fact and seed; facts 2, 3 and 4 are shared."""


def items_of(cell: str, scores: dict[str, tuple[float, ...]], metric: str = "exact_match") -> list[tuple]:
    return [
        (cell, seed, metric, "trained", case, "d", "", float(value))
        for case, values in scores.items()
        for seed, value in enumerate(values)
    ]


def run_folder(folder: Path, *rows: list[tuple], summary: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    frame = pd.DataFrame([row for part in rows for row in part], columns=list(ITEM_COLUMNS))
    frame.to_parquet(folder / "items.parquet", index=False)
    (folder / "summary.json").write_text(json.dumps(summary or {"cells": []}))
    return folder


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    a = run_folder(tmp_path / "a", items_of("m", A), items_of("m", A, "token_f1"), items_of("only-a", A))
    return a, run_folder(
        tmp_path / "b", items_of("m", B), items_of("m", B, "token_f1"), items_of("only-b", B)
    )


# -- compare -----------------------------------------------------------------------------------------
def test_differences_are_b_less_a_over_the_shared_facts(runs):
    found = compare_runs(*runs)
    row = next(test for test in found["tests"] if test["metric"] == "exact_match")
    assert (row["cell"], row["probe"], row["facts"]) == ("m", "trained", 3)
    assert row["mean_a"] == pytest.approx((0.5 + 0 + 1) / 3) and row["mean_b"] == pytest.approx(
        (1 + 0.5 + 1) / 3
    )
    assert row["difference"] == pytest.approx(1 / 3) == row["mean_b"] - row["mean_a"]
    assert row["ci_low"] <= row["difference"] <= row["ci_high"]
    back = compare_runs(*reversed(runs))["tests"][0]
    assert back["difference"] == -row["difference"] and back["p"] == row["p"]
    assert (found["only_a"], found["only_b"]) == (["only-a"], ["only-b"])


def test_p_values_are_adjusted_over_all_tests_made(runs):
    both, one = compare_runs(*runs), compare_runs(*runs, metrics=("exact_match",))
    assert (both["made"], one["made"]) == (2, 1) and both["adjustment"] == "Holm"
    assert [test["metric"] for test in one["tests"]] == ["exact_match"]
    assert one["tests"][0]["p_holm"] == one["tests"][0]["p"] > 0.05
    assert all(test["p_holm"] == min(1, 2 * test["p"]) for test in both["tests"])


def test_facts_of_one_document_are_no_more_than_it(tmp_path):
    """A difference that one of six documents makes: over their sixty facts it would be clear."""
    alike = {str(n): (0.0,) for n in range(60)}
    changed = {**alike, **{str(n): (1.0,) for n in range(10)}}
    rows = [
        [(*row[:5], f"d{int(row[4]) // 10}" if cut else "d", *row[6:]) for row in items_of("m", scores)]
        for cut in (True, False)
        for scores in (alike, changed)
    ]
    folders = [run_folder(tmp_path / str(n), own) for n, own in enumerate(rows)]
    cut, whole = (compare_runs(*pair)["tests"][0] for pair in (folders[:2], folders[2:]))
    assert cut["difference"] == whole["difference"] == pytest.approx(1 / 6)
    assert cut["ci_low"] == 0.0 < whole["ci_low"] and cut["p"] == 1.0 and whole["p"] < 0.01


def test_many_facts_of_a_clear_difference_are_significant_and_equal_runs_are_not(tmp_path):
    good, bad = ({str(n): (value,) for n in range(40)} for value in (1.0, 0.0))
    a, b = (run_folder(tmp_path / name, items_of("m", s)) for name, s in (("a", bad), ("b", good)))
    assert compare_runs(a, b)["tests"][0]["p_holm"] < 0.001
    (same,) = compare_runs(a, a)["tests"]
    assert (same["difference"], same["p"]) == (0.0, 1.0)


def test_what_failed_is_no_score(tmp_path):
    a = run_folder(tmp_path / "a", items_of("m", {"1": (1.0,), "2": (math.nan,)}))
    b = run_folder(tmp_path / "b", items_of("m", {"1": (0.0,), "2": (1.0,)}))
    (row,) = compare_runs(a, b)["tests"]
    assert (row["facts"], row["difference"]) == (1, -1.0)


def no_folder(a: Path, b: Path) -> None:
    (b / "items.parquet").unlink()
    (b / "summary.json").unlink()
    b.rmdir()


def other_columns(a: Path, b: Path) -> None:
    pd.DataFrame({"cell": ["m"]}).to_parquet(b / "items.parquet")


def other_facts(a: Path, b: Path) -> None:
    frame = pd.read_parquet(b / "items.parquet")
    frame.assign(case="other").to_parquet(b / "items.parquet", index=False)


BROKEN = {
    "no folder": (no_folder, "no such run folder"),
    "no items": (lambda a, b: (b / "items.parquet").unlink(), "no items.parquet there"),
    "no summary": (lambda a, b: (b / "summary.json").unlink(), "no summary.json there"),
    "torn items": (lambda a, b: (b / "items.parquet").write_bytes(b"PAR1torn"), "items.parquet: not readable"),
    "other columns": (other_columns, "has columns cell, expected cell, seed"),
    "nothing in common": (other_facts, "no cell, metric and fact in common"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_pair_of_runs_is_said(case, runs, loramem):
    breaks, pattern = BROKEN[case]
    breaks(*runs)
    with pytest.raises(InputError, match=pattern) as caught:
        compare_runs(*runs)
    assert str(runs[1]) in str(caught.value)
    code, said, error = loramem("study", "compare", *runs)
    assert code == 2 and error.startswith("error: ") and "Traceback" not in said + error


def test_the_command_prints_and_writes_the_tests(runs, loramem, tmp_path):
    code, said, error = loramem(
        "study", "compare", *runs, "--metric", "exact_match", "--out", tmp_path / "t.csv"
    )
    assert code == 0, error
    assert "1 paired tests" in said.replace("\n", " ") and "only in a: 1 cells, e.g. only-a" in said
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["difference"].tolist() == pytest.approx([1 / 3]) and set(table["metric"]) == {"exact_match"}


# -- report and plan-capacity ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a made-up capacity study, figures included."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    summary, _ = whole_study()
    run_folder(folder, summary=summary)
    (folder / "figures").mkdir()
    for name in ("x.svg", "x.png", "notes.txt"):
        (folder / "figures" / name).write_text(name)
    return folder


def test_a_report_is_exported_into_a_new_folder_only(finished, loramem, tmp_path):
    code, said, error = loramem("study", "report", finished, "--to", tmp_path / "paper")
    assert code == 0, error
    names = {path.name for path in (tmp_path / "paper" / "tables").iterdir()}
    assert {"cells.csv", "limits.csv", "limits.tex", "scores.tex", "laws.csv"} <= names
    assert {path.name for path in (tmp_path / "paper" / "figures").iterdir()} == {"x.svg", "x.png"}
    assert f"{len(names) + 2} files in" in said
    code, _, error = loramem("study", "report", finished, "--to", tmp_path / "paper")
    assert code == 2 and "not an empty folder" in error


def test_a_report_without_a_folder_is_told_in_the_terminal(finished, loramem):
    code, said, error = loramem("study", "report", finished)
    assert code == 0, error
    assert "report.html" in said and "phonebook, exact match: rank 1 gives 100.0 [" in said


def planned(said: str) -> list[list[int]]:
    """The numbers of each line of the table: modules, rank, facts each, most one holds, parameters."""
    lines = [re.findall(r"(?:>= )?([\d,]+)", line) for line in said.splitlines() if line.startswith("│")]
    return [[int(number.replace(",", "")) for number in numbers] for numbers in lines]


def test_facts_are_held_by_as_many_modules_as_were_measured_to_hold_them(finished, loramem):
    code, said, error = loramem("study", "plan-capacity", finished, "--facts", 130, "--threshold", 0.9)
    assert code == 0, error
    assert planned(said) == [
        [3, 1, 44, 60, 300],
        [3, 2, 44, 60, 600],
        [3, 4, 44, 60, 1200],
        [3, 8, 44, 60, 2400],
    ]
    assert said.count(">= 60") == 1, "rank 8 may hold more"
    assert "90 %" in said and "router" in said


PLANS = {
    "no facts": (["--facts", "0"], "--facts 0: give at least 1"),
    "no number": (["--facts", "many"], "Invalid value for '--facts'"),
    "nothing": ([], "Missing option '--facts'"),
    "threshold not measured": (["--facts", "9", "--threshold", "0.95"], "--threshold 0.95: not measured"),
    "near threshold": (["--facts", "9", "--threshold", "0.91"], "Did you mean '0.9'"),
    "source not measured": (["--facts", "9", "--threshold", "0.9", "--source", "phonbook"], "Did you mean 'phonebook'"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANS)
def test_bad_plans_exit_2_with_one_message(case, finished, loramem):
    arguments, pattern = PLANS[case]
    code, said, error = loramem("study", "plan-capacity", finished, *arguments)
    assert code == 2 and said == "" and pattern in " ".join(error.split()) and "Traceback" not in error
    assert error.count("error: ") <= 1


def test_a_study_without_limits_or_with_none_reached_plans_nothing(loramem, tmp_path):
    summary, _ = whole_study()
    nowhere = dict(t_max_tokens=None, facts=0, censored=False)
    limits = [{**row, **nowhere} for row in summary["capacity"]["limits"]]
    summary["capacity"] = {**summary["capacity"], "limits": limits}
    run = run_folder(tmp_path / "low", summary=summary)
    code, _, error = loramem("study", "plan-capacity", run, "--facts", 9, "--threshold", 0.9)
    assert code == 2 and "no rank holds even the smallest load of phonebook at 90 %" in error
    summary["capacity"] = {"cells": [], "limits": [], "laws": []}
    run = run_folder(tmp_path / "none", summary=summary)
    code, _, error = loramem("study", "plan-capacity", run, "--facts", 9)
    assert code == 2 and "measured no limits" in error and error.count("error: ") == 1


@pytest.mark.parametrize("content", [None, "{}", "[]", "[1", '{"cells": [], "run": {}}'])
@pytest.mark.parametrize("command", [("report",), ("plan-capacity", "--facts", "5")], ids=lambda c: c[0])
def test_a_folder_without_a_summary_is_no_run(content, command, loramem, tmp_path):
    name, *options = command
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    code, said, error = loramem("study", name, tmp_path, *options)
    assert code == 2 and "summary.json" in error and "Traceback" not in said + error
    assert error.count("error: ") == 1
    assert loramem("study", name, tmp_path / "nowhere", *options)[0] == 2


def test_the_unknown_metric_of_a_comparison_is_told_the_nearest(runs, loramem):
    code, _, error = loramem("study", "compare", *runs, "--metric", "exact")
    assert code == 2 and "Did you mean 'exact_match'" in error
