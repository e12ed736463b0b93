"""Q1, does capacity scale with rank? Efficacy of edits against rank, one curve per load (the paper's form)."""

from __future__ import annotations

from loramem.studies.findings import Findings, cells_of, difference, main_budget, points, share, verb

PUBLISHED = (
    "Paper (Llama-3.1-8B, CounterFact at 8K to 14K tokens, ranks 2 to 1,024, 1,500 steps, one seed): efficacy rises "
    "monotonically with rank, from about 70 to about 90 %, with diminishing returns. Curves only; no interval."
)
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
                first, second = difference(low, middle), difference(middle, high)
                gap = first[0] - second[0]
                spread = sum(max(x[0] - x[1], x[2] - x[0]) ** 2 for x in (first, second)) ** 0.5
                text += (
                    f"; up to rank {int(middle['rank'])} {100 * first[0]:+.1f} points, beyond it {100 * second[0]:+.1f} ("
                    + verb(
                        gap - spread,
                        gap + spread,
                        "diminishing",
                        "accelerating",
                        "no clear difference between the halves",
                    )
                    + ")"
                )
            sentences.append(text)
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
    return Findings(tuple(answer), PUBLISHED, figures)
