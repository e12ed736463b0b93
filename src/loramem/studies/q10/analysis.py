"""Q10, can merging repair misrouting? Three chosen modules merged by every rule, against the first choice and the right module."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.stats import spearmanr

from loramem.studies.chosen import beside, harm, held_against, scored_by, space, tally
from loramem.studies.findings import Findings, listed, points, share, verb
from loramem.studies.many import against, sentences, tested
from loramem.studies.supervised import leading
from loramem.studies.ways import At

PUBLISHED = (
    "Paper (PaperQA, three modules by embedding, rules on the factors, judged 0 to 10, one seed): Llama-3.1-8B TIES 5.41, linear 4.92, "
    "CAT/sqrt(N) 4.77, DARE-linear 1.63, DARE-TIES 1.32, CAT 0.19 (first choice alone 4.94, right module 5.92); Qwen3-8B TIES 5.87, linear "
    "5.76, CAT/sqrt(N) 5.41, DARE about 5.1, CAT 2.30 (5.52, 6.57)."
)
SOURCE = "papers"
PAPER = {
    "ties-factors": "5.41 | 5.87", "linear-factors": "4.92 | 5.76", "cat-sqrt": "4.77 | 5.41", "dare-linear-factors": "1.63 | about 5.1",
    "dare-ties-factors": "1.32 | about 5.1", "cat": "0.19 | 2.30",
}  # fmt: skip
MEASURES = {
    "distance_to_mean": "distance to the mean update, over its norm,",
    "norm_ratio": "norm over the parents' mean norm",
    "rank_residual": "share cut away",
}
OF_PARENTS = {
    "sign_conflicts": "{:.2f} of the elements have opposite signs in two of the modules",
    "subspace_overlap": "their row spaces overlap by {:.2f} (1: the same)",
}


def analyse(summary: dict) -> Findings:
    """Rules against the first choice, then against the right module; factors against updates; measures of the merges."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    at = At(summary, SOURCE, lead)
    right, first = at.one("module"), at.one("routed", module_on="all")
    rules = sorted(at.all("merged", module_on="all"), key=lambda cell: -cell["mean"])
    answer = (
        *_verdict(at, rules, first, right), *_room(at, rules), *_each(at, rules, first, right), *_spaces(at, rules),
        *_measures(summary, rules),
        *sentences(harm(summary, [
            ("the first choice", first), *((str(cell["merge"]), cell) for cell in ([rules[0], rules[-1]] if len(rules) > 1 else rules)),
        ])),
    )  # fmt: skip
    rows = [
        row
        for cell in rules
        if (cell["merge"], cell["top_k"]) in {(name, 3) for name in PAPER}
        for row in beside(f"{cell['merge']}, top 3 (paper: judge, Llama | Qwen)", PAPER[cell["merge"]], cell)
    ]
    figures = (("merge_rules", SOURCE), ("merge_distances", SOURCE), ("harm", SOURCE))
    return Findings(answer, PUBLISHED, figures, beside=tuple(rows))


def _verdict(
    at: At, rules: list[pd.Series], first: pd.Series | None, right: pd.Series | None
) -> tuple[str, ...]:
    found: list[str | None] = []
    for name, other in (("the first choice alone", first), ("the right module", right)):
        judged = held_against(at.summary, rules, other)
        if judged and other is not None:
            counted = tally(judged, lambda cell: str(cell["merge"]), ("above", "below"))
            found.append(f"Against {name} ({share(other)}), of {len(judged)} rules {counted}")
            text = against(
                at.summary, judged[0][0], other, (f"the best rule, {judged[0][0]['merge']},", name)
            )
            found.append(text and f"{text}; as the highest of {len(judged)} it is flattered")
    found.append(against(at.summary, first, right, ("the first choice alone", "the right module")))
    return sentences(*found)


def _room(at: At, rules: list[pd.Series]) -> tuple[str, ...]:
    """How much misrouting there is to repair."""
    for cell in rules:
        first, three = (scored_by(at, cell, metric) for metric in ("route_at_1", "route_at_3"))
        if first and three and cell["top_k"] == 3:
            pool = int(cell["pool_size"])
            return sentences(
                f"The first choice is right for {first} of the questions and one of the three for {three}, from a pool of all {pool} modules "
                f"(three drawn at random hold the right one for {100 * min(3, pool) / pool:.0f} %): no merge can repair more than lies between"
            )
    return ()


def _each(
    at: At, rules: list[pd.Series], first: pd.Series | None, right: pd.Series | None
) -> tuple[str, ...]:
    found = []
    for cell in rules:
        parts = [
            f"{points(*gap)} to {name}"
            for name, other in (("the first choice", first), ("the right module", right))
            if other is not None and (gap := tested(at.summary, cell, other)) is not None
        ]
        found.append(f"{cell['merge']} {share(cell)}: {', '.join(parts)}" if parts else None)
    return sentences(*found)


def _spaces(at: At, rules: list[pd.Series]) -> tuple[str, ...]:
    """The same rule on the update and on the factors."""
    named = {(str(cell["merge"]), cell["top_k"]): cell for cell in rules}
    words, found = [], []
    for (rule, k), cell in named.items():
        other = named.get((rule.replace("-factors", "-delta"), k))
        if space(rule) != "factors" or other is None or (gap := tested(at.summary, other, cell)) is None:
            continue
        words.append(verb(gap[1], gap[2], "more", "less", "open"))
        found.append(against(at.summary, other, cell, (str(other["merge"]), rule)))
    if not words:
        return ()
    head = (
        f"On the update in place of the factors, {words.count('more')} of {len(words)} rules give clearly more, {words.count('less')} clearly "
        f"less; {words.count('open')} are not told apart"
    )
    return sentences(head, *found)


def _few(rules: Sequence[str]) -> str:
    return listed(rules) if len(rules) < 4 else f"{len(rules)} rules"


def _measures(summary: dict, rules: Sequence[pd.Series]) -> tuple[str, ...]:
    """What the merges came to, and whether scores go with it; rules are no sample of anything, so no interval is given."""
    scores = {cell["cell"]: cell["mean"] for cell in rules}
    own = [row for row in summary.get("merges", ()) if row["cell"] in scores]
    found: list[str | None] = []
    for name, words in MEASURES.items():
        pairs = [
            (row["measures"][name]["mean"], scores[row["cell"]], row["rule"])
            for row in own
            if name in row["measures"]
        ]
        if len(pairs) < 3 or len({pair[0] for pair in pairs}) < 2:
            continue
        low, high = (
            (end, [rule for value, _, rule in pairs if value == end])
            for end in (min(pairs)[0], max(pairs)[0])
        )
        text = f"{words} runs from {low[0]:.2f} ({_few(low[1])}) to {high[0]:.2f} ({_few(high[1])})"
        if len({pair[1] for pair in pairs}) > 1:
            text += f"; its rank correlation with the score over the {len(pairs)} rules is {spearmanr([p[0] for p in pairs], [p[1] for p in pairs]).statistic:+.2f}"  # fmt: skip
        found.append(f"{text} (described, not tested)")
    parents = [
        words.format(own[0]["measures"][name]["mean"]) for name, words in OF_PARENTS.items() if own and name in own[0]["measures"]
    ]  # fmt: skip
    if {"knots-linear", "linear-delta"} <= {str(cell["merge"]) for cell in rules}:
        found.append("knots-linear is linear-delta by construction, since a sum does not see the basis")
    return sentences(*found, f"Of what is merged: {' and '.join(parents)}" if parents else None)
