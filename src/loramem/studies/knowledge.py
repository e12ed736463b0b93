"""What the base knew before: each fact's class, and what a module adds on the facts the base did not know.

Classes after Gekhman et al. 2024 (arXiv 2405.05904), from greedy answers of the base alone: a fact is
`HighlyKnown` if every wording it is asked in is answered, `MaybeKnown` if some are, `Unknown` if none is. For
edits the fact is the new one: a wording counts where the base prefers the new target (ties do not).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from loramem.studies.pairing import difference_of, scores_by_fact, shared_facts

CLASSES = ("Unknown", "MaybeKnown", "HighlyKnown")
ASKED = {
    "exact_match": ("trained", "heldout"), "token_f1": ("trained", "heldout"), "efficacy": ("trained",),
    "paraphrase": ("paraphrase",),
}  # fmt: skip
"""Metrics and phrasings that show whether a fact is known."""
GAIN_METRICS = ("exact_match", "efficacy", "paraphrase", "token_f1")


def classes(items: pd.DataFrame) -> pd.Series:
    """Class of each fact of one `closed` cell, by case id."""
    asked = items[
        [
            probe in ASKED.get(metric, ())
            for metric, probe in zip(items["metric"], items["probe"], strict=True)
        ]
    ]
    asked = asked[asked["metric"] != "token_f1"] if (asked["metric"] == "exact_match").any() else asked
    share = (asked.dropna(subset=["value"])["value"] == 1.0).groupby(asked["case"]).mean()
    return share.map(lambda s: CLASSES[2] if s == 1 else CLASSES[1] if s > 0 else CLASSES[0])


def knowledge(cells: pd.DataFrame, items: pd.DataFrame) -> list[dict]:
    """Per source and size the number of facts of each class; empty without `closed` readings.

    Args:
        cells: One row per cell with columns cell, source, size_tokens, reading.
        items: Scored items of every cell (ITEM_COLUMNS).
    """
    found = []
    for _, cell in cells[cells["reading"] == "closed"].iterrows():
        own = items[items["cell"] == cell["cell"]]
        counts = classes(own).value_counts()
        found.append({
            "cell": cell["cell"], "source": cell["source"], "size_tokens": cell["size_tokens"],
            **{name: int(counts.get(name, 0)) for name in CLASSES},
        })  # fmt: skip
    return found


def gains(cells: pd.DataFrame, items: pd.DataFrame, metrics: Sequence[str]) -> list[dict]:
    """Gain of every reading over the base alone on the same facts: on all of them, and on the Unknown ones.

    Args:
        cells: One row per cell, metric and probe.
        items: As in `knowledge`.

    Returns:
        Rows of cell, metric, probe, class (`all`, `Unknown`), facts, gain, ci_low, ci_high (shares).
    """
    found = []
    means = scores_by_fact(items)
    bases = cells[cells["reading"] == "closed"].drop_duplicates(["cell"])
    known = {
        _asked_of(row): (row["cell"], classes(items[items["cell"] == row["cell"]]))
        for _, row in bases.iterrows()
    }
    wanted = cells[
        (cells["reading"] != "closed") & cells["metric"].isin([m for m in GAIN_METRICS if m in metrics])
    ]
    for _, cell in wanted.iterrows():
        base = known.get(_asked_of(cell))
        mine = means.get((cell["cell"], cell["metric"], cell["probe"]))
        theirs = means.get((base[0], cell["metric"], cell["probe"])) if base else None
        if base is None or mine is None or theirs is None:
            continue
        shared = shared_facts(mine, theirs)
        unknown = shared[(base[1].reindex(shared.get_level_values("case")) == CLASSES[0]).to_numpy()]
        for label, facts in (("all", shared), (CLASSES[0], unknown)):
            if len(facts):
                mean, low, high, _ = difference_of(mine[facts], theirs[facts])
                found.append({
                    "cell": cell["cell"], "metric": cell["metric"], "probe": cell["probe"], "class": label,
                    "facts": len(facts), "gain": mean, "ci_low": low, "ci_high": high,
                })  # fmt: skip
    return found


def _asked_of(cell: pd.Series) -> tuple[str, ...]:
    """What was asked, and of which base: what one base knew says nothing about another."""
    return tuple(str(cell.get(name)) for name in ("source", "size_tokens", "base_name"))
