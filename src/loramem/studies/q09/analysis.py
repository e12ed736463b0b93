"""Q9, what does practical routing cost? Routers against the right module and against one module for all documents."""

from __future__ import annotations

import pandas as pd

from loramem.answering.routers import Routing
from loramem.studies.chosen import (
    KEYS,
    beside,
    harm,
    held_against,
    router_name,
    scored_by,
    tally,
    unpaired,
)
from loramem.studies.findings import Findings, points, share
from loramem.studies.many import against, one, sentences
from loramem.studies.routed import REFUSED
from loramem.studies.supervised import leading
from loramem.studies.ways import At

PUBLISHED = (
    "Paper (PaperQA, 15 papers, judged 0 to 10, one seed): Llama-3.1-8B the right module (oracle) 5.92, one module for all 5.24, routed by "
    "embedding 4.94; Qwen3-8B 6.57, 5.65, 5.52. No other router, no interval, and no score of the routes themselves."
)
SOURCE = "papers"
SHORTLIST = int(Routing.model_fields["shortlist"].default)
FIRST = "embedding"
"""The router of the paper."""


def analyse(summary: dict) -> Findings:
    """What each router loses to the right module, one module for all beside them, routers by themselves, and harm."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    at = At(summary, SOURCE, lead)
    oracle, single = at.one("module", partition="document"), at.one("module", partition="corpus")
    routed = sorted(at.all("routed", partition="document", module_on="all"), key=lambda cell: -cell["mean"])
    first = next((cell for cell in routed if str(cell["router"]).startswith(FIRST) and not _key(cell)), None)
    answer = (
        *_gaps(at, routed, oracle, single, first), *_pool(at, routed), *_each(at, routed, oracle), *_keys(at, routed, first),
        *sentences(harm(summary, [
            ("the base", at.one("closed")), ("the right module", oracle), ("one module for all", single),
            ("what embeddings choose", first), ("random weights of the same norms", at.one("random-module", partition="document")),
        ])),
    )  # fmt: skip
    rows = [
        *beside("the right module (paper: judge, Llama | Qwen)", "5.92 | 6.57", oracle),
        *beside("one module for all", "5.24 | 5.65", single),
        *beside("routed by embedding", "4.94 | 5.52", first),
    ]
    return Findings(answer, PUBLISHED, (("routers", SOURCE), ("harm", SOURCE)), beside=tuple(rows))


def _key(cell: pd.Series) -> str:
    """What stands for a document, where it is not all of its text."""
    last = str(cell["router"]).rpartition("-")[2]
    return last if last in KEYS else ""


def _gaps(
    at: At,
    routed: list[pd.Series],
    oracle: pd.Series | None,
    single: pd.Series | None,
    first: pd.Series | None,
) -> tuple[str, ...]:
    judged = held_against(at.summary, routed, oracle)
    found: list[str | None] = []
    if judged and oracle is not None:
        found.append(
            f"Against the right module ({share(oracle)}), of {len(judged)} routers "
            + tally(judged, lambda cell: router_name(cell["router"]), ("above", "below"))
        )
    found.append(against(at.summary, first, oracle, ("routed by embedding", "the right module")))
    if single is not None and oracle is not None:
        text = against(at.summary, oracle, single, ("the right module", "one module for all"))
        found.append(text or unpaired(oracle, single, ("the right module", "one module for all")))
    for cell in routed:
        if single is None:
            break
        names = (f"routed by {router_name(cell['router'])}", "one module for all")
        text = against(at.summary, cell, single, names)
        if (
            text or cell is first
        ):  # where pairs were not tested, only the router of the paper is compared, by its interval
            found.append(text or unpaired(cell, single, names))
    return sentences(*found)


def _each(at: At, routed: list[pd.Series], oracle: pd.Series | None) -> tuple[str, ...]:
    """A sentence for each router: answers, routes by themselves, and whether its confidence tells that no module fits."""
    gaps = {cell["cell"]: gap for cell, gap in held_against(at.summary, routed, oracle)}
    found = []
    for cell in routed:
        parts = [f"{router_name(cell['router'])} {share(cell)}"]
        parts[0] += f", {points(*gaps[cell['cell']])} to the right module" if cell["cell"] in gaps else ""
        parts += [
            f"{word} {text}"
            for word, metric in (("first choice right", "route_at_1"), ("among three", "route_at_3"))
            if (text := scored_by(at, cell, metric))
        ]
        rank, area = at.other(cell, "route_mrr"), at.other(cell, "none_auroc")
        parts += [] if rank is None else [f"MRR {_plain(rank)}"]
        refused = one(at.summary, cell=cell["cell"], metric="strangers_refused", probe="stranger")
        if area is not None:
            kept = scored_by(at, cell, "own_kept")
            parts.append(
                f"AUROC of own questions against strangers' {_plain(area)}"
                + (f", {kept} kept and {share(refused)} refused" if kept and refused is not None else "")
            )
        found.append("; ".join(parts) if len(parts) > 1 or cell["cell"] in gaps else None)
    return sentences(*found)


def _pool(at: At, routed: list[pd.Series]) -> tuple[str, ...]:
    """What the routers chose from, and routers that cannot differ."""
    if not routed or pd.isna(routed[0]["pool_size"]):
        return ()
    pool = int(routed[0]["pool_size"])
    named = {str(cell["router"]): cell for cell in routed}
    lag, spectr = named.get("lag"), named.get("spectr")
    alike = None
    if lag is not None and spectr is not None and pool <= SHORTLIST and lag["mean"] == spectr["mean"]:
        alike = f"lag ranks what arrow puts on a list of {SHORTLIST} as spectr does: of {pool} modules all are on it, so the two are one"
    refusing = any(at.other(cell, "none_auroc") is not None for cell in routed)
    return sentences(
        f"Routers choose from a pool of all {pool} modules (chance {100 / pool:.1f} % for the first, {100 * min(3, pool) / pool:.1f} % for "
        "three)" + (
            f"; below, questions are kept and strangers refused by a threshold that refuses {100 * REFUSED:.0f} % of other strangers"
            if refusing else ""
        ),
        alike,
    )  # fmt: skip


def _plain(cell: pd.Series) -> str:
    """A score that is no share, with its interval."""
    return f"{cell['mean']:.2f} [{cell['ci_low']:.2f}, {cell['ci_high']:.2f}]"


def _keys(at: At, routed: list[pd.Series], first: pd.Series | None) -> tuple[str, ...]:
    """All of a document against its introduction and its summary as what a question is held against."""
    found = []
    for cell in routed:
        if (
            not _key(cell)
            or first is None
            or str(cell["router"]).removesuffix(f"-{_key(cell)}") != first["router"]
        ):
            continue
        text = against(at.summary, cell, first, (f"the document's {_key(cell)} as key", "all of its text"))
        right = [scored_by(at, own, "route_at_1") for own in (cell, first)]
        found.append(
            text and text + (f"; first choice right {right[0]} and {right[1]}" if all(right) else "")
        )
    return sentences(*found)
