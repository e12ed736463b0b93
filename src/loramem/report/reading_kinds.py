"""Which figures of readings and variants a source's results can fill, with their captions (`report.gallery` asks for them)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from loramem.report import reading_figures as figures
from loramem.report import variant_figures as variants

if TYPE_CHECKING:
    from loramem.report.gallery import Material, Plot


def closed_book(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines if in_chunks(m) else ():
        yield (
            f"{m.source}-closed-book-{metric}-{probe}", partial(figures.closed_book, m.cells, m.source, metric, probe),
            "One module for a document against a module for each of its chunks: the one that holds the answer (an oracle), the one a router "
            "chose, several merged. Bars: 95 % interval over documents and seeds.",
        )  # fmt: skip


def by_hops(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines[:1] if has_hops(m) else ():
        yield (
            f"{m.source}-hops-{metric}-{probe}", partial(figures.by_hops, m.levels, m.cells, m.source, metric, probe),
            "The same ways by how many facts a question joins, within one passage or across several. Bars: 95 % interval over documents and "
            "seeds; n counts scored questions over all seeds.",
        )  # fmt: skip


def contexts(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines if m.every["reading"].str.startswith("module+").any() else ():
        yield (
            f"{m.source}-contexts-{metric}-{probe}", partial(figures.contexts, m.cells, m.source, metric, probe),
            "What stands before the question, for the base and with modules switched on. Bars: 95 % interval over documents and seeds; what "
            "was not asked is left empty.",
        )  # fmt: skip


def ways_of_many(m: Material) -> Iterator[Plot]:
    pooled = m.cells[(m.cells["partition"] == "chunk") & m.cells["reading"].isin(["routed", "merged"])]
    for metric, probe in m.headlines if pooled["cell"].nunique() > 3 and not trained_in_ways(m) else ():
        yield (
            f"{m.source}-ways-{metric}-{probe}", partial(figures.ways_of_many, m.cells, m.tests, m.source, metric, probe),
            "Left: chunks' modules one at a time and merged. Right: the same questions, each way less the router's first choice. Bars: 95 % "
            "interval over documents and seeds.",
        )  # fmt: skip


def swept(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines[:1] if trained_in_ways(m) else ():
        yield (
            f"{m.source}-swept-{metric}-{probe}", partial(figures.swept, m.every, m.source, metric, probe),
            "How chunks' modules are trained (rows) and read (columns). Framed: the best pair that needs no oracle, which is the highest of many "
            "and so flattered. n counts questions over all seeds. Hatched: not run, or without a result.",
        )  # fmt: skip


def ablation(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines if ablated(m) else ():
        yield (
            f"{m.source}-ablation-{metric}-{probe}", partial(variants.ablation, m.cells, m.tests, m.source, metric, probe),
            "One thing changed at a time, each variant less the first module on the same questions; in brackets the parameters of the module where "
            "they are known. Bars: 95 % interval over documents and seeds.",
        )  # fmt: skip


def harm_of_variants(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines[:1] if ablated(m) and (m.cells["metric"] == "kl_to_base").any() else ():
        yield (
            f"{m.source}-ablation-harm-{metric}-{probe}", partial(variants.harm_of_variants, m.cells, m.source, metric, probe),
            "What a variant gives back against what else it changes. Bars: 95 % intervals.",
        )  # fmt: skip


def in_chunks(m: Material) -> bool:
    """Whether a source was cut in documents and in chunks, and a router chose among chunks."""
    own = m.cells[m.cells["reading"].isin(["module", "routed", "merged"])]
    return {"chunk", "document"} <= set(own["partition"]) and bool((own["reading"] != "module").any())


def has_hops(m: Material) -> bool:
    """Whether there are levels of chunks' modules, one way of training each."""
    chunks = m.cells[m.cells["reading"].isin(["routed", "merged"]) & (m.cells["partition"] == "chunk")]
    return bool(len(m.levels) and len(chunks)) and not trained_in_ways(m)


def trained_in_ways(m: Material) -> bool:
    """Whether the same chunks' modules were trained in at least four ways, at several rates or scales, and chosen among.

    Two budgets with a rate each are no such sweep: those are one contrast.
    """
    own = m.every[m.every["reading"].isin(["routed", "merged"]) & (m.every["partition"] == "chunk")]
    return (
        len(own[["lr", "alpha"]].drop_duplicates()) > 1
        and len(own[["budget", "lr", "alpha"]].drop_duplicates()) > 3
    )


def ablated(m: Material) -> bool:
    return max(m.modules[name].nunique() for name in ("targets", "layers", "variant", "objective")) > 2


KINDS = (closed_book, by_hops, contexts, ways_of_many, swept, ablation, harm_of_variants)
