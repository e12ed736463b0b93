"""Figures of question 15: what an answer's seconds are made of, and after how many questions a way has cost less than another."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from loramem.report.axes import log_scale
from loramem.report.figures import MARKERS

PARTS = ("context", "route", "load", "merge", "prefill", "decode")
"""As `studies.timed_ways.PARTS`, from left to right."""
COLOURS = dict(zip(PARTS, sns.color_palette("colorblind", len(PARTS)), strict=True))
BASELINES = ("closed", "icl", "rag")


def short(row: dict) -> str:
    """A cell's name without source and size.

    >>> short({"cell": "chronicles-2000-chunk-r4-module", "source": "chronicles"})
    'chunk-r4-module'
    """
    return re.sub(r"^\d+-", "", row["cell"].removeprefix(f"{row['source']}-"))


def parts(rows: Sequence[dict]) -> Figure:
    """Stacked bars of the parts of a question asked alone; loading anew is a bar of its own. A line: range of the rounds."""
    shown = [row for row in rows if row["asked"] != "batch"]
    figure, axis = plt.subplots(figsize=(6.8, 1.2 + 0.27 * max(3, len(shown))), layout="constrained")
    labels = []
    for place, row in enumerate(shown):
        labels.append(short(row) + (", loaded anew" if row["asked"] == "loaded" else ""))
        left = 0.0
        for name in PARTS:
            # a difference of two measurements may fall below zero where nothing is decoded
            width = 1000 * max(0.0, row["parts"][name]["median"])
            axis.barh(
                place, width, left=left, color=COLOURS[name], height=0.7, label=name if place == 0 else None
            )
            left += width
        low, high = (1000 * row["seconds"][key] for key in ("low", "high"))
        axis.hlines(place, low, high, color="black", linewidth=1.3)
        axis.text(
            max(left, high), place, f" {1000 * row['seconds']['median']:.3g}, {row['new_tokens']:.0f} tokens", va="center", fontsize=7.5
        )  # fmt: skip
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.22)
    axis.set_xlim(left=0)
    axis.set_xlabel("milliseconds per question, asked one at a time", fontsize=9)
    axis.set_title("what an answer's time is made of", fontsize=10)
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=6)
    return figure


def break_even(latency: dict, unit: str = "seconds") -> Figure:
    """Cost of everything up to a number of questions, both axes logarithmic; rings where a module's reading has paid. Modules
    beside a context are left out: they cost no less than the context."""
    rows = [row for row in latency["rows"] if row["asked"] == "one" and row["reading"] != "closed"]
    rows = [row for row in rows if row["reading"] in ("icl", "rag", "module", "routed", "merged")]
    marks = [
        one for one in latency["break_even"]
        if one["asked"] == "one" and one["of"] == "source" and one["unit"] == unit and one["questions"]["median"] is not None
    ]  # fmt: skip
    most = 4 * max([250, *(one["questions"]["median"] for one in marks)])
    counts_N = np.unique(np.geomspace(1, most, 200).round())
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    for number, row in enumerate(rows):
        fixed, each = cost(latency, row, unit)
        style = (0, (5, 2)) if row["reading"] in BASELINES else "-"
        axis.plot(
            counts_N, fixed + each * counts_N, linestyle=style, linewidth=1.5, label=short(row),
            marker=MARKERS[number % len(MARKERS)], markevery=(number, 40), markersize=4,
        )  # fmt: skip
    costs = {row["cell"]: cost(latency, row, unit) for row in rows}
    for one in marks:
        if one["cell"] in costs:
            fixed, each = costs[one["cell"]]
            count = one["questions"]["median"]
            axis.plot(
                [count],
                [fixed + each * count],
                marker="o",
                markersize=9,
                fillstyle="none",
                color="black",
                linestyle="",
            )
    log_scale(axis)
    axis.set_xlabel("questions asked, one at a time", fontsize=9)
    axis.set_ylabel("seconds in all" if unit == "seconds" else "tokens through the model, in all", fontsize=9)
    axis.set_title(f"what has been spent, in {unit}", fontsize=10)
    axis.grid(alpha=0.25)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=2)
    return figure


def cost(latency: dict, row: dict, unit: str) -> tuple[float, float]:
    """(before the first question, for each) of a row, in seconds or in tokens through the model."""
    made = latency["made"].get(row["cell"])
    if unit == "tokens":
        return (made["tokens"] if made else 0), row["prompt_tokens"] + row["new_tokens"]
    return (made["seconds"] if made else 0.0) + row["index_seconds"], row["seconds"]["median"]
