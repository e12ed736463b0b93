"""Q7, generator quality: the same pairs with more and more wrong values, and pairs that bases answered themselves."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Findings
from loramem.studies.supervised import compared, leading, modules_of

PUBLISHED = (
    "Paper (PaperQA, 20 pairs a document, judged 0 to 10, one seed): Llama raw 3.19, own 8B 4.46, GPT-4.1 5.47; Qwen 4.59, 4.84, 5.14. "
    "How good the pairs were is not reported."
)
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
    for _, cell in written.iterrows():
        rate = rates.get(cell["generator"])
        wrong = "" if rate is None or pd.isna(rate) else f" ({100 * rate:.0f} % of its values wrong)"
        rival = exact if exact is not None and cell["cell"] != exact["cell"] else raw
        if rival is not None and (text := compared(summary, cell, rival, "generator")):
            answer.append(f"{cell['generator']}{wrong}: {text}.".replace("source ", "the text itself "))
    if raw is not None:
        for _, cell in written.iterrows():
            if cell is not exact and (text := compared(summary, cell, raw, "generator")):
                answer.append(f"Against the text: {text}.".replace("source ", "the text itself "))
    return Findings(
        tuple(dict.fromkeys(answer)), PUBLISHED, (("by_generator", SOURCE), ("by_supervision", SOURCE))
    )
