"""Figures of the ablation: what each variant of a module gives back against the first, and what else it changes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from loramem.report.axes import percent_axis
from loramem.report.figures import MARKERS, TITLES
from loramem.report.reading_figures import (
    COLOURS,
    cells_at,
    difference,
    difference_axis,
    paired,
    reach,
    title,
    to_height,
)
from loramem.studies.ablation.analysis import CALLED, variants


def ablation(cells: pd.DataFrame, tests: list[dict], source: str, metric: str, probe: str | None) -> Figure:
    """Paired differences of every variant to the first module, grouped by what was changed, each group from the best down."""
    first, own = variants(cells_at(cells, source, metric, probe))
    found = {} if first is None else paired(tests, first["cell"], metric, probe)
    rows = sorted(
        (variant for variant in own if variant.cell["cell"] in found),
        key=lambda variant: (list(CALLED).index(variant.aspect), -found[variant.cell["cell"]][0]),
    )
    figure, axis = plt.subplots(
        figsize=(7.4, 1.3 + 0.32 * max(3, len(rows) + len({v.aspect for v in rows}))), layout="constrained"
    )
    place, places, labels = 0.0, [], []
    before = None
    for variant in rows:
        if variant.aspect != before:
            place += 0.3 if before is not None else 0.0
            axis.text(
                0.005,
                place - 0.05,
                CALLED[variant.aspect],
                transform=axis.get_yaxis_transform(),
                fontsize=8,
                fontweight="bold",
                va="center",
            )
            before, place = variant.aspect, place + 0.8
        difference(axis, place, found[variant.cell["cell"]])
        count = variant.cell.get("parameters")
        labels.append(
            variant.name + ("" if count is None or pd.isna(count) else f" ({_thousands(int(count))})")
        )
        places.append(place)
        place += 1
    axis.set_yticks(places, labels, fontsize=8)
    axis.set_ylim(place - 0.3, -0.6)
    difference_axis(axis, [found[variant.cell["cell"]] for variant in rows])
    said = "" if first is None else f", first module {100 * first['mean']:.0f} %"
    axis.set_title(
        title(source, metric, probe, f"less the first module, paired{said}"), fontsize=9.5, loc="left"
    )
    return figure


def _thousands(count: int) -> str:
    """A number of parameters on little room.

    >>> _thousands(86016), _thousands(1720320)
    ('86K', '1.7M')
    """
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"


def harm_of_variants(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """What a variant gives back against how far it moves predictions on unrelated text: the upper left corner is best."""
    first, own = variants(cells_at(cells, source, metric, probe))
    harm = cells[
        (cells["source"] == source) & (cells["metric"] == "kl_to_base") & cells["mean"].notna()
    ].set_index("cell")
    points = ([] if first is None else [("first module", "first", first)]) + [
        (v.name, v.aspect, v.cell) for v in own
    ]
    points = [point for point in points if point[2]["cell"] in harm.index]
    colours = dict(zip(CALLED, COLOURS, strict=False))
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for number, (name, aspect, cell) in enumerate(points):
        x = harm.loc[cell["cell"]]
        axis.errorbar(
            [x["mean"]], [cell["mean"]], xerr=reach(x),
            yerr=reach(cell), color=colours.get(aspect, "black"),
            marker=MARKERS[number % len(MARKERS)], elinewidth=0.8, alpha=0.9, markersize=6, label=name,
        )  # fmt: skip
    axis.set_xlabel("nats from the base on unrelated text, per token (lower is better)")
    percent_axis(axis)
    to_height(axis, pd.DataFrame([cell for _, _, cell in points]))
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.grid(alpha=0.25)
    axis.set_title(title(source, metric, probe, "and harm"), fontsize=10, loc="left")
    if points:
        figure.legend(fontsize=7.5, frameon=False, loc="outside right upper", ncols=1)
    return figure
