"""Q11, how many modules may be merged? The right one with N - 1 others, by the number and by the rule."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Beside, Findings, listed, points, share, verb
from loramem.studies.many import against, sentences, tested
from loramem.studies.supervised import leading
from loramem.studies.ways import At

PUBLISHED = (
    "Paper (PaperQA, the right document's module among N = 1 to 5 merged by TIES, judged 0 to 10, one seed): best at N = 1, then a monotone "
    "fall. A curve only, no figures."
)
SOURCE = "papers"
LINEAR = "linear-delta"
"""The rule under which one module is merged into itself, whatever the module."""


def analyse(summary: dict) -> Findings:
    """For each rule: from one module to the most, each step on the way, and where nothing was merged."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    at = At(summary, SOURCE, lead)
    rules = by_rule(at.all("merged", router="oracle", module_on="all"))
    ends = [_ends(at, rule, cells) for rule, cells in rules.items()]
    answer = (
        *_verdict(at, rules), *sentences(*ends), *(text for rule, cells in rules.items() for text in _steps(at, rule, cells)),
        *_alone(at, rules), *_most(at, rules),
    )  # fmt: skip
    ties = rules.get("ties-factors") or rules.get("ties-delta") or []
    rows = (
        [Beside("TIES from one module to the most", "best at 1, monotone fall (curve only)", _curve(ties))]
        if len(ties) > 1
        else []
    )
    return Findings(answer, PUBLISHED, (("merged_by_number", SOURCE),), beside=tuple(rows))


def by_rule(cells: list[pd.Series]) -> dict[str, list[pd.Series]]:
    """The cells of each rule in rising number of modules."""
    found: dict[str, list[pd.Series]] = {}
    for cell in sorted(cells, key=lambda cell: int(cell["top_k"])):
        found.setdefault(str(cell["merge"]), []).append(cell)
    return found


def _curve(cells: list[pd.Series]) -> str:
    return ", ".join(f"N = {int(cell['top_k'])}: {share(cell)}" for cell in cells)


def _verdict(at: At, rules: dict[str, list[pd.Series]]) -> tuple[str, ...]:
    """The rules by what their ends allow."""
    words: dict[str, list[str]] = {
        "clearly less than alone": [],
        "clearly more than alone": [],
        "no clear difference to alone": [],
    }
    most = 0
    for rule, cells in rules.items():
        if len(cells) < 2 or (found := tested(at.summary, cells[-1], cells[0])) is None:
            continue
        most = max(most, int(cells[-1]["top_k"]))
        words[
            verb(
                found[1],
                found[2],
                "clearly more than alone",
                "clearly less than alone",
                "no clear difference to alone",
            )
        ].append(rule)
    said = [f"{word} with {listed(names)}" for word, names in words.items() if names]
    return sentences(f"The right module among {most} merged gives {'; '.join(said)}" if said else None)


def _ends(at: At, rule: str, cells: list[pd.Series]) -> str | None:
    if len(cells) < 2:
        return None
    names = tuple(f"{rule}, {int(cell['top_k'])} merged," for cell in (cells[-1], cells[0]))
    return against(at.summary, cells[-1], cells[0], (names[0], names[1]))


def _steps(at: At, rule: str, cells: list[pd.Series]) -> tuple[str, ...]:
    """Whether the score falls at every step, as far as the tests of neighbours tell."""
    pairs = list(zip(cells, cells[1:], strict=False))
    gaps = [
        (f"{int(a['top_k'])} to {int(b['top_k'])}", gap)
        for a, b in pairs if (gap := tested(at.summary, b, a)) is not None
    ]  # fmt: skip
    if not gaps:
        return sentences(f"{rule}: {_curve(cells)} (no step was tested)" if len(cells) > 1 else None)
    falls, rises = (
        [step for step, (_, _, high) in gaps if high < 0],
        [step for step, (_, low, _) in gaps if low > 0],
    )
    if len(falls) == len(pairs):
        word = "it falls clearly at every step"
    else:
        word = f"it falls clearly at {len(falls)} of {len(pairs)} steps" + (
            f" and rises clearly at {listed(rises)}" if rises else ""
        )
        ordered = all(b["mean"] <= a["mean"] for a, b in pairs)
        word += ", and the means fall or stay at each" if ordered and not rises else ""
    return sentences(
        f"{rule}: {_curve(cells)}; {word} ({'; '.join(f'{step} {points(*gap)}' for step, gap in gaps)})"
    )


def _alone(at: At, rules: dict[str, list[pd.Series]]) -> tuple[str, ...]:
    """One module merged is that module under rules that cut nothing; a rule that prunes prunes it."""
    module = at.one("module")
    found = []
    for rule, cells in rules.items():
        if (
            module is None
            or int(cells[0]["top_k"]) != 1
            or (gap := tested(at.summary, cells[0], module)) is None
        ):
            continue
        same = gap == (0, 0, 0)
        reason = ", by construction" if same and rule == LINEAR else ""
        said = (
            f"answers as the module itself does{reason}" if same else f"{points(*gap)} to the module itself"
        )
        found.append(f"One module merged by {rule}: {said}")
    return sentences(*found)


def _most(at: At, rules: dict[str, list[pd.Series]]) -> tuple[str, ...]:
    """The most that were merged against the module itself and against the base alone."""
    module, base = at.one("module"), at.one("closed")
    return sentences(*(
        against(at.summary, cells[-1], other, (f"{rule}, {int(cells[-1]['top_k'])} merged,", name))
        for rule, cells in rules.items() if len(cells) > 1
        for name, other in (("the right module alone", module), ("the base alone", base))
    ))  # fmt: skip
