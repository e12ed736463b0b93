"""Differences of cells that were asked the same facts: paired fact by fact, drawn by document where there are several."""

from __future__ import annotations

import pandas as pd

from loramem.metrics.paired import paired_difference


def clustered_by(items: pd.DataFrame) -> str:
    """What is drawn by a bootstrap: documents, facts where all are of one document (facts of one document are alike in more
    than what is measured, so intervals over the facts of a few documents would be too narrow)."""
    return "document" if items["document"].nunique() > 1 else "case"


def means_by_fact(items: pd.DataFrame) -> dict[tuple, pd.Series]:
    """Mean score of each fact over seeds and items, by (document, case), for every (cell, metric, probe)."""
    return {
        key: part.groupby(["document", "case"])["value"].mean()
        for key, part in items.dropna(subset=["value"]).groupby(["cell", "metric", "probe"], dropna=False)
    }


def difference_of(a: pd.Series, b: pd.Series) -> tuple[float, float, float, float]:
    """(mean a - b, 95 % low, high, p) over the facts that two series of `means_by_fact` share."""
    shared = a.index.intersection(b.index)
    documents = list(shared.get_level_values("document"))
    clusters = documents if len(set(documents)) > 1 else None
    return paired_difference(a[shared].to_numpy(float), b[shared].to_numpy(float), clusters)
