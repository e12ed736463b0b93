"""What a reading's routes say beside its answers: whether strangers were seen, and what every merge came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from loramem.base.model import Base
from loramem.core.files import read_jsonl
from loramem.metrics.routing import threshold_for
from loramem.modules.store import Store
from loramem.sources.types import Probe
from loramem.studies.cells import Cell

REFUSED = 0.9
"""Share of the calibrating strangers that the threshold refuses."""
MEASURED = ("mean", "min", "max")


def add_fits(predictions: Mapping[str, dict], probes: Sequence[Probe]) -> None:
    """Put into every routed row how its confidence stands to that of strangers.

    `above_strangers`: share of strangers with less confidence than this answerable question, ties one half; its mean is the area
    under the ROC curve of telling the two apart. `fits`: whether the confidence is above a threshold that refuses 90 % of
    every second stranger; given to the answerable questions and to the other strangers, which did not set it.
    """
    sure = {
        probe.id: predictions[probe.id]["confidence"]
        for probe in probes
        if _routed(predictions.get(probe.id))
    }
    strangers = sorted(probe.id for probe in probes if probe.phrasing == "stranger" and probe.id in sure)
    own = [probe.id for probe in probes if probe.phrasing in ("trained", "heldout") and probe.id in sure]
    if len(strangers) < 2 or not own:
        return
    theirs = np.array([sure[name] for name in strangers])
    limit = threshold_for(theirs[::2].tolist(), REFUSED)
    for name in own:
        predictions[name]["above_strangers"] = float(
            ((sure[name] > theirs) + 0.5 * (sure[name] == theirs)).mean()
        )
    for name in (*own, *strangers[1::2]):
        predictions[name]["fits"] = bool(sure[name] > limit)


def _routed(row: dict | None) -> bool:
    return row is not None and not row.get("failure") and row.get("confidence") is not None


def merges_of(cells: Sequence[Cell], base: Base, store: Store) -> pd.DataFrame:
    """Every merge of the study, one row each: cell, seed, module, parents, measures."""
    found: list[dict[str, Any]] = []
    for cell in cells:
        for task in cell.tasks if any(task.merging for task in cell.tasks) else ():
            path = store.reading_folder(task.identity(base)) / "merges.jsonl"
            for line in read_jsonl(path) if path.exists() else ():
                found.append({
                    "cell": cell.slug, "seed": cell.seed, "module": line["module"], "rule": line["recipe"]["rule"],
                    "parents": len(line["recipe"]["parents"]), **line["measures"],
                })  # fmt: skip
    return pd.DataFrame(found)


def merge_rows(merges: pd.DataFrame) -> list[dict]:
    """Mean, least and most of every measure per cell, over its merges and seeds."""
    found = []
    for cell, own in merges.groupby("cell", sort=False) if len(merges) else ():
        numbers = own.select_dtypes("number").drop(columns=["seed", "parents"], errors="ignore")
        row: dict[str, Any] = {
            "cell": cell,
            "rule": own["rule"].iloc[0],
            "parents": int(own["parents"].max()),
            "merges": len(own),
        }
        row["measures"] = {
            name: {how: float(getattr(numbers[name], how)()) for how in MEASURED} for name in numbers
        }
        found.append(row)
    return found
