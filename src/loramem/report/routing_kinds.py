"""Which figures of routers, merges and sectors a source's results can fill, with their captions (`report.gallery` asks for them)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from loramem.metrics.scorers import METRICS
from loramem.report import routing_figures as figures

if TYPE_CHECKING:
    from loramem.report.gallery import Material, Plot

ROUTES = ("gold_rank", "confidence", "above_strangers", "fits")
"""What metrics need that score the router itself."""
UNITS = "95 % interval over facts or documents (the wider) and seeds"


def routers(m: Material) -> Iterator[Plot]:
    routed = m.cells[m.cells["reading"] == "routed"]
    for metric, probe in answers_of(m) if routed["router"].nunique() > 2 else ():
        yield (
            f"{m.source}-routers-{metric}-{probe}", partial(figures.routers, m.every, m.source, metric, probe),
            "Left: answers with the module that a router chose, best first. Right: how often its first choice is a module that learnt the "
            f"answer, out of all modules. Bars with black lines: {UNITS}.",
        )  # fmt: skip


def merge_rules(m: Material) -> Iterator[Plot]:
    for metric, probe in answers_of(m) if rules_of(m) > 4 else ():
        yield (
            f"{m.source}-merge-rules-{metric}-{probe}", partial(figures.merge_rules, m.cells, m.source, metric, probe),
            f"The same chosen modules merged by each rule, best first. Black lines: {UNITS}. The lines for what was not merged have intervals of "
            "their own, in the tables; differences are tested in pairs.",
        )  # fmt: skip


def merge_distances(m: Material) -> Iterator[Plot]:
    for metric, probe in answers_of(m)[:1] if rules_of(m) > 4 and m.merges else ():
        yield (
            f"{m.source}-merge-distances-{metric}-{probe}",
            partial(figures.merge_distances, m.cells, m.merges, m.source, metric, probe),
            f"One mark per rule. Upright lines: {UNITS}. Level lines: the least and the most distant of its merges.",
        )  # fmt: skip


def merged_by_number(m: Material) -> Iterator[Plot]:
    merged = m.cells[(m.cells["reading"] == "merged") & (m.cells["router"] == "oracle")]
    for metric, probe in answers_of(m) if merged["top_k"].nunique() > 2 else ():
        yield (
            f"{m.source}-merged-number-{metric}-{probe}", partial(figures.merged_by_number, m.cells, m.source, metric, probe),
            f"The module that learnt the answer merged with others drawn for the question. Marks are set side by side; bars: {UNITS}.",
        )  # fmt: skip


def sectors(m: Material) -> Iterator[Plot]:
    cut = m.every[m.every["reading"] == "module"]["partition"].dropna().astype(str)
    both = cut.str.startswith("tokens:").any() and (cut == "corpus").any()
    for metric, probe in answers_of(m)[:1] if m.sized and both else ():
        yield (
            f"{m.source}-sectors-{metric}-{probe}", partial(figures.sectors, m.every, m.source, metric, probe),
            f"A module for each sector beside one for the whole book, at the largest size. Seen: how often each entry was. Black lines: {UNITS}.",
        )  # fmt: skip


def harm(m: Material) -> Iterator[Plot]:
    measured = m.cells[(m.cells["metric"] == "kl_to_base") & (m.cells["reading"] != "closed")]
    if measured["reading"].isin(["routed", "merged"]).any():
        yield (
            f"{m.source}-harm", partial(figures.harm, m.cells, m.source),
            "What a reading changes beside the facts that were written, least first. Left: how far its predictions on unrelated text are from the "
            "base's. Right: facts that the base knows and nobody wrote. Black lines: 95 % interval over passages or facts and seeds.",
        )  # fmt: skip


def answers_of(m: Material) -> list[tuple[str, str | None]]:
    """The main scores that are of answers: routes are drawn beside them."""
    return [(metric, probe) for metric, probe in m.headlines if METRICS.get(metric).needs not in ROUTES]


def rules_of(m: Material) -> int:
    """How many rules a source was merged by."""
    return int(m.cells.loc[m.cells["reading"] == "merged", "merge"].nunique())


KINDS = (sectors, routers, merge_rules, merge_distances, merged_by_number, harm)
