"""Published numbers beside ours in questions 1 to 7: ours are the summary's, with their intervals; what was not measured has no line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from loramem.core.files import read_json
from loramem.studies.findings import analysis_of, main_budget, share
from loramem.studies.supervised import beside, shown

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "wide"


def of(question: str) -> tuple[dict, dict[str, tuple[str, str]]]:
    """The committed summary of a question, and its lines by label."""
    summary = read_json(RESULTS / question / "summary.json")
    rows = analysis_of(question)(summary).beside
    assert len({row.label for row in rows}) == len(rows) > 0
    return summary, {row.label: (row.published, row.ours) for row in rows}


def cell(summary: dict, **wanted) -> dict:
    """The one module cell of the main grid, held-out wording, that matches."""
    wanted = {"source": "papers", "metric": "exact_match", "probe": "heldout", "reading": "module", **wanted}
    [found] = [one for one in summary["cells"] if all(one[key] == value for key, value in wanted.items())]
    return found


@pytest.mark.parametrize("question, published", [("q04", "5.893 / 5.409"), ("q05", "5.893 / 5.409 of 10")])
def test_formats_stand_beside_the_same_formats(question, published):
    summary, rows = of(question)
    ours = cell(summary, supervision="qa:40", budget=main_budget(summary, "papers"))
    assert rows["qa:40"][0].startswith(published) and rows["qa:40"][1] == f"{share(ours)} exact match"
    measured = {one["supervision"] for one in summary["cells"] if one["reading"] == "module"}
    assert set(rows) <= measured, "a format that was not trained has no line"


def test_bases_stand_in_order_of_size():
    summary, rows = of("q06")
    small, large = (cell(summary, base_name=name) for name in ("embedded-small", "embedded-large"))
    assert rows["smallest base"] == ("Qwen3-0.6B 3.51 of 10", f"embedded-small {share(small)} exact match")
    assert rows["largest base"] == ("Qwen3-14B 5.12 of 10", f"embedded-large {share(large)} exact match")


def test_generators_stand_beside_their_kind():
    summary, rows = of("q07")
    assert set(rows) == {"raw", "reader:embedded", "exact"}
    raw, exact = cell(summary, supervision="raw"), cell(summary, supervision="qa:20", generator="exact")
    assert rows["raw"] == ("3.19 / 4.59 of 10", f"{share(raw)} exact match")
    assert rows["exact"][1] == f"{share(exact)} exact match"


def test_capacity_stands_beside_what_the_paper_says_of_it():
    summary, rows = of("q01")
    found = [c for c in summary["cells"] if c["source"] == "counterfact" and c["metric"] == "efficacy" and c["reading"] == "module"]  # fmt: skip
    found = [c for c in found if c["probe"] == "trained" and c["size_tokens"] == 16_000]
    low, high = (pick(found, key=lambda one: one["rank"]) for pick in (min, max))
    assert [ours for _, ours in rows.values()] == [
        f"rank {one['rank']}: {share(one)} (16,000 tokens)" for one in (low, high)
    ]
    summary, rows = of("q02")
    assert rows["phonebook: exposures of a fact"][1].startswith("20 at 1,000 tokens")
    assert "rank 4 2,000" in rows["phonebook: limit at 95 %, tokens"][1]
    summary, rows = of("q03")
    assert rows["phonebook at 100 %: most efficient rank"][1].startswith("rank 4 by its mean, of 4")


def test_nothing_measured_is_no_line():
    empty = {"cells": [], "capacity": {"limits": [], "cells": [], "laws": []}, "sweeps": []}
    for question in ("q01", "q02", "q03", "q04", "q05", "q06", "q07"):
        assert analysis_of(question)(empty).beside == ()


def test_a_judge_speaks_in_points():
    table = pd.DataFrame(
        [{"supervision": "raw", "metric": "judge", "mean": 3.25, "ci_low": 3.0, "ci_high": 3.5}]
    )
    assert shown(table.iloc[0]) == "3.25 [3.00, 3.50] of 10"
    [row] = beside(table, "supervision", [("raw", "3.19"), ("qa:40", "5.47")])
    assert (row.label, row.published, row.ours) == ("raw", "3.19", "3.25 [3.00, 3.50] of 10")
