"""Which figures a report shows: every kind that a source's results can fill, those that answer the question first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from loramem.core.names import file_name
from loramem.core.secrets import each_text
from loramem.core.shown import plain
from loramem.metrics.scorers import METRICS
from loramem.report import capacity_figures as capacity
from loramem.report import figures
from loramem.report import latency_figures as timed
from loramem.report import reading_kinds as readings
from loramem.report import routing_kinds as routing
from loramem.report import supervision_figures as supervised
from loramem.studies.findings import Findings, cells_of, main_budget

Plot = tuple[str, Callable[[], Figure], str]
"""(name, what draws it, caption)."""
HEADLINES = {
    "phonebook": (("exact_match", "trained"), ("exact_match", "heldout")),
    "counterfact": (("efficacy", "trained"), ("edit_score", None)),
}


@dataclass(frozen=True)
class Material:
    """What there is to draw of one source.

    Attributes:
        cells: Cells as they ended: modules of the main grid, and readings without a module.
        every: The same with the modules of all protocols.
        moments: Module cells of the main grid with their snapshots.
        headlines: (metric, probe) of the main figures, the first one leads.
    """

    source: str
    cells: pd.DataFrame
    every: pd.DataFrame
    moments: pd.DataFrame
    headlines: Sequence[tuple[str, str | None]]
    limits: list[dict]
    capacity_cells: list[dict]
    laws: list[dict]
    curves: list[dict]
    published: tuple[float, float] | None
    supervision: list[dict]
    levels: pd.DataFrame
    tests: list[dict] = field(default_factory=list)
    """Paired comparisons of the study."""
    latency: list[dict] = field(default_factory=list)
    """What was timed on each base (`studies.latency`)."""
    merges: list[dict] = field(default_factory=list)
    """What the merges came to, a row per cell."""

    @property
    def ranks(self) -> int:
        return self.cells["rank"].nunique()

    @property
    def sized(self) -> bool:
        """Whether its sources have a size: others are a number of documents."""
        return bool(self.cells["size_tokens"].notna().any())

    @property
    def modules(self) -> pd.DataFrame:
        return self.cells[self.cells["reading"] == "module"]


def by_load(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines if m.sized else ():
        tag = f"{metric}-{probe}" if probe else metric
        yield (
            f"{m.source}-load-{tag}", partial(figures.by_load, m.cells, m.source, metric, probe),
            "Score against the amount written. Bands: 95 % interval over facts and seeds. A red cross: no result.",
        )  # fmt: skip


def by_rank(m: Material) -> Iterator[Plot]:
    if m.headlines and m.ranks > 1 and m.sized:
        yield (
            f"{m.source}-rank", partial(figures.by_rank, m.cells, m.source, *m.headlines[0], m.published),
            "Score against rank, one line per amount written. Bands: 95 % interval over facts and seeds.",
        )  # fmt: skip


def heat_map(m: Material) -> Iterator[Plot]:
    if m.headlines and m.ranks and m.sized:
        yield (
            f"{m.source}-heat", partial(figures.heat_map, m.cells, m.source, *m.headlines[0]),
            "Every module of the grid; n counts scored probes over all seeds. Hatched: not run, or without a result.",
        )  # fmt: skip


def controls(m: Material) -> Iterator[Plot]:
    if m.headlines:
        yield (
            f"{m.source}-controls", partial(figures.controls, m.cells, m.source, *m.headlines[0]),
            "The same questions without the module, with a module that learnt something else, with random weights of the module's "
            "norms, and with text in the context. The gold passage in the context is what no retriever can exceed.",
        )  # fmt: skip


def by_supervision(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines if m.modules["supervision"].nunique() > 1 else ():
        yield (
            f"{m.source}-supervision-{metric}-{probe}", partial(supervised.by_supervision, m.cells, m.source, metric, probe),
            "Modules that differ in nothing but what they were trained on. Bars: 95 % interval over documents and seeds.",
        )  # fmt: skip


def by_level(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines[:1] if len(m.levels) and not readings.has_hops(m) else ():
        yield (
            f"{m.source}-level-{metric}-{probe}", partial(supervised.by_level, m.levels, m.cells, m.source, metric, probe),
            "Recall asks for one stated fact, comprehension relates several, structure asks how the text is built (multi-hop: over "
            "several documents). Brackets: 95 % interval over documents and seeds.",
        )  # fmt: skip


def per_token(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines[:1] if m.modules["supervision"].nunique() > 1 else ():
        yield (
            f"{m.source}-per-token-{metric}-{probe}", partial(supervised.per_token, m.cells, m.source, metric, probe),
            "The same scores against the tokens that bear loss, each example counted once. Bars: 95 % interval over documents and seeds.",
        )  # fmt: skip


def by_generator(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines[:1] if m.modules["generator"].nunique() > 2 else ():
        yield (
            f"{m.source}-generator-{metric}-{probe}",
            partial(supervised.by_generator, m.cells, m.supervision, m.source, metric, probe),
            "Wrong values are counted against the facts of the documents, which are known. A reader answers exact questions with "
            "the document before it: its errors are its own. Bars: 95 % interval over documents and seeds.",
        )  # fmt: skip


def by_base(m: Material) -> Iterator[Plot]:
    for metric, probe in m.headlines if m.modules["base_name"].nunique() > 1 else ():
        yield (
            f"{m.source}-base-{metric}-{probe}", partial(supervised.by_base, m.cells, m.source, metric, probe),
            "Bases of one family, each with settings of its own chosen on a dev split. Bars: 95 % interval over documents and seeds.",
        )  # fmt: skip


def limits(m: Material) -> Iterator[Plot]:
    if m.limits:
        yield (
            f"{m.source}-limits", partial(capacity.limits, m.limits, m.source),
            "T_max: the largest load all of whose smaller loads pass the threshold too. Bars: 95 % interval over facts and seeds. "
            "Arrow: the grid ends before the limit. A rank without a mark fails at its smallest load.",
        )  # fmt: skip


def efficiency(m: Material) -> Iterator[Plot]:
    if m.limits:
        yield (
            f"{m.source}-efficiency", partial(capacity.efficiency, m.limits, m.source),
            "The load at which the score crosses the threshold (interpolated in log load), per 1,000 parameters of the module. "
            "Bars: 95 % interval. Ranks whose limit lies outside the grid are left out, since they would look inefficient by construction.",
        )  # fmt: skip


def bits(m: Material) -> Iterator[Plot]:
    if any(row["bits_stored"] is not None for row in m.capacity_cells):
        yield (
            f"{m.source}-bits", partial(capacity.bits, m.capacity_cells, m.source),
            "Information held: the sum over facts of max(0, H - NLL), H the declared entropy of an answer, per parameter of the module.",
        )  # fmt: skip


def memory_law(m: Material) -> Iterator[Plot]:
    for law in m.laws[:1]:
        yield (
            f"{m.source}-memory-law", partial(capacity.memory_law, law),
            "The law was fitted to the full marks and predicts the open ones, which it did not see. dL is the fall of the loss on the "
            "answers against the base alone.",
        )  # fmt: skip


def protocols(m: Material) -> Iterator[Plot]:
    modules = m.every[m.every["reading"] == "module"]
    if m.sized and m.headlines and any(own["budget"].nunique() > 1 for _, own in modules.groupby("rank")):
        yield (
            f"{m.source}-protocols", partial(capacity.protocols, m.every, m.source, m.headlines[0][0]),
            "With a fixed number of steps a fact is seen less often the more facts there are, so the budget fails where the capacity need "
            "not. Bands: 95 % interval over facts and seeds.",
        )  # fmt: skip


def beyond(m: Material) -> Iterator[Plot]:
    if m.sized and m.ranks > 1 and len(set(m.cells["probe"].dropna())) > 1:
        yield (
            f"{m.source}-beyond", partial(capacity.beyond, m.cells, m.source),
            "What was learnt in one wording, asked in others. Negation respected: the learnt answer is not given where the question asks "
            "for what is not so.",
        )  # fmt: skip


def snapshots(m: Material) -> Iterator[Plot]:
    if m.sized and m.headlines and "snapshot" in m.moments and m.moments["snapshot"].notna().any():
        yield (
            f"{m.source}-snapshots", partial(capacity.snapshots, m.moments, m.source, m.headlines[0][0]),
            "Modules read at steps on the way; the last point is the module as it ended.",
        )  # fmt: skip


def training(m: Material) -> Iterator[Plot]:
    if m.curves:
        yield (
            f"{m.source}-training", partial(figures.training, m.curves, m.source),
            "A flat end says that more of the same budget would change little; a falling end says that the budget ended first.",
        )  # fmt: skip


def latency_parts(m: Material) -> Iterator[Plot]:
    for one in m.latency:
        yield (
            f"{m.source}-latency-{Path(one['base']).name}", partial(timed.parts, one["rows"]),
            f"The same {one['rows'][0]['questions']} questions of every reading on {one['machine']['device']}, {one['machine']['threads']} "
            f"threads; medians of {one['settings']['repeats']} rounds, line: their range. Beside each bar: milliseconds, and the tokens of an "
            "answer, which a reading chooses itself. A context is read anew for every question; modules are held, but where loaded anew.",
        )  # fmt: skip


def break_even(m: Material) -> Iterator[Plot]:
    for one in m.latency:
        for unit in ("seconds", "tokens") if one["made"] else ():
            yield (
                f"{m.source}-break-even-{unit}-{Path(one['base']).name}", partial(timed.break_even, one, unit),
                "Making of modules (training and supervision) or of an index, and every question so far. Ring: from here on the modules "
                "have cost less than a reading without them. " +
                ("Training is timed on the same machine." if unit == "seconds" else
                 "A trained token counts three times, for its backward pass; embedders and attention over long contexts are not counted."),
            )  # fmt: skip


KINDS: dict[str, Callable[[Material], Iterator[Plot]]] = {
    kind.__name__: kind
    for kind in (
        *readings.KINDS, *routing.KINDS,
        by_supervision, by_level, per_token, by_generator, by_base, by_load, by_rank, heat_map, limits, efficiency, bits, memory_law, protocols, controls, beyond, snapshots, training,
        latency_parts, break_even,
    )
}  # fmt: skip


def material(
    summary: dict, curves: list[dict], source: str, published: tuple[float, float] | None
) -> Material:
    """Sort the results of one source by what they can be drawn as."""
    budget = main_budget(summary, source)
    every = cells_of(summary, source=source)
    moments = pd.DataFrame([c for c in summary["cells"] if c["source"] == source and c["budget"] == budget])
    headlines = [
        (metric, probe)
        for metric, probe in HEADLINES.get(source) or _first_metrics(every)
        if (
            (every["metric"] == metric) & ((every["probe"] == probe) if probe else every["probe"].isna())
        ).any()
    ]
    found = summary["capacity"]
    levels = pd.DataFrame(summary.get("levels", []))
    return Material(
        source, every[(every["budget"] == budget) | every["rank"].isna()], every, moments, headlines,
        [row for row in found["limits"] if row["source"] == source and row["budget"] == budget],
        [row for row in found["cells"] if row["source"] == source and row["budget"] == budget],
        [law for law in found["laws"] if law["source"] == source and law["budget"] == budget],
        [curve for curve in curves if curve["source"] == source and curve["budget"] == budget], published,
        summary.get("supervision", []), levels[levels["cell"].isin(set(every["cell"]))] if len(levels) else levels,
        summary["comparisons"]["tests"],
        [one for one in summary.get("latency", []) if one["source"] == source and one["rows"]],
        [row for row in summary.get("merges", []) if row["cell"] in set(every["cell"])],
    )  # fmt: skip


def _first_metrics(cells: pd.DataFrame) -> list[tuple[str, str | None]]:
    shares = cells["metric"].map(lambda name: METRICS.get(name).unit == "share").astype(bool)
    cells = cells[shares]  # the axes are in per cent
    probes = {
        metric: [probe for probe in ("heldout", "trained") if ((cells["metric"] == metric) & (cells["probe"] == probe)).any()]
        for metric in cells["metric"].unique()[:2]
    }  # fmt: skip
    first = next(iter(probes), None)
    if first is not None and len(probes[first]) == 2:  # in both wordings: the one that was not learnt leads
        return [(first, probe) for probe in probes[first]]
    return [(metric, found[0] if found else None) for metric, found in probes.items()]


def draw(summary: dict, curves: list[dict], folder: Path, findings: Findings) -> list[dict]:
    """All figures of a study as {source, name, caption, svg, leads}; those that the findings name come first."""
    summary, curves = each_text(summary, plain), each_text(curves, plain)  # no font has control characters
    found: list[dict] = []
    done: set[str] = set()
    materials = {
        source: material(summary, curves, source, findings.published_range.get(source))
        for source in dict.fromkeys(c["source"] for c in summary["cells"])
    }
    wanted = [(kind, source, True) for kind, source in findings.figures if source in materials]
    wanted += [(kind, source, False) for source in materials for kind in KINDS]
    for kind, source, leads in wanted:
        for title, make, caption in KINDS[kind](materials[source]):
            name = file_name(title)  # sources and bases are called what their owners like
            if name not in done:
                done.add(name)
                svg = figures.save(make(), folder, name)
                found.append({"source": source, "name": name, "caption": caption, "svg": svg, "leads": leads})
    return found
