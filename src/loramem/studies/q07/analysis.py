"""Q7, generator quality: the same pairs with more and more wrong values, and pairs that bases answered themselves."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Findings, listed, points, share, verb
from loramem.studies.supervised import beside, clearly, leading, modules_of, paired

PUBLISHED = (
    "Paper (PaperQA, 20 pairs a document, judged 0 to 10, one seed): Llama raw 3.19, own 8B 4.46, GPT-4.1 5.47; Qwen 4.59, 4.84, 5.14. "
    "How good the pairs were is not reported."
)
PRINTED = (
    ("raw", "3.19 / 4.59"), ("reader:embedded", "own 8B: 4.46 / 4.84"), ("exact", "GPT-4.1: 5.47 / 5.14"),
)  # fmt: skip
"""Points of 10, Llama-3.1-8B / Qwen3-8B. A base that answers itself stands beside a base that writes itself, exact pairs beside the strong generator."""
SOURCE = "papers"


def analyse(summary: dict) -> Findings:
    """Every generator against the exact one, with the share of its values that are wrong, and against the text itself."""
    lead = leading(summary, SOURCE)
    if lead is None:
        return Findings(())
    table = modules_of(summary, SOURCE, *lead)
    written = table[table["supervision"] != "raw"]
    exact = next((cell for _, cell in written.iterrows() if cell["generator"] == "exact"), None)
    raw = next((cell for _, cell in table.iterrows() if cell["supervision"] == "raw"), None)
    rates = {
        row["generator"]: row["error_rate"]
        for row in summary.get("supervision", ())
        if row["source"] == SOURCE and row["supervision"] != "raw" and row["split"] == "test"
    }
    answer: list[str] = []
    if exact is not None:
        others = [cell for _, cell in written.iterrows() if cell["cell"] != exact["cell"]]
        worse = [str(cell["generator"]) for cell in others if clearly(summary, cell, exact) == "less"]
        answer.append(
            f"Of {len(others)} other generators, {len(worse)} write clearly less than exact pairs do ({share(exact)}): {listed(worse)}."
        )
    for _, cell in written.iterrows():
        rate = rates.get(cell["generator"])
        wrong = "" if rate is None or pd.isna(rate) else f", {100 * rate:.0f} % of its values wrong,"
        if exact is None or cell["cell"] == exact["cell"]:
            continue
        if found := paired(summary, cell["cell"], exact["cell"], *lead):
            word = verb(
                found[1],
                found[2],
                "more than exact pairs",
                "less than exact pairs",
                "not clearly different from exact pairs",
            )
            answer.append(f"{cell['generator']}{wrong} gives {share(cell)}: {word} ({points(*found)}).")
    if raw is not None:
        words = {str(cell["generator"]): clearly(summary, cell, raw) for _, cell in written.iterrows()}
        for word, said in (
            ("more", "clearly more"),
            ("open", "no clear difference"),
            ("less", "clearly less"),
        ):
            names = [name for name, found in words.items() if found == word]
            if names:
                answer.append(f"against the text itself ({share(raw)}), {said}: {listed(names)}.")
    named = table.assign(generator=table["generator"].where(table["supervision"] != "raw", "raw"))
    printed = [(name, f"{paper} of 10") for name, paper in PRINTED]
    return Findings(
        tuple(answer), PUBLISHED, (("by_generator", SOURCE), ("by_supervision", SOURCE)), beside=beside(named, "generator", printed)
    )  # fmt: skip
