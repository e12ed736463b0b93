"""Figures of questions 12 to 14: ways of reading a long document, contexts beside modules, settings.

A cell that the study has but that gave no result is a red cross; what the study does not ask is left empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from loramem.report.axes import WholePercents, interval_bar, percent_axis, percent_ticks
from loramem.report.figures import MARKERS, TITLES
from loramem.studies.q14.analysis import setting
from loramem.studies.ways import context, way

CLOSED = ("closed", "module", "routed", "merged")
CONTEXTS = {
    "none": "nothing", "icl": "document", "rag": "passages", "gold-summary": "gold\nsummary", "gold-passage": "gold\npassage",
}  # fmt: skip
COLOURS = sns.color_palette("colorblind")
GREY = "0.45"


def cells_at(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> pd.DataFrame:
    part = cells[(cells["source"] == source) & (cells["metric"] == metric)]
    return part[part["probe"] == probe] if probe else part


def _ways(part: pd.DataFrame) -> pd.DataFrame:
    """Cells read closed book with a name of their own each, the base first, one module a document next, then the chunks' modules."""
    own = part[part["reading"].isin(CLOSED)].copy()
    own["way"] = [way(row) for _, row in own.iterrows()]
    own = own[(own["reading"].isin(["closed", "module"])) | (own["partition"] != "document")]
    order = {"closed": 0, "module": 1, "routed": 3, "merged": 4}
    own["place"] = [
        order[row["reading"]] + (row["reading"] == "module" and row["partition"] != "document")
        for _, row in own.iterrows()
    ]
    return own.sort_values("place", kind="stable")


def closed_book(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """One bar for each way of reading without a context."""
    own = _ways(cells_at(cells, source, metric, probe))
    figure, axis = plt.subplots(figsize=(6.2, 0.9 + 0.36 * max(3, len(own))), layout="constrained")
    _bars(axis, own, [_colour(row) for _, row in own.iterrows()])
    axis.set_yticks(range(len(own)), _short(own), fontsize=8)
    axis.set_title(title(source, metric, probe, "closed book"), fontsize=10, loc="left")
    return figure


def _short(cells: pd.DataFrame) -> list[str]:
    """Names of ways without what all share, for narrow margins; whole names where the short ones would be equal."""
    names = [str(name) for name in cells["way"]]
    routers = set(cells["router"].dropna())
    found = [re.sub(r"-w[\d._]+", ", weighted", name) for name in names]
    if len(routers) == 1:
        router = routers.pop()
        found = [name.replace(f" ({router})", "").replace(f", {router})", ")") for name in found]
    return found if len(set(found)) == len(set(names)) else names


def _colour(row: pd.Series):
    if row["reading"] == "closed":
        return GREY
    if row["reading"] == "module":
        return COLOURS[0] if row["partition"] == "document" else COLOURS[2]
    return COLOURS[1] if row["reading"] == "routed" else COLOURS[3]


def _bars(axis, own: pd.DataFrame, colours: Sequence) -> None:
    """Horizontal bars from the top with intervals and their numbers."""
    for place, ((_, row), colour) in enumerate(zip(own.iterrows(), colours, strict=True)):
        interval_bar(axis, place, row, colour)
    axis.invert_yaxis()
    highest = own["ci_high"].max()
    axis.set_xlim(0, 1.3 * (highest if pd.notna(highest) and highest > 0.1 else 0.1))
    percent_ticks(axis.xaxis)


def by_hops(levels: pd.DataFrame, cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Each way of reading by the level of the question: points side by side, with intervals."""
    own = _ways(cells_at(cells, source, metric, probe))
    found = levels[
        (levels["metric"] == metric) & (levels["probe"] == probe) & levels["cell"].isin(set(own["cell"]))
    ]
    names = sorted(found["level"].unique(), key=_hops)
    figure, axis = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
    width = 0.75 / max(1, len(own))
    for number, ((_, row), name) in enumerate(zip(own.iterrows(), _short(own), strict=True)):
        mine = found[found["cell"] == row["cell"]].set_index("level").reindex(names)
        at = np.arange(len(names)) + (number - (len(own) - 1) / 2) * width
        good = mine["mean"].notna().to_numpy()
        mine, at = mine[good], at[good]
        axis.errorbar(
            at, mine["mean"], yerr=reach(mine), linestyle="none", capsize=2,
            marker=MARKERS[number % len(MARKERS)], color=_colour(row), label=name, markersize=5,
        )  # fmt: skip
    counts = found.groupby("level")["n"].max()
    axis.set_xticks(
        range(len(names)),
        [name.replace("-hop-", "-hop\n") + f"\nn={counts[name]}" for name in names],
        fontsize=8,
    )
    axis.set_xlabel("facts that must be joined (within a passage or across)")
    percent_axis(axis)
    to_height(axis, found)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(title(source, metric, probe, "by hops, closed book"), fontsize=10, loc="left")
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=2)
    return figure


def _hops(level: str) -> tuple[int, str]:
    words = ("single", "two", "three", "four")
    return next((number for number, word in enumerate(words) if level.startswith(word)), len(words)), level


def contexts(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """For each context: the base, one module a document, and merged chunks' modules, side by side."""
    part = cells_at(cells, source, metric, probe)
    part = part[~part["reading"].str.contains("wrong|random", regex=True)].copy()
    # the right chunk's module is an oracle, and a document of a chunk's cell is that of the document's
    part = part[~(part["reading"].str.startswith(("module", "icl")) & (part["partition"] == "chunk"))]
    part = part[~(part["reading"].str.startswith(("routed", "merged")) & (part["partition"] == "document"))]
    part["way"], part["context"] = zip(
        *(((way(row), context(row))) for _, row in part.iterrows()), strict=True
    )
    part["way"] = _short(part)
    groups = [name for name in CONTEXTS if (part["context"] == name).any()]
    names = list(dict.fromkeys(part.sort_values("reading", key=_order, kind="stable")["way"]))
    figure, axis = plt.subplots(figsize=(7.0, 3.8), layout="constrained")
    width = 0.8 / max(1, len(names))
    shown: set[str] = set()
    for place, group in enumerate(groups):
        asked = [name for name in names if ((part["way"] == name) & (part["context"] == group)).any()]
        for number, name in enumerate(asked):
            row = part[(part["way"] == name) & (part["context"] == group)].iloc[0]
            x = place + (number - (len(asked) - 1) / 2) * width
            if pd.isna(row["mean"]):
                axis.plot([x], [0], marker="x", color="crimson", markersize=8, clip_on=False)
                continue
            colour = GREY if name == "base alone" else COLOURS[names.index(name) - ("base alone" in names)]
            axis.bar(x, row["mean"], width * 0.92, color=colour, label=None if name in shown else name)
            axis.vlines(x, row["ci_low"], row["ci_high"], color="black", linewidth=1.2)
            axis.text(
                x, row["ci_high"] + 0.01, f"{100 * row['mean']:.0f}", ha="center", va="bottom", fontsize=7
            )
            shown.add(name)
    axis.set_xticks(range(len(groups)), [CONTEXTS[group] for group in groups], fontsize=8.5)
    axis.set_xlabel("in the context")
    percent_axis(axis)
    to_height(axis, part)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(title(source, metric, probe, "beside a context"), fontsize=10, loc="left")
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=2)
    return figure


def _order(readings: pd.Series) -> pd.Series:
    stems = ("module", "routed", "merged")
    return readings.map(lambda name: next((i for i, stem in enumerate(stems, 1) if name.startswith(stem)), 0))


def swept(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """How modules were trained by how they are read: mean and n in each cell; the best is framed, what was not run hatched."""
    part = cells_at(cells, source, metric, probe)
    part = part[part["reading"].isin(["module", "routed", "merged"])].copy()
    part["setting"] = [setting(row) for _, row in part.iterrows()]
    part["way"] = [way(row) for _, row in part.iterrows()]
    part["way"] = _short(part)
    rows = list(part.sort_values(["budget", "lr", "alpha"])["setting"].unique())
    columns = list(part.sort_values("reading", key=_order, kind="stable")["way"].unique())
    means, counts = (part.pivot_table(index="setting", columns="way", values=name, aggfunc="first", dropna=False).reindex(index=rows, columns=columns).astype(float) for name in ("mean", "n"))  # fmt: skip
    labels = np.array([
        ["" if pd.isna(mean) else f"{100 * mean:.0f} %\nn={count:.0f}" for mean, count in zip(*pair, strict=True)]
        for pair in zip(means.to_numpy(), counts.to_numpy(), strict=True)
    ])  # fmt: skip
    figure, axis = plt.subplots(
        figsize=(2.4 + 0.95 * len(columns), 1.9 + 0.42 * max(2, len(rows))), layout="constrained"
    )
    axis.set_facecolor("0.9")
    axis.patch.set(hatch="///", edgecolor="0.6")
    top = np.nanmax(means.to_numpy()) if means.notna().any().any() else 1.0
    sns.heatmap(
        means, annot=labels, fmt="", vmin=0, vmax=max(0.1, top), cmap="viridis", ax=axis, cbar=False, annot_kws={"fontsize": 7},
        mask=means.isna().to_numpy(),
    )  # fmt: skip
    free = means.drop(
        columns=[name for name in columns if name.startswith("the right")]
    )  # an oracle is nobody's choice
    if free.notna().any().any():
        row, column = (int(place) for place in np.argwhere(free.to_numpy() == np.nanmax(free.to_numpy()))[0])
        column = columns.index(str(free.columns[column]))
        axis.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor="crimson", linewidth=2.2))
    axis.set_xticklabels([_folded(name) for name in columns], rotation=0, fontsize=7)
    axis.set_yticklabels(rows, rotation=0, fontsize=7.5)
    axis.set_xlabel("how the modules are read")
    axis.set_ylabel("")
    axis.set_title(title(source, metric, probe, "by training and reading"), fontsize=10, loc="left")
    return figure


def _folded(name: str) -> str:
    """A way of reading on short lines."""
    return (
        name.replace(" (", "\n(")
        .replace(", ", ",\n")
        .replace("merged", "\nmerged")
        .replace("-w", "\n-w")
        .replace(" of ", "\nof ")
        .replace("chunk's ", "chunk's\n")
    )


def ways_of_many(
    cells: pd.DataFrame, tests: list[dict], source: str, metric: str, probe: str | None
) -> Figure:
    """Chunks' modules one at a time and merged: scores, and paired differences to the router's first choice."""
    own = _ways(cells_at(cells, source, metric, probe))
    own = own[own["reading"].isin(["module", "routed", "merged"]) & (own["partition"] == "chunk")]
    firsts = own[(own["reading"] == "routed") & (own["module_on"] == "all")]
    first = firsts.iloc[0]["cell"] if len(firsts) else None
    found = paired(tests, first, metric, probe)
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(8.4, 1.1 + 0.36 * max(3, len(own))),
        layout="constrained",
        sharey=True,
        width_ratios=(1.15, 1),
    )
    _bars(left, own, [_colour(row) for _, row in own.iterrows()])
    left.set_yticks(range(len(own)), _short(own), fontsize=8)
    figure.suptitle(title(source, metric, probe, "of chunks' modules"), fontsize=10, x=0.01, ha="left")
    left.set_title("score", fontsize=9, loc="left")
    for place, (_, row) in enumerate(own.iterrows()):
        if row["cell"] == first:
            right.text(0, place, " is compared with", va="center", fontsize=7.5, color=GREY)
        elif row["cell"] in found:
            difference(right, place, found[row["cell"]])
    difference_axis(right, list(found.values()))
    right.set_title("less the router's chunk, paired", fontsize=9, loc="left")
    return figure


def paired(
    tests: list[dict], against: str | None, metric: str, probe: str | None
) -> dict[str, tuple[float, float, float]]:
    """cell -> (cell - against, low, high), of all that was tested fact by fact with it."""
    found = {}
    for test in tests:
        if (test["metric"], test["probe"]) != (metric, probe):
            continue
        if test["against"] == against:
            found[test["cell"]] = (test["difference"], test["ci_low"], test["ci_high"])
        elif test["cell"] == against:
            found[test["against"]] = (-test["difference"], -test["ci_high"], -test["ci_low"])
    return found


def difference(axis, place: float, test: tuple[float, float, float]) -> None:
    mean, low, high = test
    colour = COLOURS[2] if low > 0 else COLOURS[3] if high < 0 else GREY
    axis.errorbar(
        [mean],
        [place],
        xerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
        marker="o",
        color=colour,
        capsize=2.5,
        markersize=5,
    )
    axis.annotate(
        f"{100 * mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]", (high, place), xytext=(4, 0), textcoords="offset points",
        va="center", fontsize=7.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def difference_axis(axis, tests: Sequence[tuple[float, float, float]]) -> None:
    low, high = (min([0.0, *(t[1] for t in tests)]), max([0.0, *(t[2] for t in tests)]))
    span = max(0.05, high - low)
    axis.set_xlim(low - 0.06 * span, high + 0.42 * span)
    axis.axvline(0, color="0.3", linewidth=0.9)
    axis.xaxis.set_major_locator(WholePercents(most=np.inf))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}" if value else "0"))
    axis.set_xlabel("points")
    axis.grid(axis="x", alpha=0.25)


def reach(cells: pd.DataFrame | pd.Series) -> np.ndarray:
    """How far intervals reach below and above their means, `[2, cells]`; rounding may put an end on the wrong side of a mean of 0."""
    mean, low, high = (
        np.atleast_1d(np.asarray(cells[name], float)) for name in ("mean", "ci_low", "ci_high")
    )
    return np.clip(np.stack([mean - low, high - mean]), 0, None)


def to_height(axis, part: pd.DataFrame) -> None:
    """Low scores are drawn larger: the axis ends above the highest interval."""
    highest = part["ci_high"].max() if len(part) else np.nan
    if pd.notna(highest):
        axis.set_ylim(-0.03 * max(0.3, highest), min(1.08, max(0.2, 1.18 * highest)))


def title(source: str, metric: str, probe: str | None, what: str) -> str:
    wording = f", {probe} wording" if probe in ("trained", "heldout") else ""
    return f"{source}: {TITLES.get(metric, metric)} {what}".rstrip() + wording
