"""From scored items to summary.json: means with intervals per cell, paired comparisons, verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from loramem.core.identity import seed_from
from loramem.metrics.edits import harmonic_mean
from loramem.metrics.intervals import bootstrap_means, mean_interval
from loramem.metrics.paired import holm, paired_difference
from loramem.metrics.scorers import METRICS
from loramem.studies.expectations import SELECTABLE, Expectation, judge

AGAINST = ("closed", "wrong-module", "icl")


def _grid(items: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sums and counts of scored items, `[seeds, facts]`, and the facts' names."""
    scored = items.dropna(subset=["value"])
    sums = scored.pivot_table(index="seed", columns="case", values="value", aggfunc="sum", fill_value=0.0)
    counts = scored.pivot_table(index="seed", columns="case", values="value", aggfunc="count", fill_value=0)
    return sums.to_numpy(float), counts.to_numpy(float), list(sums.columns)


def _rng(*parts: str) -> np.random.Generator:
    """A generator that depends on what is computed, so that a report drawn again says the same."""
    return np.random.default_rng(seed_from("summary", *parts))


def cell_rows(rows: pd.DataFrame, items: pd.DataFrame) -> list[dict]:
    """Per cell, metric and probe: mean, 95 % interval, seeds, n, n_failed, and bounds where items failed."""
    found = []
    keys = ["cell", "metric", "probe"]
    grouped_items = dict(list(items.groupby(keys, dropna=False, sort=False)))
    for key, group in rows.groupby(keys, dropna=False, sort=False):
        cell, metric, probe = (None if _plain(part) is None else str(part) for part in key)
        assert cell is not None and metric is not None, key
        first = group.iloc[0]
        own = grouped_items.get(key)
        row = {name: _plain(first[name]) for name in SELECTABLE if name in group}
        row.update(
            cell=cell,
            metric=metric,
            probe=probe,
            seeds=int(group["seed"].nunique()) or 1,
            n=int(group["n_scored"].sum()),
            n_failed=int(group["n_failed"].sum()),
        )
        if own is None:  # a derived metric: its rows hold one value per seed
            row.update(_derived(cell, metric, group, items))
        else:
            sums, counts, _ = _grid(own)
            binary = bool(own["value"].dropna().isin((0.0, 0.5, 1.0)).all())
            mean, low, high = (
                mean_interval(sums, counts, binary=binary, rng=_rng(cell, str(metric), str(probe)))
                if sums.size
                else (math.nan,) * 3
            )
            row.update(mean=mean, ci_low=low, ci_high=high, facts=int(own["case"].nunique()))
            if row["n_failed"]:
                total = row["n"] + row["n_failed"]
                row.update(
                    bound_low=float(sums.sum() / total),
                    bound_high=float((sums.sum() + row["n_failed"]) / total),
                )
        found.append(row)
    return found


def _derived(cell: str, metric: str, group: pd.DataFrame, items: pd.DataFrame) -> dict:
    """Harmonic mean of the parts; its interval from joint bootstraps of the parts over the same facts' draws."""
    parts = METRICS.get(metric).derived_from
    means, draws = [], []
    for part in parts:
        own = items[(items["cell"] == cell) & (items["metric"] == part)]
        if own["value"].notna().sum() == 0:
            return {"mean": math.nan, "ci_low": math.nan, "ci_high": math.nan, "facts": 0}
        sums, counts, _ = _grid(own)
        means.append(float(sums.sum() / counts.sum()))
        draws.append(bootstrap_means(sums, counts, _rng(cell, part)))
    scores = [
        harmonic_mean(list(draw))
        for draw in zip(*(draw[: min(map(len, draws))] for draw in draws), strict=True)
    ]
    low, high = np.quantile(scores, [0.025, 0.975])
    return {
        "mean": harmonic_mean(means),
        "ci_low": float(low),
        "ci_high": float(high),
        "facts": int(items[items["cell"] == cell]["case"].nunique()),
    }


def comparisons(rows: pd.DataFrame, items: pd.DataFrame, metrics: Sequence[str]) -> list[dict]:
    """Module against closed, wrong-module and icl on the same facts; p-values adjusted over all of them (Holm)."""
    cells = rows.drop_duplicates(["cell", "metric", "probe"])
    by_cell = {
        key: part.groupby("case")["value"].mean()
        for key, part in items.dropna(subset=["value"]).groupby(["cell", "metric", "probe"], dropna=False)
    }
    found = []
    modules = cells[(cells["reading"] == "module") & cells["metric"].isin(metrics)]
    for _, mine in modules.iterrows():
        for other in AGAINST:
            match = cells[
                (cells["reading"] == other)
                & (cells["source"] == mine["source"])
                & (cells["size_tokens"] == mine["size_tokens"])
                & (cells["metric"] == mine["metric"])
                & (cells["probe"] == mine["probe"])
            ]
            if other == "wrong-module":
                match = match[match["cell"] == mine["cell"].removesuffix("-module") + "-wrong-module"]
            for _, theirs in match.iterrows():
                a = by_cell.get((mine["cell"], mine["metric"], mine["probe"]))
                b = by_cell.get((theirs["cell"], theirs["metric"], theirs["probe"]))
                if a is None or b is None:
                    continue
                shared = a.index.intersection(b.index)
                if len(shared) == 0:
                    continue
                mean, low, high, p = paired_difference(
                    a[shared].to_numpy(float),
                    b[shared].to_numpy(float),
                    _rng(mine["cell"], theirs["cell"], mine["metric"]),
                )
                found.append(
                    {
                        "cell": mine["cell"],
                        "against": theirs["cell"],
                        "metric": mine["metric"],
                        "probe": _plain(mine["probe"]),
                        "facts": len(shared),
                        "difference": mean,
                        "ci_low": low,
                        "ci_high": high,
                        "p": p,
                    }
                )
    for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = adjusted
    return found


def summarise(
    rows: pd.DataFrame, items: pd.DataFrame, expect: Sequence[Expectation], *, metrics: Sequence[str]
) -> dict:
    """The content of summary.json; every number is a float or null, never NaN."""
    cells = cell_rows(rows, items)
    table = pd.DataFrame(cells)
    compared = comparisons(rows, items, metrics)
    verdicts = (
        [judge(expectation, table) for expectation in expect]
        if len(table)
        else [
            {"claim": e.claim, "verdict": "undecided", "reason": "no cell has a result", "cells": []}
            for e in expect
        ]
    )
    return _clean(
        {
            "cells": cells,
            "comparisons": {"made": len(compared), "adjustment": "Holm", "tests": compared},
            "verdicts": verdicts,
        }
    )  # type: ignore[return-value]


def _plain(value):
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return None
    return value.item() if isinstance(value, np.generic) else value


def _clean(value):
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return _plain(value)
