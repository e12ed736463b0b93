"""Differences of cells that were asked the same facts: paired fact by fact, drawn by document where there are several."""

from __future__ import annotations

import pandas as pd

from loramem.metrics.paired import paired_difference


def drawn(items: pd.DataFrame) -> tuple[str, ...]:
    """What a bootstrap draws: facts, and whole documents as well where there are several.

    Facts of one document are alike in more than what is measured, so an interval over facts may be too narrow; an interval over
    two or three documents has hardly anything to draw from. Where both can be had, what is shown reaches from the lower
    to the higher end of the two.
    """
    return ("case", "document") if items["document"].nunique() > 1 else ("case",)


def scores_by_fact(items: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Score of each fact, mean over its items, for every (cell, metric, probe): a row per seed, columns (document, case)."""
    return {
        key: part.groupby(["seed", "document", "case"])["value"]
        .mean()
        .unstack(["document", "case"])
        .sort_index(axis=1)
        for key, part in items.dropna(subset=["value"]).groupby(["cell", "metric", "probe"], dropna=False)
    }


def shared_facts(a: pd.DataFrame, b: pd.DataFrame) -> pd.MultiIndex:
    """The facts that two cells of `scores_by_fact` share."""
    return a.columns.intersection(b.columns)  # type: ignore[return-value]


def difference_of(a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float, float, float]:
    """(mean a - b, 95 % low, high, p) over the facts that two cells of `scores_by_fact` share.

    Training seeds are paired where both have them; a cell that has one row (no module, or a control) is held against every
    seed of the other; cells of different seeds are compared by their means.
    """
    shared = shared_facts(a, b)
    a, b = a[shared], b[shared]
    if len(a) > 1 and len(b) > 1:
        both = a.index.intersection(b.index)
        a, b = (a.loc[both], b.loc[both]) if len(both) else (a.mean().to_frame().T, b.mean().to_frame().T)
    one, two = a.to_numpy(float), b.to_numpy(float)
    found = [paired_difference(one, two)]
    documents = list(shared.get_level_values("document"))
    if len(set(documents)) > 1:  # the wider of the two, as in `drawn`
        found.append(paired_difference(one, two, documents))
    return found[0][0], min(f[1] for f in found), max(f[2] for f in found), max(f[3] for f in found)
