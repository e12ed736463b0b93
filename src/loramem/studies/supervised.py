"""Sentences of questions 4 to 7: pairs of modules that differ in one thing, compared on the same facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from loramem.studies.findings import Beside, cells_of, main_budget, points, protocol_name, share, verb

METRICS = ("judge", "exact_match", "rouge_l", "token_f1")
"""Which score carries the answer: the first that was measured."""


def leading(summary: dict, source: str) -> tuple[str, str] | None:
    """(metric, probe) of the answer: held-out wording where it was asked. None: nothing was scored."""
    table = cells_of(summary, source=source, reading="module")
    if table.empty:
        return None
    table = table[table["mean"].notna()]
    for metric in METRICS:
        probes = set(table.loc[table["metric"] == metric, "probe"])
        if probes:
            return metric, "heldout" if "heldout" in probes else sorted(map(str, probes))[0]
    return None


def modules_of(
    summary: dict, source: str, metric: str, probe: str, budget: str | None = None
) -> pd.DataFrame:
    """The modules of a source as they ended, in the order of the study, with a result.

    Args:
        budget: A protocol; by default that of the main grid, all of them where each base has its own.
    """
    table = cells_of(summary, source=source, metric=metric, probe=probe, reading="module")
    if table.empty:
        return table
    if budget is None and table["base_name"].nunique() == 1:
        budget = main_budget(summary, source)
    table = table[table["mean"].notna()]
    return table if budget is None else table[table["budget"] == budget]


def by_protocol(
    summary: dict, source: str, lead: tuple[str, str], sentences: Callable[[dict, pd.DataFrame], list[str]]
) -> list[str]:
    """What is said of the modules of every protocol, that of the main grid first; the others are named before each sentence."""
    main = main_budget(summary, source)
    own = [c["budget"] for c in summary["cells"] if c["source"] == source and c["reading"] == "module"]
    found: list[str] = []
    for budget in dict.fromkeys([main, *own]):
        said = sentences(summary, modules_of(summary, source, *lead, budget))
        found += (
            said
            if budget == main
            else [f"{protocol_name(budget)}: {sentence[0].lower()}{sentence[1:]}" for sentence in said]
        )
    return found


def paired(summary: dict, a: str, b: str, metric: str, probe: str) -> tuple[float, float, float] | None:
    """(a - b, low, high) of two modules as tested fact by fact (`summary.pairs`); None where that pair was not tested."""
    for test in summary.get("pairs", ()):
        if test["metric"] == metric and test["probe"] == probe:
            if (test["cell"], test["against"]) == (a, b):
                return test["difference"], test["ci_low"], test["ci_high"]
            if (test["cell"], test["against"]) == (b, a):
                return -test["difference"], -test["ci_high"], -test["ci_low"]
    return None


def compared(summary: dict, a: pd.Series, b: pd.Series, what: str = "supervision") -> str | None:
    """`A 40.0 % [..] against B 30.0 % [..]: more (+10.0 points [..])`, of two modules on the same facts.

    Args:
        what: The column that names them.
    """
    found = paired(summary, a["cell"], b["cell"], a["metric"], a["probe"])
    if found is None:
        return None
    word = verb(found[1], found[2], "more", "less", "no clear difference")
    return f"{a[what]} {share(a)} against {b[what]} {share(b)}: {word} ({points(*found)})"


def clearly(summary: dict, a: pd.Series, b: pd.Series) -> str:
    """`more`, `less` or `open`: what the paired interval of a - b allows."""
    found = paired(summary, a["cell"], b["cell"], a["metric"], a["probe"])
    return "open" if found is None else verb(found[1], found[2], "more", "less", "open")


def steps(table: pd.DataFrame, name: str) -> list[pd.Series]:
    """The cells of one format in rising amount.

    >>> table = pd.DataFrame({"supervision": ["qa:40", "raw", "qa:10"]})
    >>> [cell["supervision"] for cell in steps(table, "qa")]
    ['qa:10', 'qa:40']
    """
    own = [
        (int(str(cell["supervision"]).partition(":")[2]), cell)
        for _, cell in table.iterrows()
        if str(cell["supervision"]).startswith(f"{name}:") and "+" not in str(cell["supervision"])
    ]
    return [cell for _, cell in sorted(own, key=lambda pair: pair[0])]


def shown(cell: pd.Series) -> str:
    """A score with its interval, in its own unit: points of 10 of a judge, else per cent."""
    if cell["metric"] == "judge":
        return f"{cell['mean']:.2f} [{cell['ci_low']:.2f}, {cell['ci_high']:.2f}] of 10"
    return f"{share(cell)} {str(cell['metric']).replace('_', ' ')}"


def beside(table: pd.DataFrame, column: str, printed: Sequence[tuple[str, str]]) -> tuple[Beside, ...]:
    """Published scores with ours, by what `column` says of a module; ours that the paper has none for, and the other way round, are left out.

    Args:
        table: Modules of one protocol, metric and wording.
        printed: (value of the column, what the paper prints) in the order of the rows.
    """
    found = {str(cell[column]): cell for _, cell in table.iterrows()}
    return tuple(Beside(name, paper, shown(found[name])) for name, paper in printed if name in found)
