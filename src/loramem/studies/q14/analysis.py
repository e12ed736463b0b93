"""Q14, does merging give continuity? Several chunks' modules merged against the router's first choice; and how they are trained for it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from loramem.studies.findings import Findings, cells_of, share, verb
from loramem.studies.many import against, sentences, tested
from loramem.studies.q12.analysis import TABLE
from loramem.studies.ways import SWEPT, WRITTEN, At, beside_paper, leading, places, way

PUBLISHED = (
    "Paper (closed book, NarrativeQA ROUGE-L, QuALITY accuracy; Llama-3.2-1B | Llama-3.1-8B | Qwen3-1.7B | Qwen3-8B; one seed): multi top-1 16.87, "
    "24.32 | 19.95, 37.83 | 15.90, 32.71 | 19.13, 39.46; top-3 merged 16.85, 26.43 | 22.42, 42.42 | 16.27, 39.93 | 21.15, 46.26: merged is above the first "
    "choice except NarrativeQA on the 1B model. Routers, top-1/top-3 (NarrativeQA; QuALITY): Arrow 21.93/21.15; 33.68/39.38, SpectR 19.42/21.33; 35.59/42.13, LAG "
    "18.34/21.25; 36.28/41.71, embedding 19.13/21.15; 37.84/42.42. The training settings were chosen from a heat map (150/250/350 steps, rate 3/5/7e-4, alpha "
    "4/8/16, five ways of reading), shown as a figure only."
)
SETTINGS = {"budget": "", "lr": "rate ", "alpha": "alpha "}
"""What the sweep varies, and the word before its value."""


def analyse(summary: dict) -> Findings:
    """Merged against the first choice: how often, then each; what the right chunk's module leaves to gain; the sweep."""
    found = places(summary)
    answer = [text for at in found for text in _count(at)]
    answer += [text for at in found for text in (*_each(at), *_room(at), *_only_answer(at))]
    answer += _sweep(summary)
    figures = [("ways_of_many", at.source) for at in found] + [("swept", SWEPT)]
    return Findings(tuple(answer), PUBLISHED, tuple(figures), beside=beside_paper(summary, TABLE[2:]))


def _pairs(at: At) -> list[tuple[pd.Series, pd.Series]]:
    """(what is merged, the first choice of the same router)."""
    first = {cell["router"]: cell for cell in at.all("routed", partition="chunk", module_on="all")}
    merged = at.all("merged", partition="chunk", module_on="all")
    return [(cell, first[cell["router"]]) for cell in merged if cell["router"] in first]


def _count(at: At) -> tuple[str, ...]:
    words = [
        verb(found[1], found[2], "more", "less", "open")
        for cell, first in _pairs(at)
        if (found := tested(at.summary, cell, first)) is not None
    ]
    if not words:
        return ()
    return (
        f"{at.named}: of {len(words)} ways to merge several chunks' modules, {words.count('more')} give clearly more than the router's one "
        f"chunk alone, {words.count('less')} clearly less; {words.count('open')} are not told apart from it.",
    )  # fmt: skip


def _each(at: At) -> tuple[str, ...]:
    return sentences(*(_against(at, cell, first) for cell, first in _pairs(at)))


def _room(at: At) -> tuple[str, ...]:
    """What the module of the right chunk gives (an oracle), against the first choice and against the best of what is merged."""
    right = at.one("module", partition="chunk")
    merged = at.all("merged", partition="chunk", module_on="all")
    others = (
        at.all("routed", partition="chunk", module_on="all")
        + sorted(merged, key=lambda cell: -cell["mean"])[:1]
    )
    return sentences(*(_against(at, right, cell) for cell in others)) if right is not None else ()


def _only_answer(at: At) -> tuple[str, ...]:
    always = {cell["router"]: cell for cell in at.all("routed", partition="chunk", module_on="all")}
    late = at.all("routed", partition="chunk", module_on="answer")
    return sentences(*(_against(at, cell, always.get(cell["router"])) for cell in late))


def _against(at: At, a: pd.Series, b: pd.Series | None) -> str | None:
    if b is None:
        return None
    text = against(at.summary, a, b, (way(a), way(b)))
    return text and f"{at.named}: {text}"


def setting(cell: pd.Series | dict[str, Any]) -> str:
    """How a module was trained, of what the sweep varies.

    >>> setting({"budget": "exposures=20", "lr": 0.005, "alpha": 4.0})
    'exposures=20, rate 0.005, alpha 4'
    """
    return ", ".join(f"{word}{cell[name]:g}" if word else str(cell[name]) for name, word in SETTINGS.items())


def _sweep(summary: dict) -> tuple[str, ...]:
    """The best of the heat map, and how many others its interval does not tell apart from it."""
    asked = leading(summary, SWEPT)
    if asked is None:
        return ()
    table = cells_of(summary, source=SWEPT, metric=asked[0], probe=asked[1])
    table = table[table["reading"].isin(["routed", "merged"]) & table["mean"].notna()]
    if len(table) < 2:
        return ()
    best = table.sort_values("mean", kind="stable", ascending=False).iloc[0]
    near = int((table["ci_high"] >= best["ci_low"]).sum()) - 1
    return (
        f"{SWEPT}, {WRITTEN.get(asked[0], asked[0])}: the best of {len(table)} pairs of training and reading is {setting(best)}, read as {way(best)}: "
        f"{share(best)}; the intervals of {near} others reach into its own. It is the highest of many, so its mean is too high, and it is a choice made on a document "
        "that no other answer is given of.",
    )  # fmt: skip
