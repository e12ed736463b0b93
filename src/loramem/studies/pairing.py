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


def means_by_fact(items: pd.DataFrame) -> dict[tuple, pd.Series]:
    """Mean score of each fact over seeds and items, by (document, case), for every (cell, metric, probe)."""
    return {
        key: part.groupby(["document", "case"])["value"].mean()
        for key, part in items.dropna(subset=["value"]).groupby(["cell", "metric", "probe"], dropna=False)
    }


def difference_of(a: pd.Series, b: pd.Series) -> tuple[float, float, float, float]:
    """(mean a - b, 95 % low, high, p) over the facts that two series of `means_by_fact` share."""
    shared = a.index.intersection(b.index)
    one, two = a[shared].to_numpy(float), b[shared].to_numpy(float)
    found = [paired_difference(one, two)]
    documents = list(shared.get_level_values("document"))
    if len(set(documents)) > 1:  # the wider of the two, as in `drawn`
        found.append(paired_difference(one, two, documents))
    return found[0][0], min(f[1] for f in found), max(f[2] for f in found), max(f[3] for f in found)
