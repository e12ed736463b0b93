"""Q1, does capacity scale with rank? Efficacy of edits against rank, one curve per load (the paper's form)."""

from __future__ import annotations

import math

import pandas as pd

from loramem.studies.findings import Beside, Findings, cells_of, difference, main_budget, points, share, verb

PUBLISHED = (
    "Paper (Llama-3.1-8B, CounterFact at 8K to 14K tokens, ranks 2 to 1,024, 1,500 steps, one seed): efficacy rises "
    "monotonically with rank, from about 70 to about 90 %, with diminishing returns. Curves only; no interval."
)
PUBLISHED_RANGE = {"counterfact": (0.7, 0.9)}
METRIC = {"counterfact": "efficacy", "phonebook": "exact_match"}


def analyse(summary: dict) -> Findings:
    """Per load: lowest against highest rank, and the first half of the doublings against the second."""
    answer: list[str] = []
    for source, metric in METRIC.items():
        budget = main_budget(summary, source)
        table = cells_of(
            summary, source=source, metric=metric, reading="module", probe="trained", budget=budget
        )
        if table.empty:
            continue
        verdicts: list[str] = []
        sentences: list[str] = []
        for _, part in table.dropna(subset=["mean"]).groupby(table["size_tokens"].astype(int)):
            part = part.sort_values("rank")
            if len(part) < 2:
                continue
            low, high = part.iloc[0], part.iloc[-1]
            mean, at_least, at_most = difference(low, high)
            verdicts.append(verb(at_least, at_most, "rises", "falls", "open"))
            text = (
                f"at {part.iloc[0]['size_tokens']:,.0f} tokens rank {int(low['rank'])} gives {share(low)} and rank {int(high['rank'])} "
                f"{share(high)}: {points(mean, at_least, at_most)}"
            )
            if len(part) > 2:
                middle = part.iloc[len(part) // 2]
                before, after, at_least, at_most = _bend(low, middle, high)
                text += (
                    f"; per doubling up to rank {int(middle['rank'])} {100 * before:+.1f} points, beyond it {100 * after:+.1f} ("
                    + verb(
                        at_least,
                        at_most,
                        "diminishing",
                        "accelerating",
                        "no clear difference between the two",
                    )
                    + ")"
                )
            sentences.append(text)
        if not verdicts:
            continue  # one rank alone says nothing of rank
        rises = verdicts.count("rises")
        what = "efficacy of the edits" if source == "counterfact" else "exact match of the phonebook"
        answer.append(
            f"{source}: {what} rises with rank at {rises} of {len(verdicts)} loads"
            + (f", falls at {verdicts.count('falls')}" if "falls" in verdicts else "")
            + (f", and the intervals leave {verdicts.count('open')} open" if "open" in verdicts else "")
            + "."
        )
        answer += [sentence[0].upper() + sentence[1:] + "." for sentence in sentences]
    figures = tuple(("by_rank", source) for source in METRIC)
    return Findings(tuple(answer), PUBLISHED, figures, PUBLISHED_RANGE, _beside(summary))


def _beside(summary: dict) -> tuple[Beside, ...]:
    """Efficacy at the largest load, of the lowest and the highest rank."""
    table = cells_of(
        summary, source="counterfact", metric="efficacy", reading="module", probe="trained",
        budget=main_budget(summary, "counterfact"),
    )  # fmt: skip
    table = table.dropna(subset=["mean"]) if len(table) else table
    if table.empty:
        return ()
    own = table[table["size_tokens"] == table["size_tokens"].max()].sort_values("rank")
    ends = (
        ("lowest", own.iloc[0], "rank 2: about 70 %"),
        ("highest", own.iloc[-1], "rank 1,024: about 90 %"),
    )
    return tuple(
        Beside(
            f"efficacy of edits, {word} rank, largest load", f"{paper} (8K to 14K tokens; read off curves)",
            f"rank {int(cell['rank'])}: {share(cell)} ({cell['size_tokens']:,.0f} tokens)",
        )
        for word, cell, paper in ends
    )  # fmt: skip


def _bend(low: pd.Series, middle: pd.Series, high: pd.Series) -> tuple[float, float, float, float]:
    """Gain per doubling of the rank before and after the middle cell, and an interval (MOVER) of the one less the other.

    The middle cell stands in both gains with opposite signs, so its error counts in their sum.
    """
    first, second = math.log2(middle["rank"] / low["rank"]), math.log2(high["rank"] / middle["rank"])
    before, after = (middle["mean"] - low["mean"]) / first, (high["mean"] - middle["mean"]) / second
    parts = ((low, -1 / first), (middle, 1 / first + 1 / second), (high, -1 / second))
    ends = [(w * (c["ci_low"] - c["mean"]), w * (c["ci_high"] - c["mean"])) for c, w in parts]
    below, above = (math.hypot(*(pick(end) for end in ends)) for pick in (min, max))
    return before, after, before - after - below, before - after + above
