"""Two runs beside each other: the same facts, cell by cell, with paired tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from loramem.core.errors import InputError
from loramem.core.files import damage_in, read_json
from loramem.metrics.paired import holm
from loramem.studies.pairing import difference_of, scores_by_fact, shared_facts
from loramem.studies.results import ITEM_COLUMNS

KEYS = ["cell", "metric", "probe"]


def read_run(run: Path) -> tuple[dict, pd.DataFrame]:
    """(summary, scored items) of a run folder. Raises `InputError` where it is none."""
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder; give the folder that `study run` wrote")
    missing = [name for name in ("summary.json", "items.parquet") if not (run / name).is_file()]
    if missing:
        raise InputError(f"{run}: no {' and no '.join(missing)} there; is it a finished run?")
    try:
        items = pd.read_parquet(run / "items.parquet")
    except Exception as error:  # damaged bytes break its readers in many ways
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"{run / 'items.parquet'}: not readable ({reason.splitlines()[0]})") from None
    if list(items.columns) != list(ITEM_COLUMNS):
        raise InputError(
            f"{run / 'items.parquet'}: has columns {', '.join(items.columns)}, expected {', '.join(ITEM_COLUMNS)}"
        )
    return read_json(run / "summary.json"), items


def compare_runs(a: Path, b: Path, *, metrics: tuple[str, ...] = ()) -> dict:
    """b - a for every cell, metric and probe that both runs have, paired over the facts they share.

    Args:
        metrics: Only these; empty: all.

    Returns:
        `tests`: rows of cell, metric, probe, facts, mean_a, mean_b, difference, ci_low, ci_high, p, p_holm (over all
        tests made). `only_a`, `only_b`: cells that the other run lacks.

    Raises:
        InputError: a folder is no run, or the runs share nothing.
    """
    items_a, items_b = (read_run(run)[1] for run in (a, b))
    with damage_in(a / "items.parquet"):
        means_a = _scores(items_a, metrics)
        order = list(items_a[KEYS].drop_duplicates().itertuples(index=False, name=None))
    with damage_in(b / "items.parquet"):
        means_b = _scores(items_b, metrics)
    shared = [key for key in order if key in means_a and key in means_b]
    tests = []
    for key in shared:
        facts = shared_facts(means_a[key], means_b[key])
        if len(facts) == 0:
            continue
        mine, theirs = means_a[key][facts], means_b[key][facts]
        mean, low, high, p = difference_of(theirs, mine)
        tests.append({
            **dict(zip(KEYS, key, strict=True)), "facts": len(facts), "mean_a": float(np.nanmean(mine)), "mean_b": float(np.nanmean(theirs)),
            "difference": mean, "ci_low": low, "ci_high": high, "p": p,
        })  # fmt: skip
    if not tests:
        raise InputError(f"{a} and {b} have no cell, metric and fact in common")
    for row, adjusted in zip(tests, holm([row["p"] for row in tests]), strict=True):
        row["p_holm"] = adjusted
    cells_a, cells_b = ({key[0] for key in means} for means in (means_a, means_b))
    return {
        "a": str(a), "b": str(b), "made": len(tests), "adjustment": "Holm", "tests": tests,
        "only_a": sorted(cells_a - cells_b), "only_b": sorted(cells_b - cells_a),
    }  # fmt: skip


def _scores(items: pd.DataFrame, metrics: tuple[str, ...]) -> dict[tuple, pd.DataFrame]:
    """Scores of the facts under each seed, by (cell, metric, probe)."""
    return scores_by_fact(items[items["metric"].isin(metrics)] if metrics else items)
