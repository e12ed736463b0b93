"""Results of a made-up study, for tests of summaries, capacity tables, findings and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from loramem.core.config import parse
from loramem.studies.capacity import capacity
from loramem.studies.expectations import Expectation
from loramem.studies.results import COLUMNS
from loramem.studies.study_file import CapacityChoice
from loramem.studies.summary import clean, summarise

BITS = 10.0
"""Entropy of one made-up answer."""
MAIN = "exposures=20"
Shares = Mapping[tuple[str, int, int], float]


def results(
    share: Shares,
    *,
    seeds: int = 2,
    facts: int = 60,
    failed: int = 0,
    source: str = "phonebook",
    budget: str = MAIN,
    nll: Mapping[tuple[str, int, int], float] | None = None,
):
    """Rows and items of a made-up study: `share` gives accuracy by (reading, rank, size).

    Args:
        failed: Items of every module cell that could not be scored.
        budget: Protocol of the modules; another than the main one is named in the cell.
        nll: Loss on the answers by the same keys; bits are then stored where the answer is right.
    """
    rng = np.random.default_rng(0)
    rows, items = [], []
    for (reading, rank, size), mean in share.items():
        cell = f"{source}-{size}" + (f"-r{rank}" if rank else "") + f"-{reading}"
        if rank and budget != MAIN:
            cell = cell.replace(f"-r{rank}", f"-r{rank}-{budget}")
        for seed in range(seeds if reading == "module" else 1):
            values = (rng.permutation(facts) < round(mean * facts)).astype(float)
            values[: failed if reading == "module" else 0] = np.nan
            row = dict.fromkeys(COLUMNS)
            row |= {
                "cell": cell, "source": source, "size_tokens": size, "rank": rank or None,
                "seed": seed if reading == "module" else None, "reading": reading, "probe": "trained",
            }  # fmt: skip
            if rank:
                row |= {
                    "budget": budget, "targets": "all-linear", "layers": "all", "variant": "lora", "exposures": 20.0,
                    "steps": size // 10, "ended": "steps",
                }  # fmt: skip
            scores = {"exact_match": values}
            if nll is not None and (reading, rank, size) in nll:
                scores["answer_nll"] = np.full(facts, nll[reading, rank, size])
                scores["bits_stored"] = BITS * values
            for metric, scored in scores.items():
                good = int(np.isfinite(scored).sum())
                value = np.nan if not good else np.nansum(scored) / (1 if metric == "bits_stored" else good)
                rows.append(
                    row | {"metric": metric, "value": value, "n_scored": good, "n_failed": facts - good}
                )
                items += [
                    {
                        "cell": cell, "seed": seed if reading == "module" else -1, "metric": metric, "probe": "trained",
                        "case": str(i), "document": "d", "level": "", "value": v,
                    }
                    for i, v in enumerate(scored)
                ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["rank"] = frame["rank"].astype("Int64")
    return frame, pd.DataFrame(items)


GRID = {
    ("module", 1, 250): 1.0,
    ("module", 1, 1000): 0.1,
    ("module", 4, 250): 1.0,
    ("module", 4, 1000): 0.5,
    ("closed", 0, 250): 0.0,
    ("closed", 0, 1000): 0.0,
}


def modules(
    share: Shares, *, budget: str = MAIN, seeds: int = 2, ended: str = "steps", cause: str = "capacity", facts: int = 60
) -> pd.DataFrame:  # fmt: skip
    """What `studies.capacity.module_facts` says of the modules of `share`: 100 parameters a rank."""
    return pd.DataFrame([
        {
            "source": "phonebook", "size_tokens": size, "budget": budget, "targets": "all-linear", "layers": "all",
            "variant": "lora", "rank": rank, "seed": seed, "parameters": 100 * rank, "bytes": 400 * rank + 50,
            "facts": facts, "ended": ended, "cause": cause, "entropy_bits": BITS * facts,
        }
        for (reading, rank, size) in share if reading == "module" for seed in range(seeds)
    ])  # fmt: skip


def capacity_choice(*thresholds: float, metric: str = "exact_match") -> dict[str, CapacityChoice]:
    return {"phonebook": CapacityChoice(metric=metric, thresholds=thresholds or (0.9,))}


LOADS, RANKS = (500, 1000, 2000, 4000), (1, 2, 4, 8)
LIMITS = {1: 500, 2: 1000, 4: 2000, 8: 4000}
"""Largest load that each rank of `STUDY` holds; rank 8 reaches no limit."""
STUDY = {
    **{("module", rank, load): 1.0 if load <= LIMITS[rank] else 0.3 for rank in RANKS for load in LOADS},
    **{("closed", 0, load): 0.0 for load in LOADS},
}
NLL = {
    **{("module", rank, load): 6 - 20 * rank**0.5 * load**-0.4 for rank in RANKS for load in LOADS},
    **{("closed", 0, load): 6.0 for load in LOADS},
}
"""Losses that follow the memory law dL = 20 r^0.5 l^-0.4 exactly."""


def found(rows: pd.DataFrame, items: pd.DataFrame, expect: Sequence[Expectation] = (), **run: object) -> dict:
    """A whole summary.json, without capacity."""
    summary = summarise(rows, items, expect, metrics=list(dict.fromkeys(rows["metric"])))
    summary.update(capacity={"cells": [], "limits": [], "laws": []}, sweeps=[], failures=[], supervision=[])
    summary["run"] = {"study": "made-up", "scale": "quick", "version": 1, "seeds": 2, "base": "tiny", **run}
    return summary


def whole_study(**run: object) -> tuple[dict, pd.DataFrame]:
    """(summary with capacity, items) of `STUDY`."""
    rows, items = results(STUDY, nll=NLL)
    summary = found(rows, items, **run)
    cells = pd.DataFrame(summary["cells"])
    summary["capacity"] = clean(capacity(capacity_choice(0.9, 1.0), cells, items, modules(STUDY)))
    return summary, items


def expectation(**settings) -> Expectation:
    return parse(Expectation, {"claim": "c", "metric": "exact_match", **settings})
