"""Tables for papers and spreadsheets: every list of summary.json as CSV, the ones that are printed as LaTeX.

Names, claims and reasons come from data. In a CSV a text that a spreadsheet would take for a formula gets an apostrophe
before it (`csv_text`); in LaTeX no character means anything but itself (`tex`). Numbers are never touched.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd

from loramem.core.files import new_file, write_text
from loramem.core.paths import check_new_folder
from loramem.core.shown import plain
from loramem.report.figures import TITLES

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def tex(text: object) -> str:
    """`text` as LaTeX shows it, on one line: an empty line would end a paragraph, which no caption or cell may hold.

    >>> tex("a_b & 5 %")
    'a\\\\_b \\\\& 5 \\\\%'
    """
    line = re.sub(r"[\t\n]+", " ", plain(str(text)))
    return "".join(LATEX_ESCAPES.get(character, character) for character in line)


def _tex_row(cells: list[str]) -> str:
    """A row of a table. A first cell that begins with `[` or `*` would be an option of what ends the row before it."""
    first, *others = map(tex, cells)
    return " & ".join(["{}" * first.startswith(("[", "*")) + first, *others]) + r" \\"


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV whose texts are texts in any spreadsheet: `=1+1` becomes `'=1+1`; `-0.5`, a number, stays.

    >>> csv_text(pd.DataFrame({"cell": ["=1+1", "-0.5", "a"], "mean": [-1.5, 0.0, 2.0]})).split()
    ['cell,mean', "'=1+1,-1.5", '-0.5,0.0', 'a,2.0']
    """
    columns = {
        _as_text(name): column if pd.api.types.is_numeric_dtype(column) else pd.Series([_as_text(value) for value in column], dtype=object)
        for name, column in frame.items()
    }  # fmt: skip
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


_FORMULA = tuple("=+-@\t＝＋－＠")  # noqa: RUF001  spreadsheets take the wide forms for the same


def _as_text(value: object) -> object:
    """A text that no program takes for a formula, nor a terminal for a command; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip(" \n").startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def frames(summary: dict) -> dict[str, pd.DataFrame]:
    """name -> table, for every list of a summary that holds rows."""
    capacity = summary["capacity"]
    found = {
        "cells": summary["cells"], "comparisons": summary["comparisons"]["tests"], "gains": summary["gains"],
        "knowledge": summary["knowledge"], "limits": capacity["limits"], "capacity": capacity["cells"],
        "laws": [{k: v for k, v in law.items() if k != "points"} for law in capacity["laws"]], "sweeps": summary["sweeps"],
        "verdicts": [{k: v for k, v in row.items() if k != "cells"} for row in summary["verdicts"]],
    }  # fmt: skip
    return {name: pd.DataFrame([_flat(row) for row in rows]) for name, rows in found.items() if rows}


def _flat(row: dict) -> dict:
    """A row whose lists and mappings are JSON text: a CSV cell holds one value."""
    return {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in row.items()}


def write_tables(summary: dict, folder: Path) -> list[Path]:
    """Write NAME.csv for every table, and scores.tex and limits.tex (booktabs) for print."""
    written = []
    for name, frame in frames(summary).items():
        write_text(folder / f"{name}.csv", csv_text(frame))
        written.append(folder / f"{name}.csv")
    for name, text in (("scores", scores_tex(summary)), ("limits", limits_tex(summary))):
        if text:
            write_text(folder / f"{name}.tex", text)
            written.append(folder / f"{name}.tex")
    return written


def _tabular(header: list[str], rows: list[list[str]], caption: str) -> str:
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{tex(caption)}}}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule",
        _tex_row(header), r"\midrule", *map(_tex_row, rows), r"\bottomrule",
        r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def scores_tex(summary: dict) -> str:
    """Per source and leading metric a table: readings by load, mean and interval in per cent, n in the caption."""
    parts = []
    for source in dict.fromkeys(cell["source"] for cell in summary["cells"]):
        own = [
            c
            for c in summary["cells"]
            if c["source"] == source and c.get("snapshot") is None and c["mean"] is not None
        ]
        metric = next(
            (m for m in ("exact_match", "efficacy", "token_f1") if any(c["metric"] == m for c in own)), None
        )
        phrasings = {c["probe"] for c in own if c["metric"] == metric}
        probe = "trained" if "trained" in phrasings else next(iter(phrasings - {None}), None)
        own = [c for c in own if c["metric"] == metric and c["probe"] == probe]
        if not own:
            continue
        sizes = sorted({c["size_tokens"] or 0 for c in own})
        lines: dict[str, dict[int, dict]] = {}
        for cell in own:
            name = cell["cell"].replace(f"{source}-{cell['size_tokens']}-", "")
            lines.setdefault(name, {})[cell["size_tokens"] or 0] = cell
        rows = [
            [name, *(_percent_interval(found[size]) if size in found else "--" for size in sizes)]
            for name, found in lines.items()
        ]
        counts = "; ".join(
            f"{_size(size)}: n = {max(c['n'] for c in own if (c['size_tokens'] or 0) == size)}"
            for size in sizes
        )
        caption = f"{source}: {TITLES.get(str(metric), metric)}, % [95 % interval]. Probes over all seeds: {counts}."
        parts.append(
            _tabular(["reading", *(f"{size:,}" if size else "score" for size in sizes)], rows, caption)
        )
    return "\n".join(parts)


def _size(tokens: int) -> str:
    return f"{tokens:,} tokens" if tokens else "all documents"


def _percent_interval(cell: dict) -> str:
    return f"{100 * cell['mean']:.1f} [{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}]"


def limits_tex(summary: dict) -> str:
    """Limits and efficiency by rank and threshold."""
    rows = [
        [
            f"{row['source']}, {row['budget']}", str(row["rank"]), f"{row['parameters']:,}", f"{100 * row['threshold']:g} %", row["shown"],
            f"[{row['ci_low']:g}, {'>= ' if row['high_censored'] else ''}{row['ci_high']:g}]",
            "--" if row["crossing_per_parameter"] is None else f"{1000 * row['crossing_per_parameter']:.0f}",
        ]
        for row in summary["capacity"]["limits"]
    ]  # fmt: skip
    header = [
        "grid",
        "rank",
        "parameters",
        "threshold",
        "T_max, tokens",
        "95 %",
        "tokens per 1,000 parameters",
    ]
    return (
        _tabular(header, rows, "Largest load that passes, and efficiency at the interpolated limit.")
        if rows
        else ""
    )


def export(run: Path, summary: dict, to: Path) -> list[Path]:
    """Tables of a run, and its figures as SVG and PNG, in a new folder. Raises `InputError` if `to` is not empty."""
    check_new_folder(to, "--to")
    written = write_tables(summary, to / "tables")
    for figure in sorted((run / "figures").glob("*.[sp][vn]g")):
        with new_file(to / "figures" / figure.name) as temporary:
            shutil.copyfile(figure, temporary)
        written.append(to / "figures" / figure.name)
    return written
