"""Results of a made-up study, for tests of summaries and reports."""

from __future__ import annotations

import numpy as np
import pandas as pd

from loramem.core.config import parse
from loramem.studies.expectations import Expectation
from loramem.studies.results import COLUMNS


def results(share: dict[tuple[str, int, int], float], *, seeds: int = 2, facts: int = 60, failed: int = 0):
    """Rows and items of a made-up study: `share` gives accuracy by (reading, rank, size)."""
    rng = np.random.default_rng(0)
    rows, items = [], []
    for (reading, rank, size), mean in share.items():
        for seed in range(seeds if reading == "module" else 1):
            values = (rng.permutation(facts) < round(mean * facts)).astype(float)
            values[: failed if reading == "module" else 0] = np.nan
            cell = f"phonebook-{size}" + (f"-r{rank}" if rank else "") + f"-{reading}"
            row = dict.fromkeys(COLUMNS)
            row |= {
                "cell": cell,
                "source": "phonebook",
                "size_tokens": size,
                "rank": rank or None,
                "seed": seed if reading == "module" else None,
                "reading": reading,
            }
            good = int(np.isfinite(values).sum())
            rows.append(
                row
                | {
                    "probe": "trained",
                    "metric": "exact_match",
                    "value": np.nanmean(values),
                    "n_scored": good,
                    "n_failed": facts - good,
                }
            )
            items += [
                {
                    "cell": cell,
                    "seed": seed,
                    "metric": "exact_match",
                    "probe": "trained",
                    "case": str(i),
                    "document": "d",
                    "value": v,
                }
                for i, v in enumerate(values)
            ]
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


def expectation(**settings) -> Expectation:
    return parse(Expectation, {"claim": "c", "metric": "exact_match", **settings})
