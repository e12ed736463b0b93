"""Q5, do formats add up? Every sum of formats against the best of its parts."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Findings, main_budget
from loramem.studies.supervised import beside, by_protocol, clearly, compared, leading, modules_of

PUBLISHED = (
    "Paper (PaperQA, judged 0 to 10, one seed, Llama-3.1-8B / Qwen3-8B): raw 3.187/4.587; QA40 5.893/5.409; raw+QA40 6.300/5.371; "
    "summary8+QA40 6.380/5.662; rewrite4+QA40 6.650/5.427; all 6.822/5.614."
)
PRINTED = (
    ("raw", "3.187 / 4.587"), ("qa:40", "5.893 / 5.409"), ("raw+qa:40", "6.300 / 5.371"), ("summary:8+qa:40", "6.380 / 5.662"),
    ("rewrite:4+qa:40", "6.650 / 5.427"), ("raw+summary:8+rewrite:4+qa:40", "6.822 / 5.614"),
)  # fmt: skip
"""Points of 10, Llama-3.1-8B / Qwen3-8B."""
SOURCE = "papers"


def analyse(summary: dict) -> Findings:
    """Per protocol and sum of formats: against the best of its parts that was trained alone."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    answer = by_protocol(summary, SOURCE, lead, _sentences)
    printed = [(recipe, f"{paper} of 10") for recipe, paper in PRINTED]
    return Findings(
        tuple(answer), PUBLISHED, (("by_supervision", SOURCE), ("by_level", SOURCE), ("per_token", SOURCE)),
        beside=beside(modules_of(summary, SOURCE, *lead, main_budget(summary, SOURCE)), "supervision", printed),
    )  # fmt: skip


def _sentences(summary: dict, table: pd.DataFrame) -> list[str]:
    cells = {str(cell["supervision"]): cell for _, cell in table.iterrows()}
    sentences, words = [], []
    for recipe, cell in cells.items():
        parts = [cells[part] for part in recipe.split("+") if part in cells] if "+" in recipe else []
        if not parts:
            continue
        best = max(parts, key=lambda part: part["mean"])
        words.append(clearly(summary, cell, best))
        if text := compared(summary, cell, best):
            sentences.append(f"{text}.")
    if not words:
        return []
    first = (
        f"Of {len(words)} sums of formats, {words.count('more')} write clearly more than the best of their parts, "
        f"{words.count('less')} clearly less; {words.count('open')} are not told apart from it."
    )
    return [first, *sentences]
