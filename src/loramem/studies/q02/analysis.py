"""Q2, is there a finite limit, and what sets it? Score against load by rank, T_max, and what the budget does to it."""

from __future__ import annotations

import itertools

import pandas as pd

from loramem.studies.findings import Beside, Findings, cells_of, difference, main_budget, points, share, verb

PUBLISHED = (
    "Paper (Llama-3.1-8B, loads of 1K to 20K tokens, 1,500 steps at every load, one seed): high, then a sharp drop at a "
    "load that grows with rank. No limit is tabulated; loads and exposures are confounded (250 exposures of a fact at "
    "1K tokens, 12 at 20K)."
)


def analyse(summary: dict) -> Findings:
    """The limits of the main grid, how failing cells are called, and the protocols beside each other."""
    answer: list[str] = []
    figures: list[tuple[str, str]] = []
    sources = list(dict.fromkeys(row["source"] for row in summary["capacity"]["limits"]))
    for source in sources:
        budget = main_budget(summary, source)
        limits = [
            row
            for row in summary["capacity"]["limits"]
            if row["source"] == source and row["budget"] == budget
        ]
        thresholds = sorted({row["threshold"] for row in limits})
        middle = thresholds[len(thresholds) // 2]
        own = [row for row in limits if row["threshold"] == middle]
        answer.append(f"{source}, {protocol_words(budget)}: at {100 * middle:g} % {_limit_words(own)}.")
        reached = [row for row in own if not row["censored"] and row["t_max_tokens"] is not None]
        if len(reached) > 1:
            ordered = [row["t_max_tokens"] for row in reached]
            grows = all(a <= b for a, b in zip(ordered, ordered[1:], strict=False))
            apart = reached[-1]["ci_low"] > reached[0]["ci_high"]
            answer.append(
                f"{source}: the limit {'grows' if apart and grows else 'does not clearly grow'} with rank over the ranks that reach it "
                f"(rank {reached[0]['rank']} [{reached[0]['ci_low']:,.0f}, {reached[0]['ci_high']:,.0f}], "
                f"rank {reached[-1]['rank']} [{reached[-1]['ci_low']:,.0f}, {reached[-1]['ci_high']:,.0f}] tokens)."
            )
        failing = [
            c
            for c in summary["capacity"]["cells"]
            if c["source"] == source and c["budget"] == budget and c["cause"]
        ]
        by_capacity = sum(cell["cause"] == "capacity" for cell in failing)
        if failing:
            answer.append(
                f"{source}: of {len(failing)} cells that fail {100 * thresholds[0]:g} %, {by_capacity} stand at a plateau of the loss "
                f"(capacity) and {len(failing) - by_capacity} still fell when the budget ended (budget)"
                + (
                    "; so no limit of capacity is shown (a loss curve under a decaying rate errs towards budget)."
                    if by_capacity == 0
                    else "."
                )
            )
        answer += _longer(summary, source, budget)
        law = next(
            (
                row
                for row in summary["capacity"]["laws"]
                if row["source"] == source and row["budget"] == budget
            ),
            None,
        )
        if law is not None and law["r2"] is not None and law["r2_held_out"] is not None:
            answer.append(
                f"{source}: the memory law dL = {law['scale']:.3g} r^{law['a']:.2f} l^-{law['b']:.2f} {law['c']:+.2f} explains "
                f"R2 = {law['r2']:.2f} of {law['fitted']} fitted cells and {law['r2_held_out']:.2f} of {law['held_out']} it did not see."
            )
        answer += _protocols(summary, source)
        figures += [("by_load", source), ("limits", source), ("protocols", source), ("memory_law", source)]
    return Findings(tuple(answer), PUBLISHED, tuple(figures), beside=_beside(summary))


def _beside(summary: dict) -> tuple[Beside, ...]:
    """Exposures of a fact at both ends of the load, which the paper lets fall; and the limits, which it does not tabulate."""
    rows: list[Beside] = []
    for source in dict.fromkeys(row["source"] for row in summary["capacity"]["limits"]):
        budget = main_budget(summary, source)
        cells = cells_of(summary, source=source, reading="module", budget=budget)
        if len(cells):
            cells = cells.sort_values("size_tokens")
            ours = ", ".join(
                f"{cell['exposures']:.0f} at {cell['size_tokens']:,.0f} tokens"
                for cell in (cells.iloc[0], cells.iloc[-1])
            )
            rows.append(
                Beside(f"{source}: exposures of a fact", "about 250 at 1,000 tokens, 12 at 20,000", ours)
            )
        own = [
            row
            for row in summary["capacity"]["limits"]
            if row["source"] == source and row["budget"] == budget
        ]
        middle = (
            sorted({row["threshold"] for row in own})[len({row["threshold"] for row in own}) // 2]
            if own
            else 0
        )
        shown = "; ".join(
            f"rank {row['rank']} {row['shown'] if row['t_max_tokens'] is not None else 'below its smallest load'}"
            for row in own
            if row["threshold"] == middle
        )
        if shown:
            rows.append(
                Beside(
                    f"{source}: limit at {100 * middle:g} %, tokens", "grows with rank; not tabulated", shown
                )
            )
    return tuple(rows)


def _limit_words(rows: list[dict]) -> str:
    """The limits of one threshold, ranks whose limit lies outside the grid apart."""
    parts = [
        f"rank {row['rank']} {row['shown']} tokens [{row['ci_low']:,.0f}, {'>= ' if row['high_censored'] else ''}{row['ci_high']:,.0f}]"
        for row in rows
        if not row["censored"] and row["t_max_tokens"] is not None
    ]
    words = [f"the limit is {'; '.join(parts)}" if parts else "no rank reaches its limit inside the grid"]
    words += [
        f"rank {row['rank']} fails at its smallest load already ({row['smallest_tokens']:,} tokens)"
        for row in rows
        if row["t_max_tokens"] is None
    ]
    words += [
        f"rank {row['rank']} passes its largest load ({row['t_max_tokens']:,} tokens), so nothing is said of its limit"
        for row in rows
        if row["censored"]
    ]
    return "; ".join(words)


def _longer(summary: dict, source: str, budget: str | None) -> list[str]:
    """What cells of the main grid give when they are trained until their loss stands still."""
    cells = [cell for cell in summary["capacity"]["cells"] if cell["source"] == source]
    found = []
    for cell in cells:
        if not str(cell["budget"]).startswith("plateau"):
            continue
        for other in cells:
            if other["budget"] == budget and (other["rank"], other["size_tokens"]) == (
                cell["rank"],
                cell["size_tokens"],
            ):
                mean, low, high = difference(pd.Series(other), pd.Series(cell))
                found.append(
                    f"{source}, rank {cell['rank']} at {cell['size_tokens']:,} tokens: {share(other)} after {other['exposures']:.0f} exposures, "
                    f"{share(cell)} when trained on until the loss stands still or all is memorised ({cell['exposures']:.0f} exposures): "
                    f"{points(mean, low, high)}."
                )
    return found


def protocol_words(budget: str | None) -> str:
    """`20 exposures per fact`, `400 steps`, `to a plateau`."""
    kind, _, amount = str(budget).partition("=")
    return {"exposures": f"{amount} exposures per fact", "steps": f"{amount} steps"}.get(
        kind, "trained to a plateau"
    )


def _protocols(summary: dict, source: str) -> list[str]:
    """Fixed steps against constant exposures at the smallest and the largest load that both have."""
    metric = next((row["metric"] for row in summary["capacity"]["limits"] if row["source"] == source), None)
    table = cells_of(summary, source=source, metric=metric, reading="module", probe="trained")
    found = []
    for rank, own in table.dropna(subset=["mean"]).groupby("rank"):
        protocols = {label: part.set_index("size_tokens") for label, part in own.groupby("budget")}
        fixed = [part for label, part in protocols.items() if str(label).startswith("steps")]
        constant = [part for label, part in protocols.items() if str(label).startswith("exposures")]
        for a, b in itertools.product(fixed, constant):
            shared = sorted(set(a.index) & set(b.index))
            for size in dict.fromkeys((shared[0], shared[-1])) if shared else ():
                mean, low, high = difference(a.loc[size], b.loc[size])
                word = verb(low, high, "more", "less", "neither clearly more nor less")
                found.append(
                    f"{source}, rank {rank:g} at {size:,} tokens: constant exposures ({b.loc[size]['exposures']:.0f} per fact) hold {word} "
                    f"than fixed steps ({a.loc[size]['exposures']:.0f} per fact): {share(b.loc[size])} against {share(a.loc[size])}, {points(mean, low, high)}."
                )
    return found
