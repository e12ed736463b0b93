"""Sentences of questions 8 to 15: readings of many modules, compared on the same questions.

Every difference is one that `summary.comparisons` tested fact by fact; a pair that was not tested gives no sentence.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from loramem.studies.findings import cells_of, points, share, verb

Tested = tuple[float, float, float]


def one(summary: dict, **wanted: Any) -> pd.Series | None:
    """The cell of a summary that matches every given column; `None` as a value asks for a column that is null. None where
    there is none, or no single one, with a result."""
    given = {key: value for key, value in wanted.items() if value is not None}
    table = cells_of(summary, **given)
    for key in (key for key, value in wanted.items() if value is None):
        table = table[table[key].isna()] if len(table) else table
    table = table[table["mean"].notna()] if len(table) else table
    return table.iloc[0] if len(table) == 1 else None


def tested(summary: dict, a: pd.Series, b: pd.Series) -> Tested | None:
    """(a - b, low, high) of two cells' scores, tested fact by fact; None where that pair was not tested."""
    for test in summary["comparisons"]["tests"]:
        if (test["metric"], test["probe"]) == (a["metric"], a["probe"]):
            if (test["cell"], test["against"]) == (a["cell"], b["cell"]):
                return test["difference"], test["ci_low"], test["ci_high"]
            if (test["cell"], test["against"]) == (b["cell"], a["cell"]):
                return 0.0 - test["difference"], 0.0 - test["ci_high"], 0.0 - test["ci_low"]
    return None


def against(
    summary: dict,
    a: pd.Series | None,
    b: pd.Series | None,
    names: tuple[str, str],
    words: tuple[str, str, str] = ("more", "less", "no clear difference"),
) -> str | None:
    """`A 40.0 % [..] against B 30.0 % [..]: more (+10.0 points [..])`; None where a cell or the test of the pair is missing."""
    if a is None or b is None or (found := tested(summary, a, b)) is None:
        return None
    word = verb(found[1], found[2], *words)
    return f"{names[0]} {share(a)} against {names[1]} {share(b)}: {word} ({points(*found)})"


def sentences(*found: str | None) -> tuple[str, ...]:
    """What there is to say, each with its full stop."""
    return tuple(f"{text}." for text in found if text)
