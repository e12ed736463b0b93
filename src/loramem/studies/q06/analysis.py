"""Q6, does the scale of the base matter? Bases of one family, each at settings of its own."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Beside, Findings, cells_of, share
from loramem.studies.supervised import compared, leading, modules_of, shown

PUBLISHED = (
    "Paper (PaperQA, judged 0 to 10, one seed, each base with its own rate x steps search, made on the test questions): Qwen3 "
    "0.6/1.7/4/8/14B give 3.51, 4.58, 4.32, 4.65, 5.12."
)
PRINTED = ("Qwen3-0.6B 3.51", "1.7B 4.58", "4B 4.32", "8B 4.65", "14B 5.12")
"""Points of 10."""
SOURCE = "papers"


def analyse(summary: dict) -> Findings:
    """Each base against the next smaller one, the largest against the smallest, and what the bases read in a context."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    table = modules_of(summary, SOURCE, *lead).sort_values("base_parameters")
    cells = [cell for _, cell in table.iterrows()]
    pairs = list(zip(cells[1:], cells, strict=False))
    if len(cells) > 2:
        pairs.insert(0, (cells[-1], cells[0]))
    answer = [f"{text}." for b, a in pairs if (text := compared(summary, b, a, "base_name"))]
    for row in summary["sweeps"]:
        edge = ", at the edge of what was tried" if row["at_edge"] else ""
        answer.append(
            f"{row['base']}: rate {row['lr']:g} and {row['budget']} were chosen on the dev split{edge}."
        )
    context = cells_of(summary, source=SOURCE, metric=lead[0], probe=lead[1], reading="icl")
    for _, cell in context.sort_values("base_parameters").iterrows() if len(context) else ():
        answer.append(
            f"With the documents in the context, as far as they fit, {cell['base_name']} gives {share(cell)}."
        )
    return Findings(tuple(answer), PUBLISHED, (("by_base", SOURCE),), beside=_beside(cells))


def _beside(cells: list[pd.Series]) -> tuple[Beside, ...]:
    """Bases have no partner in the paper: all of each in order of size, and both ends."""
    if not cells:
        return ()
    ours = [f"{cell['base_name']} {shown(cell)}" for cell in cells]
    return (
        Beside("smallest base", f"{PRINTED[0]} of 10", ours[0]),
        Beside("largest base", f"Qwen3-{PRINTED[-1]} of 10", ours[-1]),
        Beside("all, by size", "; ".join(PRINTED), "; ".join(ours)),
    )
