"""Figures of readings and of the ablation: drawn from whatever there is, a hole is a red cross or hatched, nothing drawn that is not there."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from loramem.report import reading_figures as figures
from loramem.report import variant_figures
from loramem.report.gallery import KINDS, draw, material
from loramem.studies import spec
from loramem.studies.findings import Findings
from loramem.studies.grid import scales_of
from readings_madeup import ABLATION, cell, chronicles, compared, level, summary

AT = ("chronicles", "exact_match", "heldout")
OWN = ("closed_book", "by_hops", "contexts", "ways_of_many", "swept", "ablation", "harm_of_variants")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def table(cells) -> pd.DataFrame:
    return pd.DataFrame(list(cells))


def texts(figure: Figure) -> list[str]:
    return [
        text.get_text()
        for axis in figure.axes
        for text in [*axis.texts, *axis.get_xticklabels(), *axis.get_yticklabels()]
    ]


def kinds(found: dict, source: str) -> set[str]:
    drawn = material(found, [], source, None)
    return {kind for kind in OWN if list(KINDS[kind](drawn))}


# -- one, many and merged ------------------------------------------------------------------------------
def test_closed_book_has_a_bar_for_every_way_in_order_and_a_word_for_a_hole():
    own = chronicles()
    own["right"] |= {"mean": None, "ci_low": None, "ci_high": None}
    figure = figures.closed_book(table(own.values()), *AT)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [
        "base alone",
        "one module a document",
        "the right chunk's module",
        "the router's chunk",
        "3 chunks merged (ties-delta)",
    ]
    assert [patch.get_width() for patch in figure.axes[0].patches] == [0.3, 0.5, 0.3, 0.3]
    assert [text.get_text() for text in figure.axes[0].texts][2] == "no result"


def test_routers_and_weights_stay_in_the_names_where_they_tell_ways_apart():
    merged = {"partition": "chunk", "top_k": 2, "merge": "cat", "pool_size": 9}
    two = [cell("merged", router=router, **merged) for router in ("bm25", "embedding")]
    assert "2 chunks merged (cat, bm25)" in texts(figures.closed_book(table(two), *AT))
    weighted = [
        cell("merged", router="bm25", **{**merged, "merge": f"cat-w{one}"}) for one in ("0.5_0.5", "0.9_0.1")
    ]
    assert "2 chunks merged (cat-w0.5_0.5, bm25)" in texts(figures.closed_book(table(weighted), *AT))
    assert "2 chunks merged (cat, weighted)" in texts(figures.closed_book(table(weighted[:1]), *AT))


def test_levels_stand_in_the_order_of_their_hops_and_a_missing_one_is_no_point():
    own = chronicles()
    levels = [
        level(own["single"], name, 0.5) for name in ("two-hop-within", "single-hop", "three-hop-across")
    ]
    levels.append(level(own["routed"], "single-hop", 0.0) | {"ci_low": 1e-17})
    figure = figures.by_hops(table(levels), table(own.values()), *AT)
    assert [label.get_text().split("\n")[0] for label in figure.axes[0].get_xticklabels()] == [
        "single-hop",
        "two-hop",
        "three-hop",
    ]
    points = {box.get_label(): len(box[0].get_xdata()) for box in figure.axes[0].containers}
    assert (
        points["one module a document"] == 3
        and points["the router's chunk"] == 1
        and points["the right chunk's module"] == 0
    )


# -- contexts ----------------------------------------------------------------------------------------
def test_contexts_stand_side_by_side_and_an_oracle_is_left_out():
    own = chronicles()
    more = [
        cell("icl", partition="document"), cell("icl", partition="chunk", mean=0.9), cell("module+icl", partition="document", mean=None), cell("rag", retriever="bm25"),
        cell("module+icl", partition="document", module_on="after-prefix", mean=0.7), cell("gold-passage", retriever="gold"),
    ]  # fmt: skip
    figure = figures.contexts(table([*own.values(), *more]), *AT)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "nothing",
        "document",
        "passages",
        "gold\npassage",
    ]
    heights = sorted(round(patch.get_height(), 3) for patch in axis.patches)
    assert heights == [0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.5, 0.7], "neither the right chunk nor its text (0.9)"
    assert [line.get_color() for line in axis.lines if line.get_marker() == "x"] == ["crimson"]
    xs = [patch.get_x() for patch in axis.patches]
    assert len(set(np.round(xs, 6))) == len(xs), "no bar hides another"


# -- settings and ways ---------------------------------------------------------------------------------
def sweep() -> list[dict]:
    return [
        cell("merged", source="sweep", partition="chunk", router="embedding", merge="cat", top_k=k, lr=lr, alpha=alpha, mean=0.1 * k + 10 * lr)
        for k in (2, 3) for lr in (0.005, 0.01) for alpha in (4.0, 8.0)
    ] + [cell("module", source="sweep", partition="chunk", lr=0.01, alpha=8.0, mean=0.95)]  # fmt: skip


def test_the_heat_map_frames_the_best_that_needs_no_oracle_and_leaves_holes():
    cells = sweep()
    cells[3]["mean"] = None
    figure = figures.swept(table(cells), "sweep", "exact_match", "heldout")
    axis = figure.axes[0]
    labels = [text.get_text() for text in axis.texts]
    assert labels.count("40 %\nn=60") == 2 and sum(label != "" for label in labels) == 8, (
        "eight of nine, the oracle among them"
    )
    (frame,) = [patch for patch in axis.patches if patch.get_edgecolor()[:1] != (0,) and not patch.get_fill()]
    column, row = int(frame.get_x()), int(frame.get_y())
    assert axis.get_xticklabels()[column].get_text().startswith("3 chunks")
    assert axis.get_yticklabels()[row].get_text() == "exposures=20, rate 0.01, alpha 4"


def test_ways_of_many_shows_only_paired_differences_to_the_first_choice():
    own = chronicles()
    tests = [
        compared(own["right"], own["routed"], 0.2, 0.1, 0.3),
        compared(own["routed"], own["merged"], 0.1, -0.1, 0.3),
        compared(own["right"], own["merged"], 0.9, 0.8, 1.0),
    ]
    figure = figures.ways_of_many(table(own.values()), tests, *AT)
    right = [text.get_text() for text in figure.axes[1].texts]
    assert right == ["+20 [+10, +30]", " is compared with", "-10 [-30, +10]"]


def test_a_paired_difference_reads_the_same_from_either_side():
    own = chronicles()
    a, b = own["single"], own["merged"]
    one = figures.paired([compared(a, b, 0.2, 0.1, 0.3)], b["cell"], "exact_match", "heldout")
    other = figures.paired([compared(b, a, -0.2, -0.3, -0.1)], b["cell"], "exact_match", "heldout")
    assert one == other == {a["cell"]: (0.2, 0.1, 0.3)}
    assert figures.paired([compared(a, b, 0.2, 0.1, 0.3)], b["cell"], "rouge_l", "heldout") == {}


# -- ablation ----------------------------------------------------------------------------------------
def test_the_ablation_is_grouped_and_sorted_and_shows_what_was_tested():
    first = ABLATION["first"]
    tests = [
        compared(ABLATION[name], first, mean, mean - 0.1, mean + 0.1)
        for name, mean in (("q", 0.2), ("attention", -0.3), ("dora", 0.05))
    ]
    figure = variant_figures.ablation(table(ABLATION.values()), tests, "papers", "exact_match", "heldout")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "q_proj only (5K)",
        "attention only (20K)",
        "DoRA (60K)",
    ]
    assert [text.get_text() for text in axis.texts if text.get_fontweight() == "bold"] == [
        "matrices",
        "kind of adapter",
    ]
    nothing = variant_figures.ablation(table(ABLATION.values()), [], "papers", "exact_match", "heldout")
    assert [label.get_text() for label in nothing.axes[0].get_yticklabels()] == []


def test_harm_shows_variants_whose_harm_was_measured():
    harm = [
        {
            **ABLATION[name],
            "metric": "kl_to_base",
            "probe": "unrelated",
            "mean": 1.0,
            "ci_low": 0.9,
            "ci_high": 1.1,
        }
        for name in ("first", "dora")
    ]
    figure = variant_figures.harm_of_variants(
        table([*ABLATION.values(), *harm]), "papers", "exact_match", "heldout"
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first module", "DoRA"]
    assert (
        variant_figures.harm_of_variants(table(ABLATION.values()), "papers", "exact_match", "heldout").legends
        == []
    )


# -- the gallery -------------------------------------------------------------------------------------
def test_each_kind_is_drawn_where_its_results_are_and_nowhere_else():
    own = list(chronicles().values())
    long = summary(own)
    long["levels"] = [level(own[1], "single-hop", 0.5)]
    assert kinds(long, "chronicles") == {"closed_book", "by_hops"}
    assert kinds(summary([*own, cell("module+icl", partition="document")]), "chronicles") == {
        "closed_book",
        "contexts",
    }
    more = [
        cell("merged", partition="chunk", router="embedding", merge=rule, top_k=3)
        for rule in ("cat", "linear-delta")
    ]
    assert kinds(summary([*own, *more]), "chronicles") == {"closed_book", "ways_of_many"}
    assert kinds(summary(sweep()), "sweep") == {"swept"}
    assert kinds(summary(ABLATION.values()), "papers") == {"ablation"}
    assert (
        kinds(
            summary([cell("closed", source="papers"), cell("module", source="papers", partition="corpus")]),
            "papers",
        )
        == set()
    )


@pytest.mark.parametrize("scale", ["quick", *scales_of(spec.read_document("q14"))])
def test_q14_has_its_heat_map_at_every_scale(scale):
    study = spec.load("q14", scale=scale)
    (source,) = {key for contrast in study.file.contrasts for key in contrast["sources"]}
    cells = [
        cell(
            "routed", source=source, partition="chunk", router="embedding", budget=one.config.budget.label,
            lr=one.config.optimizer.lr, alpha=one.config.spec.alpha,
        )
        for one in study.points[source]
    ]  # fmt: skip
    assert "swept" in kinds(summary(cells), source)


def test_the_report_draws_them_with_any_cell_missing(tmp_path):
    own = [
        *(one for name, one in chronicles().items() if name != "routes"),
        cell("module+icl", partition="document"),
        cell("icl", partition="document"),
    ]
    for gone in (None, *own[:3]):
        cells = [
            one if one is not gone else {**one, "mean": None, "ci_low": None, "ci_high": None} for one in own
        ]
        found = summary(cells, [compared(own[1], own[0], 0.1, 0.0, 0.2)])
        found["levels"] = [
            level(one, name, 0.4) for one in own[:2] if one is not gone for name in ("single-hop", "two-hop")
        ]
        drawn = draw(
            found,
            [],
            tmp_path / str(own.index(gone) if gone else "whole"),
            Findings(("x.",), "", (("closed_book", "chronicles"), ("contexts", "chronicles"))),
        )
        assert [one["name"] for one in drawn if one["leads"]] == [
            "chronicles-closed-book-exact_match-heldout",
            "chronicles-contexts-exact_match-heldout",
        ]
        assert "chronicles-hops-exact_match-heldout" in {one["name"] for one in drawn}
