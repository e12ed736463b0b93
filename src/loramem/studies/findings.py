"""What a study says: sentences that claim no more than the intervals allow, and which figures carry them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, resources

import pandas as pd


@dataclass(frozen=True)
class Beside:
    """One published number with ours: what it is of, what the paper prints, what was measured here."""

    label: str
    published: str
    ours: str


@dataclass(frozen=True)
class Findings:
    """The answer of a study.

    Attributes:
        answer: Sentences, the first one answers the question.
        published: What the paper reports for this question, for the reader to hold beside it.
        figures: (kind of figure in the report, source) that answer the question, first in the report.
        published_range: Per source the range of scores that the paper reports, drawn beside ours.
        beside: Published numbers, each with ours, where the paper prints any.
    """

    answer: tuple[str, ...]
    published: str = ""
    figures: tuple[tuple[str, str], ...] = ()
    published_range: dict[str, tuple[float, float]] = field(default_factory=dict)
    beside: tuple[Beside, ...] = ()


Analyse = Callable[[dict], Findings]
"""From summary.json to findings: the same function runs at the end of a run and on a committed summary."""


def analysis_of(study: str) -> Analyse | None:
    """The `analyse` of a shipped study's analysis.py; None for studies without one."""
    if not (resources.files("loramem.studies") / study / "analysis.py").is_file():
        return None
    return import_module(f"loramem.studies.{study}.analysis").analyse


def cells_of(summary: dict, **wanted: object) -> pd.DataFrame:
    """The cells of a summary, as they ended, that match every given column."""
    table = pd.DataFrame(summary["cells"])
    if table.empty:
        return table
    if "snapshot" in table:
        table = table[table["snapshot"].isna()]
    for key, value in wanted.items():
        table = table[table[key] == value]
    return table


def main_budget(summary: dict, source: str) -> str | None:
    """The protocol of a source's main grid: the one with most cells, the first of equals."""
    labels = [
        cell["budget"] for cell in summary["cells"]
        if cell["source"] == source and cell["reading"] == "module" and cell.get("snapshot") is None
    ]  # fmt: skip
    return max(dict.fromkeys(labels), key=labels.count) if labels else None


def protocol_name(budget: str) -> str:
    """A budget's label for people.

    >>> protocol_name("steps=400"), protocol_name("plateau<=60")
    ('fixed 400 steps', 'to a plateau (<= 60 exposures)')
    """
    if budget.startswith("steps="):
        return f"fixed {budget.removeprefix('steps=')} steps"
    if budget.startswith("exposures="):
        return f"constant {budget.removeprefix('exposures=')} exposures"
    return f"to a plateau (<= {budget.removeprefix('plateau<=')} exposures)"


def difference(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """b - a of two cells' means with a 95 % interval from theirs (MOVER, Newcombe 1998).

    Cells that share their facts are positively correlated, so this errs towards a wide interval.
    """
    mean = b["mean"] - a["mean"]
    low = mean - math.hypot(b["mean"] - b["ci_low"], a["ci_high"] - a["mean"])
    high = mean + math.hypot(b["ci_high"] - b["mean"], a["mean"] - a["ci_low"])
    return float(mean), float(low), float(high)


def points(mean: float, low: float, high: float) -> str:
    """A difference of shares in points.

    >>> points(0.1, 0.05, 0.151)
    '+10.0 points [+5.0, +15.1]'
    """
    return f"{100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def share(cell: pd.Series | dict) -> str:
    """A cell's mean and interval in per cent."""
    return f"{100 * cell['mean']:.1f} % [{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}]"


def verb(low: float, high: float, rises: str, falls: str, open_: str) -> str:
    """The word that an interval allows: one if it lies above zero, another below, the third where it holds zero.

    >>> verb(0.1, 0.2, "rises", "falls", "does not clearly change")
    'rises'
    """
    return rises if low > 0 else falls if high < 0 else open_


def listed(words: Sequence[object]) -> str:
    """`1, 2 and 4`.

    >>> listed([1, 2, 4]), listed([])
    ('1, 2 and 4', 'none')
    """
    parts = [str(word) for word in words]
    if not parts:
        return "none"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
