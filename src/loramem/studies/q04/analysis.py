"""Q4, does synthetic data help one module? Every format against the text itself, more of a format against less, formats in order."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Findings, main_budget
from loramem.studies.supervised import beside, by_protocol, clearly, compared, leading, modules_of, steps

PUBLISHED = (
    "Paper (PaperQA, one module, 1,000 steps, judged 0 to 10, one seed): QA 10/20/40, summaries 2/4/8 and rewrites 1/2/4 per document "
    "all beat the raw text, each rises with its amount, and QA > summary > rewrite > raw, also per token. Curves only."
)
CURVE = "curve only"
PRINTED = (
    ("raw", "3.187 / 4.587 of 10 (Llama-3.1-8B / Qwen3-8B; from its table of question 5)"),
    *((f"qa:{n}", CURVE) for n in (10, 20)), ("qa:40", "5.893 / 5.409 (the same table)"),
    *((f"summary:{n}", CURVE) for n in (2, 4, 8)), *((f"rewrite:{n}", CURVE) for n in (1, 2, 4)),
)  # fmt: skip
FORMATS = {"qa": "pairs", "summary": "summaries", "rewrite": "rewrites"}
SOURCE = "papers"


def analyse(summary: dict) -> Findings:
    """Sentences per protocol: against raw, by amount, and the order of formats at their largest amounts."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    answer = by_protocol(summary, SOURCE, lead, _sentences)
    return Findings(
        tuple(answer), PUBLISHED, (("by_supervision", SOURCE), ("by_level", SOURCE), ("per_token", SOURCE)),
        beside=beside(modules_of(summary, SOURCE, *lead, main_budget(summary, SOURCE)), "supervision", PRINTED),
    )  # fmt: skip


def _sentences(summary: dict, table: pd.DataFrame) -> list[str]:
    raw = next((cell for _, cell in table.iterrows() if cell["supervision"] == "raw"), None)
    answer: list[str] = []
    largest = {name: found[-1] for name in FORMATS if (found := steps(table, name))}
    if raw is not None and largest:
        others = [cell for name in FORMATS for cell in steps(table, name)]
        words = [clearly(summary, cell, raw) for cell in others]
        answer.append(
            f"Against the text itself, {words.count('more')} of {len(words)} supervisions write clearly more, "
            f"{words.count('less')} clearly less; {words.count('open')} are not told apart."
        )
        answer += [f"{text}." for cell in largest.values() if (text := compared(summary, cell, raw))]
    for name, called in FORMATS.items():
        found = steps(table, name)
        if len(found) > 1 and (text := compared(summary, found[-1], found[0])):
            answer.append(f"more {called}: {text}.")
    order = list(largest)
    for upper, lower in zip(order, order[1:], strict=False):
        if text := compared(summary, largest[upper], largest[lower]):
            answer.append(f"{FORMATS[upper]} or {FORMATS[lower]}: {text}.")
    return answer
