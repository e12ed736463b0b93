"""The report: nothing from data is markup, holes are shown, every mean has n and an interval, nothing is fetched."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from loramem.report.figures import by_load, draw
from loramem.report.html import headline, render, text_tables
from loramem.studies.summary import summarise
from madeup import GRID, expectation, results

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
        "training": [{"source": "phonebook", "rank": 1, "size_tokens": 250, "log": [{"step": 1, "loss": 2.0}, {"step": 9, "loss": 0.1}]}],
        "cuts": [{"cell": "phonebook-1000-icl", "tokens": 977}], "body": HOSTILE, "reused": {"modules": 0, "readings": 0}, **changes,
    }  # fmt: skip


@pytest.fixture
def page(tmp_path):
    rows, items = results(GRID)
    summary = summarise(
        rows, items, [expectation(compare=["largest", "smallest"], margin=0.1)], metrics=["exact_match"]
    )
    summary["run"] = {"seeds": 2}
    return render(info(), rows, summary, tmp_path).read_text(), summary, tmp_path


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
    assert "Context tokens cut from phonebook-1000-icl" in text and "977" in text
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
    cells = pd.DataFrame(summarise(rows, items, [], metrics=["exact_match"])["cells"])
    svg = next(f for f in draw(cells, [], tmp_path) if f["name"].endswith("heat"))["svg"]
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
