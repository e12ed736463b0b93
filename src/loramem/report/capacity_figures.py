"""Figures of capacity: limits, efficiency, bits, the memory law, protocols beside each other, other wordings."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from loramem.report.axes import load_axis, percent_axis, rank_axis
from loramem.report.figures import MARKERS, TITLES, palette
from loramem.studies.findings import protocol_name

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8f5aa8")


def limits(rows: list[dict], source: str) -> Figure:
    """T_max against rank, a line per threshold; arrows where the grid ends first."""
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    for number, threshold in enumerate(sorted({row["threshold"] for row in rows})):
        own = [row for row in rows if row["threshold"] == threshold]
        colour, shift = COLOURS[number % len(COLOURS)], 1 + 0.06 * (number - 1)
        known = [row for row in own if row["t_max_tokens"] is not None]
        axis.plot(
            [row["rank"] * shift for row in known], [row["t_max_tokens"] for row in known], color=colour,
            marker=MARKERS[number], linewidth=1.4, label=f"{100 * threshold:g} %",
        )  # fmt: skip
        for row in known:
            low = max(row["ci_low"], min(r["t_max_tokens"] for r in known) / 2)
            axis.vlines(row["rank"] * shift, low, row["ci_high"], color=colour, linewidth=1.2)
            if row["censored"]:
                axis.annotate(
                    "", (row["rank"] * shift, row["t_max_tokens"] * 1.45), (row["rank"] * shift, row["t_max_tokens"]),
                    arrowprops={"arrowstyle": "->", "color": colour},
                )  # fmt: skip
    rank_axis(axis, sorted({row["rank"] for row in rows}))
    loads = sorted({int(row["t_max_tokens"]) for row in rows if row["t_max_tokens"] is not None})
    if not loads:
        axis.set_yticks([])
        axis.text(0.5, 0.5, "every rank fails at the smallest load", transform=axis.transAxes, ha="center")
    else:
        axis.set_yscale("log", base=2)
        axis.set_yticks(loads, [f"{load / 1000:g}K" for load in loads])
        axis.set_ylim(loads[0] / 1.6, loads[-1] * 1.8)
    axis.minorticks_off()
    axis.set_ylabel("T_max (tokens of the base)")
    axis.grid(axis="y", alpha=0.25)
    axis.set_title(f"{source}: largest load that still passes", fontsize=10, loc="left")
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=4
    )
    return figure


def efficiency(rows: list[dict], source: str) -> Figure:
    """Tokens held per 1,000 parameters against rank, at the interpolated limit; ranks without a limit are left out."""
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    drawn = False
    for number, threshold in enumerate(sorted({row["threshold"] for row in rows})):
        own = [
            row for row in rows if row["threshold"] == threshold and row["crossing_per_parameter"] is not None
        ]
        colour, shift = COLOURS[number % len(COLOURS)], 1 + 0.06 * (number - 1)
        drawn = drawn or bool(own)
        axis.plot(
            [row["rank"] * shift for row in own], [1000 * row["crossing_per_parameter"] for row in own], color=colour,
            marker=MARKERS[number], linewidth=1.4, label=f"{100 * threshold:g} %",
        )  # fmt: skip
        for row in own:
            high = row["crossing_high"] if row["crossing_high"] is not None else row["crossing_tokens"]
            low, high = (1000 * value / row["parameters"] for value in (row["crossing_low"], high))
            axis.vlines(row["rank"] * shift, low, high, color=colour, linewidth=1.2)
    ranks = sorted({row["rank"] for row in rows})
    rank_axis(axis, ranks)
    axis.set_ylim(bottom=0)
    if not drawn:
        axis.text(
            0.5, 0.5, "no rank reaches its limit inside the grid", transform=axis.transAxes, ha="center"
        )
    for rank in ranks:
        if not any(row["rank"] == rank and row["crossing_per_parameter"] is not None for row in rows):
            axis.text(rank, 0, "outside", ha="center", va="bottom", fontsize=7, color="0.45", rotation=90)
    axis.set_ylabel("tokens held per 1,000 parameters")
    axis.grid(axis="y", alpha=0.25)
    axis.set_title(f"{source}: efficiency, T_max / parameters (interpolated)", fontsize=10, loc="left")
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=4
    )
    return figure


def bits(rows: list[dict], source: str) -> Figure:
    """Bits stored per parameter against load, a line per rank; the dashed line is all that was written."""
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    known = [row for row in rows if row["bits_stored"] is not None]
    colours = palette(sorted({row["rank"] for row in known}))
    for number, (rank, colour) in enumerate(colours.items()):
        own = sorted((row for row in known if row["rank"] == rank), key=lambda row: row["size_tokens"])
        x = [row["size_tokens"] for row in own]
        axis.plot(
            x, [row["bits_per_parameter"] for row in own], color=colour, marker=MARKERS[number % len(MARKERS)],
            linewidth=1.6, label=f"rank {rank}",
        )  # fmt: skip
        axis.fill_between(
            x, [row["bits_low"] / row["parameters"] for row in own], [row["bits_high"] / row["parameters"] for row in own],
            color=colour, alpha=0.15, linewidth=0,
        )  # fmt: skip
        written = [row for row in own if row["bits_written"]]
        axis.plot(
            [row["size_tokens"] for row in written], [row["bits_written"] / row["parameters"] for row in written], color=colour,
            linestyle="--", linewidth=0.9,
        )  # fmt: skip
    load_axis(axis, sorted({int(row["size_tokens"]) for row in known}))
    top = max((row["bits_high"] / row["parameters"] for row in known), default=1.0)
    axis.set_ylim(0, 1.25 * top or 1.0)
    axis.set_ylabel("bits stored per parameter")
    axis.grid(axis="y", alpha=0.25)
    axis.set_title(f"{source}: bits per parameter (dashed: bits written)", fontsize=10, loc="left")
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=4
    )
    return figure


def memory_law(law: dict) -> Figure:
    """Fall of the loss as the law predicts it, against what was measured; open marks were not fitted."""
    figure, axis = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    points = law["points"]
    colours = palette(sorted({point["rank"] for point in points}))
    for held, face in ((False, "full"), (True, "none")):
        for number, (rank, colour) in enumerate(colours.items()):
            own = [p for p in points if p["rank"] == rank and p["held_out"] == held]
            axis.plot(
                [p["gain"] for p in own], [p["predicted"] for p in own], linestyle="", color=colour, fillstyle=face,
                marker=MARKERS[number % len(MARKERS)], label=None if held else f"rank {rank}",
            )  # fmt: skip
    values = [value for p in points for value in (p["gain"], p["predicted"])]
    ends = [min(values), max(values)]
    axis.plot(ends, ends, color="0.5", linewidth=0.8, linestyle="--")
    axis.set_xlabel("measured fall of the loss (nats per token)")
    axis.set_ylabel("predicted by the law")
    axis.set_title(
        f"{law['source']}: dL = {law['scale']:.3g} r^{law['a']:.2f} l^-{law['b']:.2f} {law['c']:+.2f}\n"
        f"R2 {_r2(law['r2'])} on the cells fitted (full), {_r2(law['r2_held_out'])} on the cells held out (open)",
        fontsize=9, loc="left",
    )  # fmt: skip
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=4
    )
    return figure


def _r2(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def protocols(cells: pd.DataFrame, source: str, metric: str) -> Figure:
    """The same loads under each training protocol, one line per protocol and rank; labels are exposures per fact."""
    part = cells[
        (cells["source"] == source)
        & (cells["metric"] == metric)
        & (cells["probe"] == "trained")
        & (cells["reading"] == "module")
    ]
    contrasted = [r for r, own in part.groupby("rank") if own["budget"].nunique() > 1]
    part = part[part["rank"].isin(contrasted)]
    figure, axis = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    styles = ("-", "--", ":", "-.")
    for number, (budget, colour) in enumerate(
        zip(sorted(part["budget"].unique()), itertools.cycle(COLOURS), strict=False)
    ):
        for which, rank in enumerate(sorted(part["rank"].unique())):
            own = part[(part["budget"] == budget) & (part["rank"] == rank)].sort_values("size_tokens")
            if own.empty:
                continue
            axis.plot(
                own["size_tokens"], own["mean"], color=colour, marker=MARKERS[number], linestyle=styles[which % len(styles)],
                linewidth=1.6, label=f"{protocol_name(budget)}, rank {int(rank)}",
            )  # fmt: skip
            axis.fill_between(
                own["size_tokens"], own["ci_low"], own["ci_high"], color=colour, alpha=0.13, linewidth=0
            )
            for _, row in own.iterrows():
                below = number % 2 == 0
                axis.annotate(
                    f"{row['exposures']:.0f}x", (row["size_tokens"], row["mean"]), fontsize=6.5, color=colour, ha="center",
                    xytext=(0, -11 if below else 6), textcoords="offset points",
                )  # fmt: skip
    percent_axis(axis)
    axis.set_ylim(-0.09, 1.1)
    load_axis(axis, sorted(int(size) for size in part["size_tokens"].unique()))
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(f"{source}: what the training protocol does (labels: exposures)", fontsize=9.5, loc="left")
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=2
    )
    return figure


def beyond(cells: pd.DataFrame, source: str) -> Figure:
    """Questions the module was not trained on, beside the trained one: every wording by rank, at the largest of the loads
    that most ranks learnt."""
    part = cells[(cells["source"] == source) & (cells["reading"] == "module")]
    ranks_at = part.groupby("size_tokens")["rank"].nunique()
    part = part[part["size_tokens"] == ranks_at[ranks_at == ranks_at.max()].index.max()]
    wanted = [
        ("exact_match", "trained", "trained wording"), ("exact_match", "heldout", "held-out wording"),
        ("exact_match", "reverse", "reversed"), ("efficacy", "trained", "trained statement"), ("paraphrase", "paraphrase", "paraphrase"),
        ("neighbourhood", "neighbour", "neighbours kept"), ("negation", "negated", "negation respected"),
    ]  # fmt: skip
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    for number, (metric, probe, label) in enumerate(wanted):
        own = part[(part["metric"] == metric) & (part["probe"] == probe)].sort_values("rank")
        if own.empty:
            continue
        colour = plt.get_cmap("tab10")(number)
        axis.plot(own["rank"], own["mean"], color=colour, marker=MARKERS[number], linewidth=1.5, label=label)
        axis.fill_between(own["rank"], own["ci_low"], own["ci_high"], color=colour, alpha=0.13, linewidth=0)
    rank_axis(axis, sorted(int(rank) for rank in part["rank"].dropna().unique()))
    percent_axis(axis)
    axis.set_ylabel("share right (%)")
    size = part["size_tokens"].max()
    axis.set_title(f"{source}: beyond the trained wording, {int(size):,} tokens", fontsize=10, loc="left")
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=3
    )
    return figure


def snapshots(cells: pd.DataFrame, source: str, metric: str) -> Figure:
    """Score against training steps, from the snapshots, a line per rank at the largest load."""
    part = cells[
        (cells["source"] == source)
        & (cells["metric"] == metric)
        & (cells["probe"] == "trained")
        & (cells["reading"] == "module")
    ]
    part = part[part["size_tokens"] == part["size_tokens"].max()]
    figure, axis = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    colours = palette(sorted(int(rank) for rank in part["rank"].dropna().unique()))
    for number, (rank, colour) in enumerate(colours.items()):
        own = part[part["rank"] == rank].sort_values("steps")
        axis.plot(
            own["steps"],
            own["mean"],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            linewidth=1.5,
            label=f"rank {rank}",
        )
        axis.fill_between(
            own["steps"].astype(float), own["ci_low"], own["ci_high"], color=colour, alpha=0.15, linewidth=0
        )
    percent_axis(axis)
    axis.set_xlabel("optimiser steps")
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(
        f"{source}: while it learns, {int(part['size_tokens'].max()):,} tokens", fontsize=10, loc="left"
    )
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=4
    )
    return figure
