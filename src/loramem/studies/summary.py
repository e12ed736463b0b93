"""From scored items to summary.json: means with intervals per cell, paired comparisons, verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from loramem.answering.readings import STEMS
from loramem.metrics.edits import harmonic_mean
from loramem.metrics.intervals import bootstrap_means, bounds, mean_interval
from loramem.metrics.paired import holm
from loramem.metrics.scorers import METRICS
from loramem.studies.expectations import SELECTABLE, Expectation, judge
from loramem.studies.knowledge import gains, knowledge
from loramem.studies.pairing import difference_of, drawn, scores_by_fact, shared_facts

AGAINST = ("closed", "wrong-module", "random-module", "icl", "rag")
COMPARED = (
    "exact_match", "efficacy", "paraphrase", "neighbourhood", "token_f1", "rouge_l", "judge", "accuracy", "accuracy_hard"
)  # fmt: skip
"""Metrics whose differences are tested: few planned tests, so that correcting for their number costs little."""


Groups = dict[tuple, pd.DataFrame]


def scores_grid(items: pd.DataFrame, by: str = "case") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Sums and counts of scored items, `[seeds, units]`, and the units' names: facts (`case`) or documents."""
    scored = items[items["value"].notna()]
    seed_I, seeds = pd.factorize(scored["seed"], sort=True)
    case_I, cases = pd.factorize(scored[by])
    sums, counts = np.zeros((len(seeds), len(cases))), np.zeros((len(seeds), len(cases)))
    np.add.at(sums, (seed_I, case_I), scored["value"].to_numpy(float))
    np.add.at(counts, (seed_I, case_I), 1.0)
    return sums, counts, list(cases)


def interval_of(items: pd.DataFrame, most: float | None) -> tuple[float, float, float]:
    """(mean, low, high) of scored items between 0 and `most` (None: no limit, so no proportion); the wider interval of facts and
    documents (`pairing.drawn`)."""
    highest = most or 1.0
    binary = most is not None and bool((items["value"].dropna() / highest).isin((0.0, 0.5, 1.0)).all())
    found = []
    for by in drawn(items):
        sums, counts, _ = scores_grid(items, by)
        if sums.size == 0:
            return (math.nan,) * 3
        found.append(mean_interval(sums / highest, counts, binary=binary))
        if found[0][0] in (0.0, 1.0):
            break  # all alike: nothing varies between documents, and Wilson over so few of them would say nothing
    return highest * found[0][0], highest * min(f[1] for f in found), highest * max(f[2] for f in found)


def cell_rows(rows: pd.DataFrame, items: pd.DataFrame) -> list[dict]:
    """Per cell, metric and probe: mean, 95 % interval, seeds, n, n_failed, and bounds where items failed."""
    found = []
    keys = ["cell", "metric", "probe"]
    grouped: Groups = dict(list(items.groupby(keys, dropna=False, sort=False)))
    for key, group in rows.groupby(keys, dropna=False, sort=False):
        cell, metric, probe = (None if _plain(part) is None else str(part) for part in key)
        assert cell is not None and metric is not None, key
        first = group.iloc[0]
        own = grouped.get(key)
        row = {name: _plain(first[name]) for name in SELECTABLE if name in group}
        for name in ("steps", "exposures"):  # a module that ends early ends at a step of its own
            if name in group and group[name].notna().any():
                row[name] = round(float(group[name].mean()), 2)
        row.update(
            cell=cell,
            metric=metric,
            probe=probe,
            seeds=int(group["seed"].nunique()) or 1,
            n=int(group["n_scored"].sum()),
            n_failed=int(group["n_failed"].sum()),
        )
        if own is None:  # a derived metric: its rows hold one value per seed
            row.update(_derived(cell, metric, grouped))
        else:
            highest = METRICS.get(metric).highest
            mean, low, high = interval_of(own, highest)
            facts = int(own["case"].nunique())
            times = (
                facts if METRICS.get(metric).total else 1
            )  # a sum over facts is their mean times their number
            row.update(mean=times * mean, ci_low=times * low, ci_high=times * high, facts=facts)
            if row["n_failed"] and highest is not None:
                _, low, high = bounds(list(own["value"]), 0.0, highest)
                row.update(bound_low=low, bound_high=high)
        found.append(row)
    return found


def level_rows(items: pd.DataFrame) -> list[dict]:
    """Means and intervals by the level of the question (recall, comprehension, ...), where there are several levels."""
    found = []
    for keys, group in items.groupby(["cell", "metric", "probe"], sort=False):
        if group["level"].nunique() < 2:
            continue
        for level, own in group.groupby("level", sort=False):
            mean, low, high = interval_of(own, METRICS.get(str(keys[1])).highest)
            if math.isnan(mean):
                continue
            found.append({
                **dict(zip(("cell", "metric", "probe"), keys, strict=True)), "level": level, "mean": mean, "ci_low": low,
                "ci_high": high, "n": int(own["value"].notna().sum()), "n_failed": int(own["value"].isna().sum()),
            })  # fmt: skip
    return found


def _derived(cell: str, metric: str, grouped: Groups) -> dict:
    """Harmonic mean of the parts; its interval from joint bootstraps of the parts over the same facts' draws."""
    means, draws, cases = [], [], set()
    for part in METRICS.get(metric).derived_from:
        own = next(found for key, found in grouped.items() if key[:2] == (cell, part))
        if own["value"].notna().sum() == 0:
            return {"mean": math.nan, "ci_low": math.nan, "ci_high": math.nan, "facts": 0}
        sums, counts, facts = scores_grid(own)
        cases.update(facts)
        means.append(float(sums.sum() / counts.sum()))
        draws.append(bootstrap_means(sums, counts))
    scores = [harmonic_mean(list(draw)) for draw in np.stack(draws, axis=1) if np.isfinite(draw).all()]
    low, high = np.quantile(scores, [0.025, 0.975])
    return {"mean": harmonic_mean(means), "ci_low": float(low), "ci_high": float(high), "facts": len(cases)}


def comparisons(rows: pd.DataFrame, items: pd.DataFrame, metrics: Sequence[str]) -> list[dict]:
    """Every module as it ended against the other readings of the same facts, every reading of many modules against those it is
    made of (`counterparts`), and modules of one partition against those of another; p-values adjusted over all (Holm)."""
    cells = rows.drop_duplicates(["cell", "metric", "probe"])
    means = scores_by_fact(items)
    tested = cells[
        cells["metric"].isin([metric for metric in metrics if metric in COMPARED]) & cells["snapshot"].isna()
    ]
    found = []
    for _, group in tested.groupby(PLACE, sort=False, dropna=False):
        own = [cell for _, cell in group.iterrows()]
        for number, mine in enumerate(own):
            for other, theirs in enumerate(own):
                if other != number and counterpart(mine, theirs, later=number > other):
                    found += _tested(mine, theirs, means)
        found += [row for mine, first in _variants(own) for row in _tested(mine, first, means)]
    return _adjusted(found)


def counterpart(mine: pd.Series, theirs: pd.Series, *, later: bool) -> bool:
    """Whether a reading of the same questions is what another is held against.

    Args:
        later: `mine` stands after `theirs`; of two that are held against each other only one difference is taken.
    """
    a, b = STEMS.get(str(mine["reading"])), STEMS.get(str(theirs["reading"]))
    if a.which not in ("own", "pool"):
        return False
    same_context = a.context == b.context
    if b.which == "none":
        if a.name == "module":
            return b.name in AGAINST
        # with a context: against that context alone; without one: against the base alone
        return same_context and _plain(mine["retriever"]) == _plain(theirs["retriever"])
    if b.control:
        plain = a.name == "module" and same_context
        return plain and theirs["cell"] == f"{mine['cell'].removesuffix('-module')}-{theirs['reading']}"
    if mine["partition"] != theirs["partition"] and a.which == "pool" and b.which == "own":
        # many modules behind a router against one module of a coarser part
        alike = _values(mine, ["supervision", "generator", "module_on", "retriever"])
        return same_context and alike == _values(
            theirs, ["supervision", "generator", "module_on", "retriever"]
        )
    if mine["partition"] != theirs["partition"]:  # single against multi, read in the same way
        return later and _values(mine, READ) == _values(theirs, READ) and same_context and a.which == b.which
    if _values(mine, MADE) != _values(theirs, MADE):
        return False
    if not same_context:  # what a context adds to the same modules
        return (
            b.context == "none"
            and _values(mine, CHOSEN_BY) == _values(theirs, CHOSEN_BY)
            and a.which == b.which
        )
    if a.which == "pool" and b.which == "own":
        return True
    if a.merges and not b.merges:
        return b.which == "pool" and mine["router"] == theirs["router"]
    if a.name != b.name or not later:
        return False
    if a.merges:  # the same rule over another number of modules, or on updates in place of factors
        rules = [str(cell["merge"]).replace("-factors", "").replace("-delta", "") for cell in (mine, theirs)]
        equal = [mine[name] == theirs[name] for name in ("router", "top_k", "merge", "module_on")]
        return rules[0] == rules[1] and equal in ([True, False, True, True], [True, True, False, True])
    # the same modules in another way: switched on elsewhere, chosen by another router
    return bool(mine["cell"] != theirs["cell"])


def _variants(cells: Sequence[pd.Series]) -> list[tuple[pd.Series, pd.Series]]:
    """(cell, first cell read in the same way, of the same partition and supervision) where one of `ASPECTS` differs and nothing
    else; and two such cells whose same aspect is one of `OPPOSED`."""
    found = []
    opposed: dict[tuple, list[pd.Series]] = {}
    firsts: dict[tuple[str, ...], pd.Series] = {}
    for cell in cells:
        if STEMS.get(str(cell["reading"])).which not in ("own", "pool"):
            continue
        first = firsts.setdefault(_values(cell, ["partition", *READ]), cell)
        rest = [name for name in MADE if name not in ASPECTS]
        differing = [name for name in ASPECTS if str(cell[name]) != str(first[name])]
        if len(differing) != 1 or _values(cell, rest) != _values(first, rest):
            continue
        found.append((cell, first))
        if str(cell[differing[0]]) in OPPOSED:
            others = opposed.setdefault((differing[0], *_values(cell, ["partition", *READ])), [])
            found += [(cell, other) for other in others]
            others.append(cell)
    return found


def _tested(mine: pd.Series, theirs: pd.Series, means: dict[tuple, pd.DataFrame]) -> list[dict]:
    """The paired test of two cells on the facts they share; nothing where they share none."""
    a, b = (means.get((cell["cell"], cell["metric"], cell["probe"])) for cell in (mine, theirs))
    if a is None or b is None or not len(facts := shared_facts(a, b)):
        return []
    mean, low, high, p = difference_of(a, b)
    return [{
        "cell": mine["cell"], "against": theirs["cell"], "metric": mine["metric"], "probe": _plain(mine["probe"]),
        "facts": len(facts), "difference": mean, "ci_low": low, "ci_high": high, "p": p,
    }]  # fmt: skip


def _adjusted(tests: list[dict]) -> list[dict]:
    for row, adjusted in zip(tests, holm([row["p"] for row in tests]), strict=True):
        row["p_holm"] = adjusted
    return tests


def pairs(rows: pd.DataFrame, items: pd.DataFrame, metrics: Sequence[str]) -> list[dict]:
    """Every two modules that differ in their supervision alone, or in their base alone, on the same facts (questions 4 to 7);
    p-values adjusted over all of them (Holm). Settings that were chosen for each base (rate, budget) may differ with it."""
    cells = rows.drop_duplicates(["cell", "metric", "probe"])
    cells = cells[
        (cells["reading"] == "module") & cells["snapshot"].isna()
        & cells["metric"].isin([metric for metric in metrics if metric in COMPARED])
    ]  # fmt: skip
    means = scores_by_fact(items)
    found = []
    for _, group in cells.groupby(["source", "metric", "probe"], sort=False):
        own = [cell for _, cell in group.iterrows()]
        for number, later in enumerate(own):
            for earlier in own[:number]:
                same_base = later["base_name"] == earlier["base_name"]
                same_supervision = _values(later, SUPERVISION) == _values(earlier, SUPERVISION)
                columns = [*SAME, *CHOSEN] if same_base else SAME
                if same_base != same_supervision and _values(later, columns) == _values(earlier, columns):
                    found += _tested(later, earlier, means)
    return _adjusted(found)


ASPECTS = ("targets", "layers", "variant", "objective", "distractors")
"""What an ablation changes, one at a time."""
OPPOSED = ("attention", "mlp", "first-half", "second-half", "dora", "pissa")
"""Values of an aspect that are held against each other too."""
READ = [
    "reading",
    "router",
    "merge",
    "top_k",
    "adaptive",
    "module_on",
    "retriever",
    "supervision",
    "generator",
]
CHOSEN_BY = ["router", "merge", "top_k", "adaptive", "module_on"]
MADE = [
    "partition", "supervision", "generator", "rank", "alpha", "targets", "layers", "variant", "objective", "budget", "lr",
    "distractors",
]  # fmt: skip
PLACE = ["source", "size_tokens", "base_name", "metric", "probe"]
"""Columns that say what was asked of which base: readings are compared within them."""
SUPERVISION = ["supervision", "generator"]
SAME = ["size_tokens", "partition", "rank", "alpha", "targets", "layers", "variant", "objective"]
CHOSEN = ["budget", "lr"]
"""Columns in which modules must be equal to be compared across supervisions or bases; the last two only on one base."""


def _values(cell: pd.Series, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(cell[name]) for name in columns)


def summarise(
    rows: pd.DataFrame, items: pd.DataFrame, expect: Sequence[Expectation], *, metrics: Sequence[str]
) -> dict:
    """The content of summary.json; every number is a float or null, never NaN."""
    cells = cell_rows(rows, items)
    table = pd.DataFrame(cells)
    compared = comparisons(rows, items, metrics)
    verdicts = (
        [judge(expectation, table, items) for expectation in expect]
        if len(table)
        else [
            {"claim": e.claim, "verdict": "undecided", "reason": "no cell has a result", "cells": []}
            for e in expect
        ]
    )
    return clean(
        {
            "cells": cells,
            "levels": level_rows(items),
            "comparisons": {"made": len(compared), "adjustment": "Holm", "tests": compared},
            "pairs": pairs(rows, items, metrics),
            "knowledge": knowledge(table.drop_duplicates("cell"), items) if len(table) else [],
            "gains": gains(table, items, metrics) if len(table) else [],
            "verdicts": verdicts,
        }
    )  # type: ignore[return-value]


def _plain(value):
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def clean(value):
    """Plain JSON values: NaN and NA are null."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return _plain(value)
