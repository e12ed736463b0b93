"""Figures of questions 4 to 7: what supervision writes best, per token, by generator, and by the size of the base."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from loramem.report.axes import interval_bar, log_scale, percent_axis, percent_ticks
from loramem.report.figures import MARKERS, TITLES, reading_key, reading_name

FAMILIES = ("raw", "published", "rewrite", "summary", "qa", "mixture", "other")
COLOURS = dict(zip(FAMILIES, sns.color_palette("colorblind", len(FAMILIES)), strict=True))


def family(recipe: str) -> str:
    """The format of a recipe, for colours.

    >>> family("qa:40"), family("raw+qa:40"), family("paraphrase:10")
    ('qa', 'mixture', 'other')
    """
    if "+" in recipe:
        return "mixture"
    name = recipe.partition(":")[0]
    return name if name in FAMILIES else "other"


def _of(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> pd.DataFrame:
    part = cells[(cells["source"] == source) & (cells["metric"] == metric)]
    return part[part["probe"] == probe] if probe else part


def _label(row: pd.Series, columns: Sequence[str]) -> str:
    """What tells a bar from the others: its supervision, and whatever else varies."""
    return ", ".join(str(row[name]) for name in columns if pd.notna(row[name]))


def varying(modules: pd.DataFrame) -> list[str]:
    """Columns besides the supervision in which the modules of a source differ."""
    found = ["supervision"]
    found += [
        name for name in ("generator", "partition", "base_name", "rank", "budget", "objective", "variant")
        if modules[name].nunique() > 1 and not (name == "generator" and _by_recipe(modules))
    ]  # fmt: skip
    return found


def _by_recipe(modules: pd.DataFrame) -> bool:
    """Whether each recipe has one generator, so that naming it tells nothing."""
    return bool((modules.groupby("supervision")["generator"].nunique() <= 1).all())


def by_supervision(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """One bar per supervision, in the order of the study, readings without a module as lines."""
    part = _of(cells, source, metric, probe)
    modules = part[part["reading"] == "module"]
    columns = varying(modules)
    figure, axis = plt.subplots(figsize=(6.2, 1.1 + 0.27 * max(3, len(modules))), layout="constrained")
    labels = []
    for place, (_, row) in enumerate(modules.iterrows()):
        labels.append(_label(row, columns))
        interval_bar(axis, place, row, COLOURS[family(str(row["supervision"]))], height=0.7)
    others = part[part["reading"].isin(["closed", "icl"]) & part["mean"].notna()]
    for (_, row), style in zip(others.iterrows(), (":", "--", "-.", (0, (1, 3))), strict=False):
        name = reading_name(reading_key(row)) + (
            f" ({row['partition']})" if pd.notna(row["partition"]) else ""
        )
        axis.axvline(row["mean"], color="0.25", linestyle=style, linewidth=1.2, label=name)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, min(1.25, 1.35 * max([0.2, *part["ci_high"].dropna()])))
    percent_ticks(axis.xaxis)
    _title(axis, source, metric, probe, "by supervision")
    if len(others):
        figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=4)
    return figure


def by_level(
    levels: pd.DataFrame, cells: pd.DataFrame, source: str, metric: str, probe: str | None
) -> Figure:
    """Supervision by the level of the question; the readings without a module below."""
    part = _of(cells, source, metric, probe)
    modules = part[part["reading"] == "module"]
    columns = varying(modules)
    names = {row["cell"]: _label(row, columns) for _, row in modules.iterrows()}
    for _, row in part[part["reading"].isin(["closed", "icl"])].iterrows():
        names[row["cell"]] = reading_name(reading_key(row)) + (
            f" ({row['base_name']})" if "base_name" in columns else ""
        )
    own = levels[(levels["metric"] == metric) & (levels["probe"] == probe) & levels["cell"].isin(list(names))]
    table = own.pivot(index="cell", columns="level", values="mean").reindex(
        index=[cell for cell in names if cell in set(own["cell"])], columns=list(own["level"].unique())
    )
    bounds = {(row["cell"], row["level"]): (row["ci_low"], row["ci_high"]) for _, row in own.iterrows()}
    shown = [
        [
            "" if pd.isna(table.loc[cell, level]) else
            f"{100 * table.loc[cell, level]:.0f} [{100 * bounds[cell, level][0]:.0f}, {100 * bounds[cell, level][1]:.0f}]"
            for level in table.columns
        ]
        for cell in table.index
    ]  # fmt: skip
    figure, axis = plt.subplots(figsize=(6.2, 0.9 + 0.3 * max(3, len(table))))
    sns.heatmap(
        table.astype(float),
        annot=shown,
        fmt="",
        vmin=0,
        vmax=1,
        cmap="viridis",
        ax=axis,
        cbar=False,
        annot_kws={"fontsize": 7.5},
    )
    axis.set_yticklabels([names[cell] for cell in table.index], rotation=0, fontsize=8)
    figure.set_layout_engine("constrained")  # not before: seaborn draws it with the cells' long names
    axis.set_xlabel("level of the question")
    axis.set_ylabel("")
    _title(axis, source, metric, probe, "by level, %")
    return figure


def per_token(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Score against the tokens of supervision a module learns, one line per format."""
    part = _of(cells, source, metric, probe)
    modules = part[(part["reading"] == "module") & part["mean"].notna()].copy()
    modules["per_module"] = modules["supervision_tokens"].astype(float) / modules["n_modules"].astype(float)
    modules["family"] = [family(str(recipe)) for recipe in modules["supervision"]]
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    for number, (name, own) in enumerate(modules.groupby("family", sort=False)):
        own = own.sort_values("per_module")
        line = "none" if name in ("mixture", "other") else "-"
        axis.errorbar(
            own["per_module"], own["mean"], yerr=_reach(own), marker=MARKERS[number % len(MARKERS)], linestyle=line,
            color=COLOURS[str(name)], label=str(name), capsize=2, linewidth=1.4,
        )  # fmt: skip
    middle = np.sqrt(modules["per_module"].min() * modules["per_module"].max())
    # names of neighbours stand above and below in turn, and run towards the middle
    for place, (_, row) in enumerate(modules.sort_values("per_module", kind="stable").iterrows()):
        left = row["per_module"] <= middle
        axis.annotate(
            str(row["supervision"]), (row["per_module"], row["mean"]), xytext=(4 if left else -4, -9 if place % 2 else 4),
            textcoords="offset points", ha="left" if left else "right", fontsize=6,
        )  # fmt: skip
    log_scale(axis, "x")
    axis.set_xlabel("tokens of supervision per module (each example once)")
    percent_axis(axis)
    _fit(axis, modules)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    _title(axis, source, metric, probe, "per token of supervision")
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=4)
    return figure


def by_generator(
    cells: pd.DataFrame, supervision: list[dict], source: str, metric: str, probe: str | None
) -> Figure:
    """Score against the share of wrong values in the supervision: exact generators of several qualities as a line, models as
    marks of their own."""
    part = _of(cells, source, metric, probe)
    rates = {
        (row["base"], row["supervision"], row["generator"]): row["error_rate"]
        for row in supervision
        if row["source"] == source and row["split"] == "test"
    }
    modules = part[(part["reading"] == "module") & part["mean"].notna()].copy()
    modules["error_rate"] = [
        rates.get((row["base_name"], row["supervision"], row["generator"])) for _, row in modules.iterrows()
    ]
    known = modules[modules["error_rate"].notna()]
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    exact = known[known["generator"].astype(str).str.startswith("exact")].sort_values("error_rate")
    axis.errorbar(
        exact["error_rate"].astype(float), exact["mean"], yerr=_reach(exact),
        marker="o", capsize=2, linewidth=1.6, color=COLOURS["qa"], label="exact, with errors drawn at random",
    )  # fmt: skip
    others = known[~known.index.isin(exact.index)]
    for number, (_, row) in enumerate(others.iterrows()):
        axis.errorbar(
            [float(row["error_rate"])], [row["mean"]], yerr=[[row["mean"] - row["ci_low"]], [row["ci_high"] - row["mean"]]],
            marker=MARKERS[1 + number % (len(MARKERS) - 1)], capsize=2, color="0.2", linestyle="none", label=str(row["generator"]),
        )  # fmt: skip
    for _, row in modules[modules["supervision"] == "raw"].iterrows():
        axis.axhline(row["mean"], color=COLOURS["raw"], linestyle="--", linewidth=1.2, label="raw text")
    axis.set_xlabel("wrong values in the supervision (%)")
    percent_ticks(axis.xaxis)
    percent_axis(axis)
    _fit(axis, modules)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    _title(axis, source, metric, probe, "by quality of the generator")
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=2)
    return figure


def by_base(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Score against the parameters of the base: a line per supervision, the base alone and its reading of a context beside them."""
    part = _of(cells, source, metric, probe)
    part = part[part["mean"].notna()]
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    groups = [
        (str(name), own, "-")
        for name, own in part[part["reading"] == "module"].groupby("supervision", sort=False)
    ]
    groups += [
        (reading_name(stem), part[part["reading"] == stem], style)
        for stem, style in (("closed", ":"), ("icl", "-."))
    ]
    for number, (name, own, style) in enumerate(groups):
        if own.empty:
            continue
        own = own.sort_values("base_parameters")
        grey = style != "-"
        axis.errorbar(
            own["base_parameters"].astype(float), own["mean"], yerr=_reach(own),
            linestyle=style, marker=MARKERS[number % len(MARKERS)], capsize=2, label=f"module, {name}" if not grey else name,
            color="0.35" if grey else None,
        )  # fmt: skip
    sizes = sorted(part["base_parameters"].dropna().astype(int).unique())
    axis.set_xscale("log")
    axis.set_xticks(sizes, [f"{size / 1e6:.2g}M" if size < 1e9 else f"{size / 1e9:.2g}B" for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("parameters of the base")
    percent_axis(axis)
    _fit(axis, part)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    _title(axis, source, metric, probe, "by size of the base")
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=3)
    return figure


def _reach(cells: pd.DataFrame) -> list[pd.Series]:
    """How far the intervals reach below and above the means."""
    return [cells["mean"] - cells["ci_low"], cells["ci_high"] - cells["mean"]]


def _fit(axis, cells: pd.DataFrame) -> None:
    """Low scores are drawn larger: the axis ends a little above the highest interval, never below 30 %."""
    if len(cells):
        axis.set_ylim(-0.03, min(1.03, max(0.3, 1.15 * float(cells["ci_high"].max()))))


def _title(axis, source: str, metric: str, probe: str | None, what: str) -> None:
    wording = f", {probe} wording" if probe in ("trained", "heldout") else ""
    axis.set_title(f"{source}: {TITLES.get(metric, metric)} {what}{wording}", fontsize=10, loc="left")
