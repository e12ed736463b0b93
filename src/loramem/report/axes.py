"""Axes and bars that all figures share: shares in whole percents, logarithmic scales, a bar with its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import Formatter, MaxNLocator, PercentFormatter


def interval_bar(
    axis, place: float, row: pd.Series, colour, *, height: float = 0.65, share: bool = True
) -> None:
    """A horizontal bar with its interval and both in numbers, in per cent or as they are; a word where there is no result."""
    if pd.isna(row["mean"]):
        axis.annotate(
            "no result", (0.0, place), xytext=(4, 0), textcoords="offset points", va="center", color="crimson", fontsize=8
        )  # fmt: skip
        return
    axis.barh(place, row["mean"], color=colour, height=height)
    axis.hlines(place, row["ci_low"], row["ci_high"], color="black", linewidth=1.3)
    scale, digits = (100, 0) if share else (1, 2)
    mean, low, high = (f"{scale * row[name]:.{digits}f}" for name in ("mean", "ci_low", "ci_high"))
    axis.annotate(
        f"{mean} [{low}, {high}]", (max(row["mean"], row["ci_high"]), place), xytext=(4, 0), textcoords="offset points", va="center",
        fontsize=7.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}, zorder=5,
    )  # fmt: skip


class WholePercents(MaxNLocator):
    """Ticks at whole percents, since labels have no decimals, and at none that a share cannot reach."""

    def __init__(self, most: float = 1.0):
        super().__init__(nbins="auto", steps=[1, 2, 5, 10])
        self.most = most

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        return [float(tick) for tick in super().tick_values(vmin, vmax) if tick <= self.most + 1e-9]


def percent_ticks(axis) -> None:
    """For an x or y axis of shares."""
    axis.set_major_locator(WholePercents())
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def percent_axis(axis) -> None:
    axis.set_ylim(-0.03, 1.03)
    percent_ticks(axis.yaxis)
    axis.grid(axis="y", alpha=0.25)


def load_axis(axis, sizes: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(
        sizes, [f"{size / 1000:g}K" if size >= 1000 else str(size) for size in sizes], minor=False
    )
    axis.minorticks_off()
    axis.set_xlabel("knowledge written (tokens of the base)")


def rank_axis(axis, ranks: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(ranks, [str(rank) for rank in ranks])
    axis.minorticks_off()
    axis.set_xlabel("rank of the module")


def plain_number(x: float) -> str:
    """A tick of a logarithmic axis.

    >>> [plain_number(x) for x in (0.01, 50.0, 100000.0, 2e6, 1e9)]
    ['0.01', '50', '100,000', '2M', '1,000M']
    """
    return f"{x / 1e6:,g}M" if x >= 1e6 else f"{x:,g}"


class _PlainNumbers(Formatter):
    """Labels at decades; over up to two of them at 2 and 5 as well, where the axis shows but a few ticks at all of these."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        assert self.axis is not None, "a formatter is asked by its axis"
        low, high = sorted(self.axis.get_view_interval())
        seen = np.log10(high / low)
        first = round(x / 10 ** np.floor(np.log10(x) + 1e-9))
        labelled = range(1, 10) if seen < 0.5 else (1, 2, 5) if seen < 2 else (1,)
        return plain_number(x) if first in labelled else ""


def log_scale(axis, which: str = "xy") -> None:
    """Make axes (`x`, `y` or both) logarithmic to base 10."""
    for name in which:
        getattr(axis, f"set_{name}scale")("log")
        own = getattr(axis, f"{name}axis")
        own.set_major_formatter(_PlainNumbers())
        own.set_minor_formatter(_PlainNumbers())
        own.set_tick_params(which="both", pad=4.0)
