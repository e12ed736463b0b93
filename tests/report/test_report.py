"""The report: nothing from data is markup, holes are shown, every mean has n and an interval, nothing is fetched."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from loramem.report.axes import log_scale, percent_ticks
from loramem.report.figures import by_load
from loramem.report.gallery import draw
from loramem.report.html import headline, render, text_tables
from loramem.studies.capacity import capacity
from loramem.studies.findings import Findings
from loramem.studies.summary import clean, summarise
from madeup import (
    GRID,
    MAIN,
    STUDY,
    capacity_choice,
    expectation,
    found,
    modules,
    results,
    whole_study,
)

HOSTILE = '<script>alert("x")</script>'


def info(**changes) -> dict:
    base = {
        "name": HOSTILE,
        "fingerprint": "f" * 64,
        "parameters": 10,
        "dtype": "float32",
        "device": "cpu",
        "context_length": 8,
        "card": {"x": HOSTILE},
    }
    return {
        "study": "quick", "question": f"Why? {HOSTILE}", "version": 1, "scale": "quick", "created": "2026-01-01", "wall_seconds": 61.0,
        "environment": {"loramem": "0", "python": "3", "packages": {"torch": "2"}, "platform": "p", "threads": 2, "command": HOSTILE, "code": {}, "base": base},
        "plan": {"modules": 4, "questions": 9, "lora_parameters": 5, "sources": {"phonebook": [{"size_tokens": 250, "notes": [HOSTILE]}]}},
        "costs": {"train_tokens": 1, "truncated_tokens": 0, "module_bytes": 2, "this_run": {"train": {"seconds": 1.0}}},
        "failures": [{"cell": "phonebook-1000-r4-module", "seed": 0, "error": HOSTILE}],
        "examples": [{"cell": "c", "source": "phonebook", "reading": "module", "probe": "trained", "metric": "exact_match", "prompt": HOSTILE, "gold": "g", "prediction": HOSTILE, "value": 0.0}],
        "training": [{"source": "phonebook", "rank": 1, "size_tokens": 250, "budget": MAIN, "log": [{"step": 1, "loss": 2.0}, {"step": 9, "loss": 0.1}]}],
        "contexts": [{"cell": f"phonebook-1000-icl{HOSTILE}", "tokens": 977, "probes_cut": 13, "probes": 60, "hits": None}],
        "rows": 12_345, "body": HOSTILE, "reused": {"modules": 0, "readings": 0}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    rows, items = results(GRID)
    summary = found(rows, items, [expectation(compare=["largest", "smallest"], margin=0.1)])
    return render(info(), summary, out).read_text(), summary, out


def test_what_comes_from_data_is_text(page):
    assert "<script" not in page[0] and page[0].count("&lt;script&gt;") >= 7


def test_nothing_is_fetched(page):
    assert (
        not re.findall(r'(?:src|href)="(?!#)[^"]+"', re.sub(r'xmlns(:\w+)?="[^"]+"', "", page[0]))
        and "@import" not in page[0]
    )


def test_every_mean_has_n_and_an_interval(page):
    text, summary, _ = page
    for cell in summary["cells"]:
        assert re.search(rf"<td>{cell['cell']}</td>.*?\[\d.*?\].*?<td class=\"n\">{cell['n']}</td>", text), (
            cell["cell"]
        )


def test_verdicts_holes_and_cuts_are_shown(page):
    text, _, _ = page
    assert re.search(
        r"phonebook-1000-icl.*questions of 60 whose context was cut.*by up to 977 tokens.*>13<", text
    )
    assert "whose passages hold" not in text, "a context without retrieval has no hits"
    assert "12,345 rows in results.parquet" in text
    assert 'class="agrees">agrees' in text and 'id="holes"' in text and "1 cells have no result" in text


def test_figures_are_files_too(page):
    names = {p.name for p in (page[2] / "figures").iterdir()}
    assert {
        "phonebook-load-exact_match-trained.svg",
        "phonebook-heat.png",
        "phonebook-controls.svg",
        "phonebook-training.png",
    } <= names


def test_ids_are_unique_in_the_page(page):
    ids = re.findall(r'\bid="([^"]+)"', page[0])
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page[0])) <= set(ids)


def test_a_missing_cell_is_a_hole_in_the_heat_map_and_a_cross_in_the_curve(tmp_path):
    rows, items = results({key: value for key, value in GRID.items() if key != ("module", 4, 1000)})
    summary = found(rows, items)
    cells = pd.DataFrame(summary["cells"])
    svg = next(f for f in draw(summary, [], tmp_path, Findings(())) if f["name"].endswith("heat"))["svg"]
    assert svg.count("n=120") == 3
    empty = cells.assign(mean=cells["mean"].where(cells["cell"] != "phonebook-1000-r1-module"))
    figure = by_load(empty, "phonebook", "exact_match", "trained")
    assert [
        line for line in figure.axes[0].lines if line.get_marker() == "x" and line.get_color() == "crimson"
    ]


def test_the_headline_says_no_more_than_the_numbers():
    rows, items = results(GRID)
    said = headline(summarise(rows, items, [], metrics=["exact_match"]))
    assert (
        len(said) == 1
        and "rank 1 gives 100.0 [" in said[0]
        and "10.0 [" in said[0]
        and "base alone 0.0 [" in said[0]
    )


def test_the_closing_table_shows_missing_results():
    rows, items = results({key: value for key, value in GRID.items() if key != ("module", 4, 1000)})
    table = text_tables(summarise(rows, items, [], metrics=["exact_match"]))[0]
    assert "no result" in list(table.columns[2].cells)


# -- studies of capacity -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def capacity_page(tmp_path_factory):
    out = tmp_path_factory.mktemp("capacity")
    summary, _ = whole_study()
    tried = [{"lr": lr, "budget": MAIN, "nats_per_token": loss} for lr, loss in ((0.01, 0.25), (9.0, None))]
    sweep = {
        "base": "tiny", "source": "phonebook", "rank": 1, "budget": MAIN, "dev_tokens": 700, "lr": 0.01, "tried": tried,
        "swept": ["lr"],
    }  # fmt: skip
    summary["sweeps"] = [{**sweep, "at_edge": True}]
    hits = [{"cell": "phonebook-500-rag-bm25", "tokens": 0, "probes_cut": 0, "probes": 60, "hits": 41}]
    sizes = [{"size_tokens": size, "notes": ["n"]} for size in (500, 1000, 2000, 4000)]
    plan = {"modules": 4, "questions": 9, "lora_parameters": 5, "sources": {"phonebook": sizes}}
    text = render(info(contexts=hits, plan=plan, failures=[]), summary, out).read_text()
    return text, summary, {path.name for path in (out / "figures").iterdir()}


def test_limits_causes_bits_and_the_law_are_shown(capacity_page):
    text, summary, figures = capacity_page
    assert {f"phonebook-{kind}.svg" for kind in ("limits", "efficiency", "bits", "memory-law")} <= figures
    assert "phonebook-protocols.svg" not in figures and "phonebook-snapshots.svg" not in figures
    assert text.count("outside the grid</td>") == 2, "rank 8 at both thresholds"
    assert "&gt;= 4,000 [" in text and "constant 20 exposures" in text
    failing = [cell for cell in summary["capacity"]["cells"] if cell["cause"]]
    assert failing and text.count("capacity (its own loss curve)") == len(failing)
    assert "In short" in text and 'id="holes"' not in text


def test_sweeps_hits_and_what_was_known_are_shown(capacity_page):
    text, _, _ = capacity_page
    assert "0.01: 0.250; 9: diverged" in text and "0.01 (edge)" in text
    assert re.search(r"rag-bm25: questions of 60 whose passages hold the answer.*>41<", text)
    assert "whose context was cut" not in text
    assert re.search(r"<td>500</td><td class=\"n\">60</td><td class=\"n\">0</td>", text), "all Unknown"


def test_figures_that_answer_the_question_come_first_and_once(tmp_path):
    summary, _ = whole_study()
    lead = (("limits", "phonebook"), ("memory_law", "phonebook"), ("by_load", "nowhere"))
    published = {"phonebook": (0.7, 0.9)}
    drawn = draw(summary, [], tmp_path, Findings((), figures=lead, published_range=published))
    assert [f["name"] for f in drawn[:2]] == ["phonebook-limits", "phonebook-memory-law"]
    assert [f["leads"] for f in drawn] == [True] * 2 + [False] * (len(drawn) - 2)
    by_name = {f["name"]: f["svg"] for f in drawn}
    assert len(by_name) == len(drawn)
    assert [name for name, svg in by_name.items() if "range in the paper" in svg] == ["phonebook-rank"]


def test_protocols_are_drawn_beside_each_other_and_kept_apart_elsewhere(tmp_path):
    """A second protocol at rank 1 has its own figure; the heat map holds the main grid alone."""
    rows, items = results(STUDY)
    other = {key: 0.2 for key in STUDY if key[:2] == ("module", 1)}
    more_rows, more_items = results(other, budget="steps=40")
    summary = found(pd.concat([rows, more_rows], ignore_index=True), pd.concat([items, more_items]))
    drawn = {f["name"]: f["svg"] for f in draw(summary, [], tmp_path, Findings(()))}
    said = drawn["phonebook-protocols"]
    assert "fixed 40 steps, rank 1" in said and "constant 20 exposures, rank 1" in said
    assert "rank 2" not in said, "there is nothing to compare at rank 2"
    assert drawn["phonebook-heat"].count("n=120") == 16


def test_snapshots_are_drawn_over_steps_and_nowhere_else(tmp_path):
    rows, items = results(STUDY)
    early = rows[(rows["rank"] == 8) & (rows["size_tokens"] == 4000)].assign(snapshot=5, steps=5)
    early["cell"] = "phonebook-4000-r8-at-step-5-module"
    own = items[items["cell"] == "phonebook-4000-r8-module"].assign(cell=early["cell"].iloc[0], value=0.0)
    whole = found(pd.concat([rows, early], ignore_index=True), pd.concat([items, own]))
    names = [f["name"] for f in draw(whole, [], tmp_path, Findings(()))]
    assert "phonebook-snapshots" in names
    cells = found(rows, items)["cells"]
    assert [c for c in whole["cells"] if c["snapshot"] is None] == cells
    assert headline(whole) == headline({"cells": cells}), "a snapshot is no end of training"


@pytest.mark.parametrize(("mean", "said"), [(0.0, "every rank fails"), (1.0, "no rank reaches its limit")])
def test_a_study_in_which_nothing_or_everything_is_held_has_its_figures(mean, said, tmp_path):
    share = {key: mean if key[0] == "module" else 0.0 for key in GRID}
    rows, items = results(share, nll=dict.fromkeys(share, 2.0))
    summary = found(rows, items)
    cells = pd.DataFrame(summary["cells"])
    summary["capacity"] = clean(capacity(capacity_choice(0.9), cells, items, modules(share)))
    drawn = {f["name"]: f["svg"] for f in draw(summary, [], tmp_path, Findings(()))}
    assert {"phonebook-limits", "phonebook-efficiency", "phonebook-bits"} <= drawn.keys()
    assert said in drawn["phonebook-limits"] + drawn["phonebook-efficiency"]


@pytest.mark.parametrize("top", [0.06, 0.11, 0.23, 0.35, 0.7, 1.03, 1.35])
def test_ticks_of_shares_say_what_they_are(top):
    """Labels have no decimals, so a tick at 2.5 % would be called 2 %."""
    figure, axis = plt.subplots(figsize=(4, 2))
    axis.set_xlim(0, 0.05)
    percent_ticks(axis.xaxis)
    axis.set_xlim(0, top)  # a reference line may widen an axis afterwards
    figure.canvas.draw()
    shown = [(label.get_position()[0], label.get_text()) for label in axis.get_xticklabels()]
    inside = [(at, text) for at, text in shown if 0 <= at <= top]
    assert all(
        text == f"{round(100 * at)}%" and abs(100 * at - round(100 * at)) < 1e-9 for at, text in inside
    )
    assert len(inside) >= 3 and max(at for at, _ in shown) <= 1.0 + 1e-9
    assert top - inside[-1][0] < inside[1][0] or inside[-1][0] == 1.0, "up to the end of the axis"
    plt.close(figure)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (350, 7000, ["500", "1,000", "2,000", "5,000"]),
        (900, 2100, ["900", "1,000", "2,000"]),
        (0.5, 4e6, ["1", "10", "100", "1,000", "10,000", "100,000", "1M"]),
    ],
)
def test_logarithmic_axes_have_labels_that_can_be_read(low, high, wanted):
    figure, axis = plt.subplots(figsize=(5.4, 3.6))
    axis.set_xlim(low, high)
    log_scale(axis, "x")
    axis.set_xlim(low, high)
    figure.canvas.draw()
    labels = axis.get_xticklabels(which="both")
    shown = sorted((one.get_position()[0], one.get_text()) for one in labels if one.get_text())
    assert [text for at, text in shown if low <= at <= high] == wanted
    plt.close(figure)
