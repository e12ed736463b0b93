"""Expectations, written before the first full run, and the verdict the intervals allow."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
from pydantic import Field, field_validator, model_validator

from loramem.core.config import Config
from loramem.core.errors import nearest
from loramem.core.shown import quoted
from loramem.metrics.scorers import METRICS
from loramem.studies.latency import LATENCY_METRICS
from loramem.studies.pairing import difference_of, scores_by_fact

SELECTABLE = (
    "source", "size_tokens", "rank", "alpha", "targets", "layers", "lr", "exposures", "objective", "reading", "probe",
    "partition", "supervision", "steps", "variant", "budget", "snapshot", "retriever", "generator", "base_name",
    "base_parameters", "supervision_tokens", "examples", "n_modules", "router", "merge", "top_k", "pool", "pool_size", "passages_k",
    "module_on", "distractors", "adaptive", "parameters", "asked",
)  # fmt: skip
EXTREMES = ("smallest", "largest")
BY_CONSTRUCTION = "by construction"
VERDICTS = ("agrees", "disagrees", "undecided", BY_CONSTRUCTION)
Selector = dict[str, Any]


class Expectation(Config):
    """A claim about one metric: a difference between two cells, or a bound on one."""

    claim: str
    metric: str
    probe: str = "trained"
    """Which probes; the metrics `paraphrase` and `neighbourhood` choose their own."""
    compare: tuple[Selector, Selector] | None = None
    """Cells A and B: the claim holds if mean(B) - mean(A) is at least `margin` (above 0 where that is 0). `[largest, smallest]` is short
    for the largest and the smallest size, both at the lowest rank, read with the module."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    at: Selector | None = None
    """One cell, for the bounds."""
    at_least: float | None = None
    at_most: float | None = None
    by_construction: bool = False
    """The claim follows from how the measurement is made: where it holds, the verdict says so and counts as no evidence."""

    @field_validator("compare", mode="before")
    @classmethod
    def _short(cls, value):
        if isinstance(value, list | tuple) and len(value) == 2 and all(item in EXTREMES for item in value):
            return tuple({"size_tokens": item, "rank": "smallest", "reading": "module"} for item in value)
        return value

    @model_validator(mode="after")
    def _whole(self):
        if self.metric not in METRICS and self.metric not in LATENCY_METRICS:
            raise ValueError(
                f"unknown metric {quoted(self.metric)}; {nearest(self.metric, [*METRICS, *LATENCY_METRICS])}"
            )
        if (self.compare is None) == (self.at is None):
            raise ValueError("give compare (two cells) or at (one cell)")
        if self.at is not None and (self.at_least is None) == (self.at_most is None):
            raise ValueError("a bound needs at_least or at_most")
        for selector in [*(self.compare or ()), *([self.at] if self.at else [])]:
            for key, value in selector.items():
                if key not in SELECTABLE:
                    raise ValueError(
                        f"selector key {quoted(key)} is no column of the results; {nearest(key, SELECTABLE)}"
                    )
                if not isinstance(value, str | int | float | None):
                    raise ValueError(f"selector {key}: expected one value, not {quoted(value)}")
            if "asked" in selector and self.metric not in LATENCY_METRICS:
                raise ValueError(
                    f"selector key 'asked' belongs to {', '.join(LATENCY_METRICS)}, not to {self.metric!r}"
                )
        return self


def select(cells: pd.DataFrame, selector: Selector) -> pd.DataFrame:
    """Cells (rows of per-cell means) that match; `smallest` and `largest` are taken last, among what matches, and of
    the rank before anything else: the largest size is then the largest that this rank has."""
    found = cells
    for key, value in selector.items():
        if value is None:  # asked for a column that does not apply
            found = found[found[key].isna()]
        elif value not in EXTREMES:
            numeric = isinstance(value, int | float) and pd.api.types.is_numeric_dtype(found[key])
            found = found[found[key] == value] if numeric else found[found[key].astype(str) == str(value)]
    for key, value in sorted(selector.items(), key=lambda item: item[0] != "rank"):
        if value in EXTREMES and found[key].notna().any():
            edge = found[key].min() if value == "smallest" else found[key].max()
            found = found[found[key] == edge]
    return found


def judge(expectation: Expectation, cells: pd.DataFrame, items: pd.DataFrame | None = None) -> dict:
    """Verdict `agrees`, `disagrees` or `undecided` from intervals, never from means alone; `by construction` where a claim that
    follows from the measurement holds.

    A difference of two cells that were asked the same facts is tested fact by fact; of others, from their two intervals.

    Args:
        cells: One row per cell and metric with columns of `SELECTABLE` and cell, metric, mean, ci_low, ci_high, n, seeds.
        items: Scored items, for paired differences.
    """
    known = cells[cells["metric"] == expectation.metric]
    selectors = list(expectation.compare or (expectation.at,))
    chosen = []
    for selector in selectors:
        assert selector is not None
        own = known
        if "probe" not in selector and (known["probe"] == expectation.probe).any():
            own = known[known["probe"] == expectation.probe]  # a metric of one phrasing needs no choice
        match = select(own, selector)
        if len(match) > 1 and "module_on" not in selector:
            match = match[match["module_on"].isna() | (match["module_on"] == "all")]
        if len(match) > 1 and "distractors" not in selector:
            match = match[match["distractors"].isna()]
        if len(match) > 1 and "budget" not in selector:
            # of several protocols the study's own, not those of its contrasts
            main = cells["budget"].dropna()
            match = match[match["budget"].isna() | (match["budget"] == main.iloc[0])] if len(main) else match
        if len(match) != 1:
            reason = (
                "no such cell"
                if match.empty
                else f"{len(match)} cells match; name more of {', '.join(SELECTABLE[:8])}"
            )
            return {
                "claim": expectation.claim,
                "verdict": "undecided",
                "reason": f"{reason}: {selector}",
                "cells": [],
            }
        chosen.append(match.iloc[0])
    shown = [
        {
            "cell": row["cell"],
            "metric": row["metric"],
            "mean": row["mean"],
            "ci_low": row["ci_low"],
            "ci_high": row["ci_high"],
            "n": int(row["n"]),
            "seeds": int(row["seeds"]),
        }
        for row in chosen
    ]
    if any(pd.isna(row["mean"]) for row in chosen):
        return {
            "claim": expectation.claim,
            "verdict": "undecided",
            "reason": "a cell has no scored item",
            "cells": shown,
        }
    if expectation.at is not None:
        row = chosen[0]
        if expectation.at_least is not None:
            low, high, bound = row["ci_low"], row["ci_high"], expectation.at_least
            text = f"{row['mean']:.3f} [{low:.3f}, {high:.3f}] against at least {bound:g}"
        else:
            assert expectation.at_most is not None
            low, high, bound = -row["ci_high"], -row["ci_low"], -expectation.at_most
            text = f"{row['mean']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}] against at most {expectation.at_most:g}"
    else:
        a, b = chosen
        difference, low, high, how = _difference(a, b, items)
        bound = expectation.margin
        text = f"difference {difference:+.3f} [{low:+.3f}, {high:+.3f}]{how} against at least {bound:g}"
    # without a margin the claim is that there is a difference at all: an interval that begins at 0 leaves that open
    strict = expectation.compare is not None and bound == 0 and not expectation.by_construction
    holds = low > bound if strict else low >= bound
    verdict = "agrees" if holds else "disagrees" if high < bound else "undecided"
    if verdict == "agrees" and expectation.by_construction:
        verdict = BY_CONSTRUCTION
    return {"claim": expectation.claim, "verdict": verdict, "reason": text, "cells": shown}


def _difference(a: pd.Series, b: pd.Series, items: pd.DataFrame | None) -> tuple[float, float, float, str]:
    """(b - a, low, high, how it was paired) of two cells."""
    if items is not None:
        chosen = items[items["cell"].isin([a["cell"], b["cell"]]) & (items["metric"] == a["metric"])]
        means = scores_by_fact(chosen)
        one, two = (means.get((row["cell"], row["metric"], row["probe"])) for row in (a, b))
        if one is not None and two is not None and set(one.columns) == set(two.columns):
            facts = one.shape[1]
            # a metric that is a sum over facts differs by as many times the mean difference of a fact
            times = facts if a["metric"] in METRICS and METRICS.get(str(a["metric"])).total else 1
            mean, low, high, _ = (times * value for value in difference_of(two, one))
            return mean, low, high, f", paired over {facts} facts"
    # MOVER (Newcombe 1998): the interval of a difference from the intervals of its two independent parts
    difference = b["mean"] - a["mean"]
    low = difference - ((b["mean"] - b["ci_low"]) ** 2 + (a["ci_high"] - a["mean"]) ** 2) ** 0.5
    high = difference + ((b["ci_high"] - b["mean"]) ** 2 + (a["mean"] - a["ci_low"]) ** 2) ** 0.5
    return difference, low, high, ""
