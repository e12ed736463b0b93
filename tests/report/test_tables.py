"""Tables for papers: CSV holds every number again, LaTeX shows every character, an export never overwrites."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import InputError
from loramem.report.tables import LATEX_ESCAPES, export, frames, limits_tex, scores_tex, tex, write_tables
from madeup import GRID, LIMITS, MAIN, found, results, whole_study


@pytest.fixture(scope="module")
def summary() -> dict:
    made, _ = whole_study()
    tried = [{"lr": 0.01, "budget": MAIN, "nats_per_token": None}]
    made["sweeps"] = [{"base": "tiny", "source": "phonebook", "rank": 1, "budget": MAIN, "dev_tokens": 9, "lr": 0.01, "tried": tried, "swept": ["lr"], "at_edge": False}]  # fmt: skip
    return made


@pytest.fixture(scope="module")
def folder(summary, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("tables")
    write_tables(summary, where)
    return where


# -- CSV -----------------------------------------------------------------------------------------------
def test_csv_holds_every_number_of_the_summary(summary, folder):
    lists = {
        "cells": summary["cells"], "gains": summary["gains"], "limits": summary["capacity"]["limits"],
        "comparisons": summary["comparisons"]["tests"], "capacity": summary["capacity"]["cells"],
        "knowledge": summary["knowledge"],
    }  # fmt: skip
    for name, rows in lists.items():
        table = pd.read_csv(folder / f"{name}.csv")
        assert len(table) == len(rows) > 0
        for row, line in zip(rows, table.to_dict("records"), strict=True):
            for key, value in row.items():
                if value is None:
                    assert pd.isna(line[key])
                elif isinstance(value, int | float | str):
                    assert line[key] == (
                        pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
                    ), (name, key)


def test_only_tables_with_rows_are_written(summary, folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{name}.csv" for name in frames(summary)} | {"scores.tex", "limits.tex"}
    assert "verdicts.csv" not in names and "points" not in pd.read_csv(folder / "laws.csv")


def test_a_study_without_capacity_has_no_table_of_limits(tmp_path):
    written = write_tables(found(*results(GRID)), tmp_path)
    assert {path.name for path in written} == {
        "cells.csv",
        "comparisons.csv",
        "gains.csv",
        "knowledge.csv",
        "scores.tex",
    }
    assert all(path.is_file() for path in written)


# -- LaTeX ---------------------------------------------------------------------------------------------
@given(st.text(st.sampled_from("ab \\&%$#_{}~^<>"), max_size=12))
def test_escaped_text_has_no_bare_special_character_and_reads_the_same(text):
    said = tex(text)
    names = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<", r"\textgreater{}": ">"}  # fmt: skip
    back = re.sub(r"\\text\w+\{\}|\\.", lambda m: names.get(m[0], m[0][1:]), said)
    assert back == text
    assert not re.search(r"(?<!\\)[&%$#_^~<>]", re.sub(r"\\text\w+\{\}", "", said))


def test_every_special_character_of_latex_is_escaped():
    assert set(LATEX_ESCAPES) >= set("\\&%$#_{}~^") and tex(5) == "5" and tex("Zoë") == "Zoë"
    assert tex(r"a\b") == r"a\textbackslash{}b"


def rows_of(text: str) -> list[list[str]]:
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    return [line.removesuffix(" \\\\").split(" & ") for line in body.splitlines()[1:]]


def test_scores_have_a_row_per_reading_and_a_column_per_load(summary):
    text = scores_tex(summary)
    rows = rows_of(text)
    assert [row[0] for row in rows] == [*(f"r{rank}-module" for rank in LIMITS), "closed"]
    assert all(len(row) == 5 for row in rows) and "r}" in text and "{lrrrr}" in text
    cells = {c["cell"]: c for c in summary["cells"] if c["metric"] == "exact_match"}
    one = cells["phonebook-1000-r1-module"]
    assert rows[0][2] == f"30.0 [{100 * one['ci_low']:.1f}, {100 * one['ci_high']:.1f}]"
    assert "1,000 tokens: n = 120" in text and r"exact match, \% [95 \% interval]" in text


def test_a_load_that_a_reading_lacks_is_a_dash():
    rows, items = results({key: value for key, value in GRID.items() if key != ("module", 4, 1000)})
    shown = {row[0]: row[1:] for row in rows_of(scores_tex(found(rows, items)))}
    assert shown["r4-module"][1] == "--" != shown["r4-module"][0]


def test_limits_show_what_lies_beyond_the_grid(summary):
    rows = rows_of(limits_tex(summary))
    assert len(rows) == 8 and {len(row) for row in rows} == {7}
    shown = {(row[1], row[3]): (row[4], row[6]) for row in rows}
    assert shown["1", r"90 \%"][0] == "500" and shown["1", r"90 \%"][1] != "--"
    assert shown["8", r"90 \%"] == (r"\textgreater{}= 4,000", "--"), "no efficiency without a limit"
    assert limits_tex(found(*results(GRID))) == ""


def test_names_from_data_cannot_break_a_table(summary):
    odd = json.loads(json.dumps(summary).replace("phonebook", "a_b & 5 %"))
    for text in (scores_tex(odd), limits_tex(odd)):
        assert r"a\_b \& 5 \%" in text and all(len(row) == len(rows_of(text)[0]) for row in rows_of(text))


# -- export --------------------------------------------------------------------------------------------
def test_an_export_goes_into_a_new_or_empty_folder_only(summary, tmp_path):
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    (run / "figures" / "a.svg").write_text("<svg/>")
    (run / "figures" / "a.png").write_bytes(b"png")
    (run / "figures" / "a.txt").write_text("not a figure")
    (tmp_path / "empty").mkdir()
    for to in (tmp_path / "new" / "deep", tmp_path / "empty"):
        written = export(run, summary, to)
        assert all(path.is_file() for path in written) and len(set(written)) == len(written)
        assert {path.name for path in (to / "figures").iterdir()} == {"a.svg", "a.png"}
        before = sorted(to.rglob("*"))
        with pytest.raises(InputError, match="not an empty folder"):
            export(run, summary, to)
        assert sorted(to.rglob("*")) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        export(run, summary, tmp_path / "file")


def test_a_run_without_figures_has_tables_alone(summary, tmp_path):
    export(tmp_path / "nowhere", summary, tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["tables"]
