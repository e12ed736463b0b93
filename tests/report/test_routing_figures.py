"""Figures of routers, merges and sectors: what is drawn where, holes are said, and readings told apart by name."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from loramem.report import routing_figures as figures
from loramem.report.figures import reading_key, reading_name
from loramem.report.gallery import KINDS, draw, material
from loramem.report.html import line_of
from loramem.studies.findings import Findings
from routed_summary import PAPERS, cell, merged, numbered, q09_cells, rule_rows, sectors, summary

HELD = ("exact_match", "heldout")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows)


def labels(axis) -> list[str]:
    return [tick.get_text() for tick in axis.get_yticklabels()]


def words(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def without(rows: list[dict], name: str) -> list[dict]:
    return [
        {**row, "mean": None, "ci_low": None, "ci_high": None} if row["cell"] == name else row for row in rows
    ]


# -- routers and sectors -------------------------------------------------------------------------------
def test_routers_stand_from_the_best_down_with_their_routes_in_the_same_row():
    figure = figures.routers(table(q09_cells()), PAPERS, *HELD)
    left, right = figure.axes
    assert labels(left) == ["bm25", "embedding", "random"]
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.6, 0.4, 0.2])
    assert [bar.get_width() for bar in right.patches] == pytest.approx(
        [0.8]
    )  # the others' routes were not scored
    assert words(right) == ["80 [75, 85]", "no result", "no result"]
    named = [line.get_label() for line in left.lines + right.lines]
    assert {"the right module (60 %)", "one module for all (45 %)", "chance, 1 of 4"} <= set(named)


def test_a_router_without_a_result_is_last_and_says_so():
    figure = figures.routers(table(without(q09_cells(), "r-bm25")), PAPERS, *HELD)
    assert labels(figure.axes[0])[-1] == "bm25" and words(figure.axes[0])[-1] == "no result"


def test_sectors_name_how_often_each_entry_was_seen_and_keep_both_large_modules():
    figure = figures.sectors(table(sectors(0.1, 0.9)), "phonebook", "exact_match", "trained")
    assert labels(figure.axes[0]) == [
        "4 x rank 4, the right one, seen 24 times", "one of rank 16, seen 24 times", "one of rank 16, seen 6 times",
        "routed by bm25", "routed by embedding",
    ]  # fmt: skip
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([0.99, 0.9, 0.1, 0.93, 0.38])


# -- merges --------------------------------------------------------------------------------------------
def test_rules_on_factors_and_on_updates_have_two_colours_and_what_was_not_merged_is_a_line():
    figure = figures.merge_rules(
        table(merged({"cat": 0.1, "ties-delta": 0.3, "ties-factors": 0.2})), PAPERS, *HELD
    )
    [axis] = figure.axes
    assert labels(axis) == ["ties-delta", "ties-factors", "cat"]
    colours = [bar.get_facecolor()[:3] for bar in axis.patches]
    assert colours == [figures.SPACES[space] for space in ("update", "factors", "update")]
    lines = {line.get_label(): line.get_xdata()[0] for line in axis.lines}
    assert lines == {
        "the right module (60 %)": 0.6,
        "first choice alone (40 %)": 0.4,
        "a wrong module (5 %)": 0.05,
    }
    assert axis.get_xlim()[1] > 0.6  # no line outside


def test_the_line_of_each_rule_runs_over_the_number_merged_and_a_hole_is_red():
    rows = numbered("cat", (0.6, 0.4, 0.1)) + numbered("ties-delta", (0.5, 0.4, 0.3))[1:]
    figure = figures.merged_by_number(table(without(rows, "cat-2")), PAPERS, *HELD)
    [axis] = figure.axes
    curves = {str(box.get_label()): box.lines[0].get_ydata().tolist() for box in axis.containers}
    assert curves == {"cat": [0.6, 0.1], "ties-delta": [0.5, 0.4, 0.3]}
    assert [line.get_xdata()[0] for line in axis.lines if line.get_color() == "crimson"] == pytest.approx(
        [2.0], abs=0.1
    )
    assert [int(tick) for tick in axis.get_xticks()] == [1, 2, 3]


def test_scores_stand_over_the_distance_of_their_own_merges():
    rows = merged({"cat": 0.1, "ties-delta": 0.3})
    merges = [{"cell": f"m-{rule}", "rule": rule, "measures": {"distance_to_mean": {"mean": at, "min": at - 0.1, "max": at + 0.1}}} for rule, at in (("cat", 2.0), ("ties-delta", 1.0))]  # fmt: skip
    figure = figures.merge_distances(table(rows), merges, PAPERS, *HELD)
    points = {
        str(box.get_label()): (box.lines[0].get_xdata()[0], box.lines[0].get_ydata()[0])
        for box in figure.axes[0].containers
    }
    assert points == {"ties-delta": (1.0, 0.3), "cat": (2.0, 0.1)}


def test_harm_is_drawn_least_first_without_the_base_whose_divergence_is_none():
    figure = figures.harm(table(q09_cells()), PAPERS)
    left, right = figure.axes
    assert labels(left) == ["routed (embedding)", "the right module", "one module for all"]
    assert [bar.get_width() for bar in left.patches] == pytest.approx([1.9, 2.0, 2.5])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.5, 0.4, 0.3])
    assert [line.get_label() for line in right.lines] == ["base alone (90 %)"]


# -- what is missing -----------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [
    sectors(0.1, 0.9), q09_cells(), merged({"cat": 0.1, "ties-delta": 0.2}), numbered("cat", (0.5, 0.3)), [cell("right", None)],
])  # fmt: skip
def test_every_figure_draws_whatever_is_missing(rows, tmp_path):
    source = rows[0]["source"]
    for name in [None, *dict.fromkeys(row["cell"] for row in rows)]:
        own = table(without(rows, name) if name else rows)
        for draws in (figures.routers, figures.merge_rules, figures.merged_by_number, figures.sectors):
            draws(own, source, "exact_match", rows[0]["probe"])
        figures.merge_distances(own, [], source, *HELD)
        figures.harm(own, source)
        plt.close("all")
    figures.routers(own[own["reading"] == "nothing"], source, *HELD).savefig(tmp_path / "empty.png")


def test_the_gallery_draws_the_kinds_that_the_results_fill_and_no_other(tmp_path):
    rows = [{"generator": "exact", "base_parameters": 1, "examples": 1} | row for row in _whole(q09_cells())]
    found = draw(
        summary(rows, []), [], tmp_path, Findings(("a",), figures=(("routers", PAPERS), ("harm", PAPERS)))
    )
    assert [figure["name"] for figure in found if figure["leads"]] == [
        "papers-routers-exact_match-heldout",
        "papers-harm",
    ]
    m = material(summary(rows, []), [], PAPERS, None)
    for kind in ("sectors", "merge_rules", "merge_distances", "merged_by_number"):
        assert list(KINDS[kind](m)) == []


def _whole(rows: list[dict]) -> list[dict]:
    """With the columns that other figures read."""
    extra = {
        "targets": "all-linear",
        "layers": "all",
        "variant": "lora",
        "objective": "ntp",
        "lr": 0.1,
        "alpha": 16,
        "distractors": None,
        "seeds": 1,
    }
    return [{**extra, **row} for row in rows]


# -- names ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("more", "name", "line"), [
    ({"reading": "routed", "router": "embedding"}, "papers-document-r16-routed-embedding", "routed (embedding), document-r16"),
    ({"reading": "merged", "router": "embedding", "merge": "dare-ties-delta", "top_k": 3}, "papers-r16-merged-embedding-top3-dare-ties-delta", "merged (embedding, top 3, dare-ties-delta), r16"),
    ({"reading": "module+rag", "retriever": "minilm"}, "papers-r16-module+rag-minilm", "module + RAG (minilm), r16"),
    ({"reading": "merged+icl", "router": "bm25", "merge": "cat", "top_k": 2}, "papers-r16-merged+icl-bm25-top2-cat", "merged (bm25, top 2, cat) + ICL, r16"),
    ({"reading": "module+icl", "module_on": "answer"}, "papers-r16-module+icl-on-answer", "module + ICL, on for the answer only, r16"),
    ({"reading": "routed", "router": "bm25"}, "papers-r16-routed-bm25-none0.4-abstain", "routed (bm25), r16, none0.4-abstain"),
    ({"reading": "merged", "router": "bm25", "merge": "cat", "top_k": 5, "adaptive": 0.9}, "papers-r16-merged-bm25-top5-p0.9-cat", "merged (bm25, up to 5 by 0.9, cat), r16"),
    ({"reading": "random-module"}, "papers-r16-random-module", "random module, r16"),
    ({"reading": "rag", "retriever": "bm25"}, "papers-rag-bm25", "RAG (bm25)"),
])  # fmt: skip
def test_readings_of_many_modules_are_named_for_people(more, name, line):
    row = cell(name, 0.5, **more)
    assert line_of(row) == line
    assert reading_name(reading_key(row)) in line


def test_two_readings_of_one_module_never_share_a_line():
    rows = [cell(f"papers-r16-merged-embedding-top{k}-{rule}", 0.5, reading="merged", router="embedding", merge=rule, top_k=k) for k in (1, 2) for rule in ("cat", "ties-delta")]  # fmt: skip
    rows += [{**row, "reading": "routed"} for row in rule_rows("papers-r16-routed-bm25", exact_match=0.2)]
    assert len({line_of(row) for row in rows}) == len(rows)
