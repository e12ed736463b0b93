"""Q3, is the highest rank the most efficient? T_max per parameter by rank; ranks without a limit in the grid are left out."""

from __future__ import annotations

from loramem.studies.findings import Beside, Findings, listed, main_budget

PUBLISHED = (
    "Paper (Llama-3.1-8B, thresholds 90/95/100 % on PhoneBook and 75/80/85 % on CounterFact, one seed): T_max / N_params "
    "peaks at a small rank (about 4). Neither T_max nor N_params is tabulated, and high ranks never reach their limit "
    "inside the grid, so that small ranks look efficient by construction."
)


def analyse(summary: dict) -> Findings:
    """Per source and threshold: the most efficient of the ranks whose limit was found, and whether others are below it."""
    answer: list[str] = []
    beside: list[Beside] = []
    figures: list[tuple[str, str]] = []
    limits = summary["capacity"]["limits"]
    for source in dict.fromkeys(row["source"] for row in limits):
        budget = main_budget(summary, source)
        for threshold in sorted({row["threshold"] for row in limits if row["source"] == source}):
            own = [
                row for row in limits
                if row["source"] == source and row["budget"] == budget and row["threshold"] == threshold
            ]  # fmt: skip
            answer.append(_sentence(source, threshold, own))
            usable = [row for row in own if row["crossing_per_parameter"] is not None]
            best = max(usable, key=lambda row: row["crossing_per_parameter"], default=None)
            ours = (
                "no rank has its limit inside the grid"
                if best is None
                else f"rank {best['rank']} by its mean, of {len(usable)} with a limit inside the grid"
            )
            beside.append(
                Beside(
                    f"{source} at {100 * threshold:g} %: most efficient rank", "about 4 (not tabulated)", ours
                )
            )
        figures += [("efficiency", source), ("limits", source), ("bits", source)]
    return Findings(tuple(answer), PUBLISHED, tuple(figures), beside=tuple(beside))


def _sentence(source: str, threshold: float, own: list[dict]) -> str:
    usable = [row for row in own if row["crossing_per_parameter"] is not None]
    out = [row["rank"] for row in own if row["crossing_per_parameter"] is None]
    head = f"{source} at {100 * threshold:g} %: "
    tail = f" Left out: rank {listed(out)} (limit outside the grid)." if out else ""
    if len(usable) < 2:
        return (
            head + f"{len(usable)} rank with a limit inside the grid, so efficiency cannot be compared.{tail}"
        )
    best = max(usable, key=lambda row: row["crossing_per_parameter"])
    shown = "; ".join(f"rank {row['rank']} {1000 * row['crossing_per_parameter']:.0f}" for row in usable)
    below = [row["rank"] for row in usable if row is not best and _clearly_below(row, best)]
    highest = usable[-1]
    if highest is best:
        verdict = f"the highest of them, rank {best['rank']}, is the most efficient by its mean"
    elif highest["rank"] in below:
        verdict = (
            f"the highest of them, rank {highest['rank']}, is not the most efficient: rank {best['rank']} is"
        )
    else:
        verdict = f"rank {best['rank']} has the best mean, but the intervals do not separate it from the highest, rank {highest['rank']}"
    return (
        head + f"tokens held per 1,000 parameters (interpolated): {shown}; {verdict}"
        + (f"; clearly below it: rank {listed(below)}" if below else "; none is clearly below it") + f".{tail}"
    )  # fmt: skip


def _clearly_below(row: dict, best: dict) -> bool:
    """The intervals of the interpolated limits per parameter do not touch."""
    return (
        row["crossing_high"] is not None
        and best["crossing_low"] is not None
        and (row["crossing_high"] / row["parameters"] < best["crossing_low"] / best["parameters"])
    )
