"""Figures of questions 8 to 11: routers, merge rules, how many are merged, sectors, and what modules change beside their facts.

A cell that the study has but that gave no result says so in red; what the study does not ask is left empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from loramem.report.axes import interval_bar, percent_axis, percent_ticks
from loramem.report.figures import MARKERS, TITLES, reading_key, reading_name
from loramem.studies.chosen import router_name, space

COLOURS = sns.color_palette("colorblind")
ROUTED, OWN, SINGLE, GREY = COLOURS[1], COLOURS[2], COLOURS[0], "0.45"
SPACES = {"factors": COLOURS[3], "update": COLOURS[0]}
"""Colours of rules by where they work."""


def _at(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> pd.DataFrame:
    part = cells[(cells["source"] == source) & (cells["metric"] == metric)]
    return part[part["probe"] == probe] if probe else part


def _falling(own: pd.DataFrame) -> pd.DataFrame:
    """From the highest score down; what has no result last."""
    return own.sort_values("mean", ascending=False, kind="stable", na_position="last")


def routers(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Left: answers by router, the right module and one module for all as lines. Right: how often its first choice is right."""
    part = _largest(_at(cells, source, metric, probe))
    own = _falling(part[part["reading"] == "routed"])
    routes = _at(cells, source, "route_at_1", probe)
    routes = routes.drop_duplicates("cell").set_index("cell")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.2, 1.5 + 0.28 * max(3, len(own))), layout="constrained", sharey=True
    )
    _bars(left, own, [ROUTED] * len(own))
    single = _modules(part, "all")
    several = part[(part["reading"] == "module") & (part["partition"] == "corpus")]["cell"].nunique() > 1
    steps = f", {single['steps']:g} steps" if single is not None and several else ""
    _line(left, _modules(part, "right"), "the right module", OWN, "--")
    _line(left, single, f"one module for all{steps}", SINGLE, ":")
    found = routes.reindex(own["cell"])
    _bars(right, found.reset_index(), [GREY] * len(found))
    pools = own["pool_size"].dropna()
    if len(pools):
        right.axvline(
            1 / pools.iloc[0],
            color="0.2",
            linestyle="-.",
            linewidth=1.2,
            label=f"chance, 1 of {int(pools.iloc[0])}",
        )
    left.set_yticks(range(len(own)), [router_name(str(name)) for name in own["router"]], fontsize=8)
    _head(left, f"{source}: {TITLES.get(metric, metric)}{_wording(probe)}")
    _head(right, TITLES["route_at_1"])
    _legend(figure, [left, right], 3)
    return figure


def _largest(part: pd.DataFrame) -> pd.DataFrame:
    """Of several sizes the largest."""
    sizes = part["size_tokens"]
    return part[sizes.isna() | (sizes == sizes.max())] if sizes.notna().any() else part


def _modules(part: pd.DataFrame, which: str) -> pd.Series | None:
    """The module that holds a question's answer (`right`), or one for the whole source (`all`), trained longest."""
    own = part[(part["reading"] == "module") & part["mean"].notna()]
    own = own[(own["partition"] == "corpus") == (which == "all")].sort_values("steps")
    return own.iloc[-1] if len(own) else None


def merge_rules(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """One bar per rule from the best down, factors and updates in two colours; what was merged and controls as lines."""
    part = _at(cells, source, metric, probe)
    own = _falling(part[part["reading"] == "merged"])
    figure, axis = plt.subplots(figsize=(6.2, 1.6 + 0.27 * max(3, len(own))), layout="constrained")
    _bars(axis, own, [SPACES[space(str(rule))] for rule in own["merge"]])
    many = own["top_k"].nunique() > 1 or own["router"].nunique() > 1
    labels = [
        str(row["merge"]) + (f" ({row['router']}, {int(row['top_k'])})" if many else "")
        for _, row in own.iterrows()
    ]
    for name, reading, colour, style in (
        ("the right module", "module", OWN, "--"), ("first choice alone", "routed", ROUTED, "-."), ("a wrong module", "wrong-module", "0.2", ":"),
    ):  # fmt: skip
        found = part[(part["reading"] == reading) & part["mean"].notna()]
        _line(axis, found.iloc[0] if len(found) else None, name, colour, style)
    axis.set_yticks(range(len(own)), labels, fontsize=8)
    merged = "" if many or own.empty else f", {int(own['top_k'].iloc[0])} merged ({own['router'].iloc[0]})"
    _head(axis, f"{source}: {TITLES.get(metric, metric)}{merged}{_wording(probe)}")
    named = {"factors": "on A and B apart", "update": "on the update B A"}
    patches = [Patch(color=SPACES[name], label=words) for name, words in named.items()]
    figure.legend(
        handles=[*axis.get_legend_handles_labels()[0], *patches],
        fontsize=7.5,
        frameon=False,
        loc="outside lower center",
        ncols=3,
    )
    return figure


def merged_by_number(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Score against how many are merged, a line per rule, the module and the base alone beside them."""
    part = _at(cells, source, metric, probe)
    own = part[part["reading"] == "merged"]
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    names = list(own["merge"].unique())
    for number, rule in enumerate(names):
        mine = own[own["merge"] == rule].sort_values("top_k")
        shift = 0.05 * (number - (len(names) - 1) / 2)  # side by side, so that no interval hides another
        at = mine["top_k"].astype(float) + shift
        good = mine["mean"].notna()
        axis.errorbar(
            at[good], mine["mean"][good], yerr=[(mine["mean"] - mine["ci_low"])[good], (mine["ci_high"] - mine["mean"])[good]],
            marker=MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)], capsize=2, linewidth=1.4, label=str(rule),
        )  # fmt: skip
        for hole in at[~good]:
            axis.plot([hole], [0], "x", color="crimson", markersize=8, clip_on=False)
    for name, reading, style in (
        ("the right module", "module", "--"),
        ("a wrong module", "wrong-module", "-."),
        ("base alone", "closed", ":"),
    ):
        found = part[(part["reading"] == reading) & part["mean"].notna()]
        if len(found):
            axis.axhline(found.iloc[0]["mean"], color="0.3", linestyle=style, linewidth=1.2, label=name)
    counts = sorted(int(count) for count in own["top_k"].dropna().unique())
    axis.set_xticks(counts)
    axis.set_xlabel("modules merged, the right one among them")
    percent_axis(axis)
    highest = part["ci_high"].max()
    axis.set_ylim(-0.02, min(1.03, 1.12 * highest) if pd.notna(highest) and highest > 0.1 else 0.2)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(
        f"{source}: {TITLES.get(metric, metric)} by number merged{_wording(probe)}", fontsize=10, loc="left"
    )
    _legend(figure, [axis], 4)
    return figure


def sectors(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Sectors behind the right choice and behind routers, one large module, contexts, and the base alone; the largest size."""
    part = _largest(_at(cells, source, metric, probe))
    part = part[part["reading"].isin(["module", "routed", "icl", "rag", "wrong-module", "closed"])]
    order = {"module": 0, "routed": 2, "icl": 3, "rag": 4, "wrong-module": 5, "closed": 6}
    place = [
        order[row["reading"]] + (row["reading"] == "module" and row["partition"] == "corpus")
        for _, row in part.iterrows()
    ]
    own = part.assign(place=place).sort_values(["place", "mean"], ascending=[True, False], kind="stable")
    figure, axis = plt.subplots(figsize=(6.6, 1.2 + 0.3 * max(3, len(own))), layout="constrained")
    colours = {0: OWN, 1: SINGLE, 2: ROUTED}
    _bars(axis, own, [colours.get(place, GREY) for place in own["place"]])
    axis.set_yticks(range(len(own)), [_sector_name(row) for _, row in own.iterrows()], fontsize=8)
    size = part["size_tokens"].max()
    at = f" at {int(size):,} tokens" if pd.notna(size) else ""
    _head(axis, f"{source}: {TITLES.get(metric, metric)}{at}{_wording(probe)}")
    return figure


def _sector_name(row: pd.Series) -> str:
    """A bar of `sectors`."""
    if row["reading"] == "module":
        many, spec = int(row["n_modules"]), f"rank {int(row['rank'])}"
        seen = f", seen {row['exposures']:.0f} times" if pd.notna(row.get("exposures")) else ""
        return (
            f"{many} x {spec}, the right one{seen}"
            if row["partition"] != "corpus"
            else f"one of {spec}{seen}"
        )
    if row["reading"] == "routed":
        router = router_name(str(row["router"]))
        return "routed at random" if router == "random" else f"routed by {router}"
    if row["reading"] == "icl":
        return "whole book in the context" if row["partition"] == "corpus" else "right sector in the context"
    return {"wrong-module": "a wrong sector's module"}.get(row["reading"], reading_name(reading_key(row)))


def harm(cells: pd.DataFrame, source: str) -> Figure:
    """What readings change beside the facts: divergence from the base on unrelated text, and common facts still answered."""
    own = cells[
        (cells["source"] == source) & (cells["metric"] == "kl_to_base") & (cells["reading"] != "closed")
    ]
    own = own.drop_duplicates("cell").sort_values("mean", kind="stable", na_position="last")
    common = cells[(cells["source"] == source) & (cells["metric"] == "common_accuracy")].drop_duplicates(
        "cell"
    )
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.6, 1.5 + 0.27 * max(3, len(own))), layout="constrained", sharey=True
    )
    colours = [_harm_colour(row) for _, row in own.iterrows()]
    _bars(left, own, colours, share=False)
    _bars(right, common.set_index("cell").reindex(own["cell"]).reset_index(), colours)
    base = common[(common["reading"] == "closed") & common["mean"].notna()]
    _line(right, base.iloc[0] if len(base) else None, "base alone", "0.2", ":")
    left.set_yticks(range(len(own)), [_harm_name(row) for _, row in own.iterrows()], fontsize=8)
    _head(left, f"{source}: {TITLES['kl_to_base']}")
    left.set_xlabel("nats a token (the base: 0)", fontsize=8.5)
    _head(right, TITLES["common_accuracy"])
    _legend(figure, [right], 1)
    return figure


def _harm_colour(row: pd.Series):
    if row["reading"] == "module":
        return SINGLE if row["partition"] == "corpus" else OWN
    return (
        ROUTED
        if row["reading"] == "routed"
        else SPACES[space(str(row["merge"]))]
        if row["reading"] == "merged"
        else GREY
    )


def _harm_name(row: pd.Series) -> str:
    if row["reading"] == "module":
        return "one module for all" if row["partition"] == "corpus" else "the right module"
    if row["reading"] == "merged":
        return f"{int(row['top_k'])} merged, {row['merge']}"
    cut = " (for all)" if row["partition"] == "corpus" else ""
    return reading_name(reading_key(row)) + cut


def merge_distances(
    cells: pd.DataFrame, merges: Sequence[dict], source: str, metric: str, probe: str | None
) -> Figure:
    """Score against the relative distance of the merge to the mean update, one mark per rule."""
    part = _at(cells, source, metric, probe)
    away = {
        row["cell"]: row["measures"]["distance_to_mean"]
        for row in merges
        if "distance_to_mean" in row["measures"]
    }
    own = part[(part["reading"] == "merged") & part["mean"].notna() & part["cell"].isin(list(away))]
    own = own.assign(away=[away[cell]["mean"] for cell in own["cell"]]).sort_values(["away", "mean"])
    figure, axis = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    for number, (_, row) in enumerate(own.iterrows()):
        spread = away[row["cell"]]
        axis.errorbar(
            [row["away"]], [row["mean"]], xerr=[[row["away"] - spread["min"]], [spread["max"] - row["away"]]],
            yerr=[[row["mean"] - row["ci_low"]], [row["ci_high"] - row["mean"]]], marker=MARKERS[number % len(MARKERS)],
            color=SPACES[space(str(row["merge"]))], markersize=6, elinewidth=0.7, alpha=0.9, linestyle="none", label=str(row["merge"]),
            markerfacecolor="white" if number >= len(MARKERS) else None,
        )  # fmt: skip
    found = part[(part["reading"] == "routed") & part["mean"].notna()]
    if len(found):
        axis.axhline(
            found.iloc[0]["mean"], color=ROUTED, linestyle="-.", linewidth=1.2, label="first choice alone"
        )
    axis.set_xlabel("distance to the mean update, over its norm")
    percent_axis(axis)
    highest = pd.concat([own["ci_high"], found["mean"]]).max()
    axis.set_ylim(-0.01, min(1.03, 1.15 * highest) if pd.notna(highest) and highest > 0.05 else 0.1)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.grid(alpha=0.25)
    axis.set_title(
        f"{source}: {TITLES.get(metric, metric)} and distance to the mean{_wording(probe)}",
        fontsize=10,
        loc="left",
    )
    if len(own) or len(found):
        figure.legend(fontsize=7.5, frameon=False, loc="outside right upper")
    return figure


def _bars(axis, own: pd.DataFrame, colours: Sequence, *, share: bool = True) -> None:
    """Horizontal bars with intervals and their numbers, in per cent or as they are."""
    for place, ((_, row), colour) in enumerate(zip(own.iterrows(), colours, strict=True)):
        interval_bar(axis, place, row, colour, share=share)
    axis.set_ylim(max(len(own), 1) - 0.4, -0.6)  # from the top
    highest = own["ci_high"].max() if len(own) else np.nan
    axis.set_xlim(0, 1.45 * (highest if pd.notna(highest) and highest > 0.05 else 0.05))
    if share:
        percent_ticks(axis.xaxis)


def _line(axis, cell: pd.Series | None, name: str, colour, style) -> None:
    """A reference line; the axis is widened where it would lie outside."""
    if cell is None:
        return
    axis.axvline(
        cell["mean"],
        color=colour,
        linestyle=style,
        linewidth=1.4,
        label=f"{name} ({100 * cell['mean']:.0f} %)",
    )
    axis.set_xlim(0, max(axis.get_xlim()[1], 1.1 * cell["mean"]))


def _legend(figure: Figure, axes: Sequence, ncols: int) -> None:
    handles = [handle for axis in axes for handle in axis.get_legend_handles_labels()[0]]
    if handles:
        figure.legend(handles=handles, fontsize=7.5, frameon=False, loc="outside lower center", ncols=ncols)


def _head(axis, title: str) -> None:
    axis.set_title(title, fontsize=9.5, loc="left")


def _wording(probe: str | None) -> str:
    return f", {probe} wording" if probe in ("trained", "heldout") else ""
