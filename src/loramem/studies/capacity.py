"""Capacity of a study's modules: limits by rank, why cells fail, bits, and the memory law, all from finished results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from loramem.core.files import read_marker
from loramem.metrics.capacity import cause, fit_memory_law, limit
from loramem.metrics.intervals import DRAWS, bootstrap_means
from loramem.modules.store import MODULE_MARKER, Store, weight_bytes
from loramem.studies.plan import Plan
from loramem.studies.study_file import CapacityChoice
from loramem.studies.summary import scores_grid

SERIES = ["source", "budget", "targets", "layers", "variant"]
"""Columns that tell one rank x load grid of a study from another."""
HELD_OUT_EVERY = 3
"""Every third cell along the diagonals of the grid tests the memory law and is not fitted."""


def module_facts(plan: Plan, store: Store) -> pd.DataFrame:
    """One row per finished module: where it stands, its size, how its training ended and why it would fail."""
    found = []
    for module in plan.modules.values():
        if not store.has_module(module.id):
            continue
        folder = store.module_record(module.id)
        marker = read_marker(folder / MODULE_MARKER)
        log = store.training_log(module.id)
        spec = module.config.spec
        found.append({
            "source": module.source_key, "size_tokens": module.source.size_tokens, "budget": module.config.budget.label,
            "targets": _joined(spec.targets), "layers": _joined(spec.layers), "variant": spec.variant, "rank": spec.rank,
            "seed": module.seed, "parameters": module.parameters, "bytes": weight_bytes(folder),
            "facts": len(module.source.records), "ended": marker.get("ended", "steps"),
            "cause": cause(marker.get("ended", "steps"), log) if log and marker.get("ended") != "memorised" else None,
            "entropy_bits": sum(record.bits or 0.0 for record in module.source.records) or None,
        })  # fmt: skip
    return pd.DataFrame(found)


def _joined(value: str | tuple) -> str:
    return value if isinstance(value, str) else "+".join(map(str, value))


def capacity(
    choices: dict[str, CapacityChoice], cells: pd.DataFrame, items: pd.DataFrame, modules: pd.DataFrame
) -> dict:
    """The `capacity` of summary.json.

    Args:
        choices: The study's `capacity`: score and thresholds per source.
        cells: summary.json's cells.
        items: Scored items.
        modules: `module_facts`.

    Returns:
        `cells`: each rank x load cell with its passes, bits and the cause of a failure. `limits`: T_max per rank and
        threshold. `laws`: the memory law per grid.
    """
    empty: dict = {"cells": [], "limits": [], "laws": []}
    if not choices or cells.empty or modules.empty:
        return empty
    ended = cells[(cells["reading"] == "module") & cells["snapshot"].isna() & (cells["probe"] == "trained")]
    grouped = dict(list(items[items["probe"] == "trained"].groupby(["cell", "metric"], sort=False)))
    for key, grid in ended.groupby(SERIES, dropna=False, sort=False):
        series = dict(zip(SERIES, map(str, key), strict=True))
        choice = choices.get(series["source"])
        if choice is None or choice.metric not in set(grid["metric"]):
            continue
        own = _match(modules, series)
        rows = _cell_rows(series, grid, own, choice)
        _call_failures(rows, modules, ended, choice)
        empty["cells"] += rows
        scored = grid[grid["metric"] == choice.metric]
        for rank in sorted(scored["rank"].dropna().unique()):
            empty["limits"] += _limits(
                series, int(rank), scored[scored["rank"] == rank], grouped, own, choice
            )
        law = _law(series, grid, cells)
        if law is not None:
            empty["laws"].append(law)
    return empty


def _match(table: pd.DataFrame, wanted: dict) -> pd.DataFrame:
    for key, value in wanted.items():
        table = table[table[key] == value]
    return table


def _value(grid: pd.DataFrame, metric: str, name: str = "mean") -> float | None:
    found = grid[grid["metric"] == metric]
    return None if found.empty or pd.isna(found.iloc[0][name]) else float(found.iloc[0][name])


def _cell_rows(series: dict, grid: pd.DataFrame, modules: pd.DataFrame, choice: CapacityChoice) -> list[dict]:
    rows = []
    for _, part in grid.groupby(["rank", "size_tokens"], sort=True):
        rank, size = int(part.iloc[0]["rank"]), int(part.iloc[0]["size_tokens"])
        own = modules[(modules["rank"] == rank) & (modules["size_tokens"] == size)]
        score = part[part["metric"] == choice.metric]
        if score.empty or own.empty:
            continue
        first, mean = score.iloc[0], float(score.iloc[0]["mean"])
        parameters, disk = int(own.iloc[0]["parameters"]), float(own["bytes"].mean())
        bits = _value(part, "bits_stored")
        rows.append({
            **series, "rank": int(rank), "size_tokens": int(size), "facts": int(own.iloc[0]["facts"]), "cell": first["cell"],
            "metric": choice.metric, "mean": mean, "ci_low": float(first["ci_low"]), "ci_high": float(first["ci_high"]),
            "passes": {f"{t:g}": mean >= t for t in choice.thresholds},
            "parameters": parameters, "bytes": disk, "tokens_per_parameter": float(size) / parameters,
            "bits_stored": bits, "bits_low": _value(part, "bits_stored", "ci_low"), "bits_high": _value(part, "bits_stored", "ci_high"),
            "bits_written": own.iloc[0]["entropy_bits"],
            "bits_per_parameter": None if bits is None else bits / parameters,
            "bits_per_byte": None if bits is None else bits / disk,
            "tokens_above_half": _value(part, "tokens_above_half"), "exposures": first.get("exposures"),
            "ended": {str(k): int(v) for k, v in own["ended"].value_counts().items()},
            "causes": {str(k): int(v) for k, v in own["cause"].value_counts().items()},
        })  # fmt: skip
    return rows


def _call_failures(
    rows: list[dict], modules: pd.DataFrame, ended: pd.DataFrame, choice: CapacityChoice
) -> None:
    """Give every cell that fails the lowest threshold its cause.

    Other protocols of the same cell decide first: one that passes, or scores clearly higher (the intervals do not
    touch), shows that the budget was too short; one that stood at a plateau and fails too, that the rank holds no more.
    Elsewhere the cell's own plateau search or loss curve does (`metrics.capacity.cause`).
    """
    lowest = min(choice.thresholds)
    for row in rows:
        row["cause"], row["cause_from"] = None, None
        if row["mean"] >= lowest:
            continue
        same = {key: row[key] for key in ("source", "targets", "layers", "variant", "rank", "size_tokens")}
        others = _match(ended, {**same, "metric": choice.metric})
        others = others[(others["budget"] != row["budget"]) & others["mean"].notna()]
        better = others[(others["mean"] >= lowest) | (others["ci_low"] > row["ci_high"])]
        if len(better):
            row["cause"], row["cause_from"] = "budget", f"better under {better.iloc[0]['budget']}"
            continue
        searched = _match(modules, same)
        searched = searched[searched["budget"].str.startswith("plateau")]
        if not row["budget"].startswith("plateau") and len(searched):
            row["cause"] = "capacity" if set(searched["cause"]) == {"capacity"} else "budget"
            row["cause_from"] = "the same cell trained to a plateau"
            continue
        row["cause"] = "capacity" if set(row["causes"]) == {"capacity"} else "budget"
        row["cause_from"] = "plateau search" if row["budget"].startswith("plateau") else "its own loss curve"


def _limits(
    series: dict,
    rank: int,
    scored: pd.DataFrame,
    grouped: dict,
    modules: pd.DataFrame,
    choice: CapacityChoice,
) -> list[dict]:
    """T_max of one rank at each threshold, with an interval from resampled facts and seeds."""
    scored = scored.sort_values("size_tokens")
    sizes = [int(size) for size in scored["size_tokens"]]
    draws_DL = np.stack(
        [
            bootstrap_means(*scores_grid(grouped[cell, choice.metric])[:2])
            if (cell, choice.metric) in grouped and grouped[cell, choice.metric]["value"].notna().any()
            else np.full(DRAWS, np.nan)
            for cell in scored["cell"]
        ],
        axis=1,
    )  # fmt: skip
    own = modules[modules["rank"] == rank]
    parameters = int(own.iloc[0]["parameters"])
    facts = {int(row["size_tokens"]): int(row["facts"]) for _, row in own.iterrows()}
    found = []
    for threshold in choice.thresholds:
        at = limit(sizes, [float(mean) for mean in scored["mean"]], threshold)
        drawn = [limit(sizes, list(draw), threshold) for draw in draws_DL.tolist()]
        low, high = np.quantile([one.load or 0 for one in drawn], [0.025, 0.975], method="nearest")
        # where a draw has no crossing, it lies below the smallest load or beyond the largest
        crossings = [one.crossing or (math.inf if one.censored else 0.0) for one in drawn]
        cross_low, cross_high = np.quantile(crossings, [0.025, 0.975], method="nearest")
        usable = at.load is not None and not at.censored
        found.append({
            **series, "rank": rank, "metric": choice.metric, "threshold": threshold, "smallest_tokens": sizes[0], "t_max_tokens": at.load, "censored": at.censored,
            "shown": at.shown, "ci_low": float(low), "ci_high": float(high), "high_censored": bool(high >= sizes[-1]),
            "crossing_tokens": at.crossing, "crossing_low": float(cross_low) if cross_low < math.inf else None, "crossing_high": float(cross_high) if cross_high < math.inf else None,
            "facts": facts.get(int(at.load), 0) if at.load is not None else 0, "parameters": parameters,
            "tokens_per_parameter": at.load / parameters if usable and at.load is not None else None,
            "per_parameter_low": float(low) / parameters if usable else None,
            "per_parameter_high": float(high) / parameters if usable and high < sizes[-1] else None,
            "crossing_per_parameter": at.crossing / parameters if usable and at.crossing is not None else None,
        })  # fmt: skip
    return found


def _law(series: dict, grid: pd.DataFrame, cells: pd.DataFrame) -> dict | None:
    """The memory law of one grid: fall of the answers' loss against the base alone, nats per token."""
    closed = cells[
        (cells["reading"] == "closed")
        & (cells["metric"] == "answer_nll")
        & (cells["source"] == series["source"])
    ]
    base = {row["size_tokens"]: row["mean"] for _, row in closed.iterrows()}
    own = grid[(grid["metric"] == "answer_nll") & grid["mean"].notna() & grid["size_tokens"].isin(list(base))]
    if own.empty:
        return None
    ranks, sizes = sorted(own["rank"].unique()), sorted(own["size_tokens"].unique())
    place = [
        (ranks.index(r) + sizes.index(s)) % HELD_OUT_EVERY == 1
        for r, s in zip(own["rank"], own["size_tokens"], strict=True)
    ]
    gain = np.array([base[s] for s in own["size_tokens"]]) - own["mean"].to_numpy(float)
    law = fit_memory_law(
        own["rank"].to_numpy(float), own["size_tokens"].to_numpy(float), gain, np.array(place, dtype=bool)
    )
    if law is None:
        return None
    points = [
        {
            "rank": int(r), "size_tokens": int(s), "gain": float(g), "held_out": bool(h),
            "predicted": float(law.predict(np.array([float(r)]), np.array([float(s)]))[0]),
        }
        for r, s, g, h in zip(own["rank"], own["size_tokens"], gain, place, strict=True)
    ]  # fmt: skip
    return {**series, **asdict(law), "points": points}


def derived_rows(study: str, found: dict) -> Iterable[dict]:
    """Rows of results.parquet: limits leave the load null, laws rank and load."""
    for row in found["limits"]:
        common = {
            "study": study,
            "reading": "module",
            "probe": "trained",
            **{k: row[k] for k in SERIES},
            "rank": row["rank"],
        }
        slug = f"{row['source']}-{row['budget']}-r{row['rank']}"
        for name, value in (
            ("t_max", row["t_max_tokens"]),
            ("t_max_per_parameter", row["tokens_per_parameter"]),
        ):
            metric = f"{name}@{row['threshold']:g}"
            yield {
                **common,
                "cell": f"{slug}-{metric}",
                "metric": metric,
                "value": value,
                "n_scored": 1,
                "n_failed": 0,
            }
    for row in found["laws"]:
        common = {"study": study, "reading": "module", "probe": "trained", **{k: row[k] for k in SERIES}}
        for name in ("scale", "a", "b", "c", "r2", "r2_held_out", "rmse_held_out"):
            metric = f"memory_law_{name}"
            value = None if math.isnan(row[name]) else row[name]
            cell = f"{row['source']}-{row['budget']}-{metric}"
            yield {
                **common,
                "cell": cell,
                "metric": metric,
                "value": value,
                "n_scored": row["fitted"],
                "n_failed": 0,
            }


def measured(
    summary: dict, source: str, threshold: float, budget: str | None = None
) -> list[tuple[int, int, int, bool]]:
    """What `metrics.capacity.plan_holding` needs of a summary: (rank, parameters, facts at the limit, censored)."""
    rows: Sequence[dict] = [
        row
        for row in summary["capacity"]["limits"]
        if row["source"] == source
        and abs(row["threshold"] - threshold) < 1e-9
        and budget in (None, row["budget"])
    ]
    return [(row["rank"], row["parameters"], row["facts"], row["censored"]) for row in rows]
