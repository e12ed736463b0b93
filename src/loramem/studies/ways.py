"""Questions 12 to 14: the ways in which a long document is read, in words, and the score that answers for its source.

Sentences (`studies/q12` to `q14`) and figures (`report/reading_figures.py`) name a reading by the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from loramem.answering.readings import context_name
from loramem.studies.findings import Beside, cells_of, share
from loramem.studies.many import one

SCORES = ("judge", "exact_match", "accuracy", "rouge_l", "token_f1")
"""Which score leads: the first that was measured."""
PUBLISHED_SCORES = {"narrativeqa": "rouge_l"}
"""Sources whose published score is another: the answers are free text."""
WRITTEN = {
    "exact_match": "exact match",
    "accuracy": "accuracy",
    "rouge_l": "ROUGE-L",
    "token_f1": "token F1",
    "judge": "judge",
}
ON = {"answer": ", on for the answer only", "after-prefix": ", on after the context"}
MODELS = "Llama-3.2-1B | Llama-3.1-8B | Qwen3-1.7B | Qwen3-8B"
"""The order of the paper's columns."""
SWEPT = "sweep"
"""The source on which settings are chosen; no answer is given of it."""
Row = Mapping[str, Any] | pd.Series


def way(row: Row) -> str:
    """Whose knowledge answers, without what stands in the context.

    >>> way({"reading": "icl", "partition": "chunk", "router": None})
    'base alone'
    >>> way({"reading": "merged+rag", "partition": "chunk", "router": "embedding", "top_k": 3, "merge": "ties-delta", "module_on": "all"})
    '3 chunks merged (ties-delta, embedding)'
    >>> way({"reading": "routed", "partition": "chunk", "router": "embedding", "module_on": "answer"})
    "the router's chunk (embedding), on for the answer only"
    >>> [way({"reading": "module", "partition": name, "module_on": "all"}) for name in ("document", "chunk", "corpus")]
    ['one module a document', "the right chunk's module", 'one module for all']
    """
    stem = str(row["reading"]).partition("+")[0]
    part = str(row["partition"])
    on = ON.get(str(row.get("module_on")), "")
    if stem == "module":
        return {"document": "one module a document", "corpus": "one module for all"}.get(
            part, f"the right {part}'s module"
        ) + on
    if stem == "routed":
        return f"the router's {part} ({row['router']}){on}"
    if stem == "merged":
        size, most, adaptive = row.get("pool_size"), int(row["top_k"]), row.get("adaptive")
        chosen = adaptive is not None and pd.notna(adaptive)
        fewer = chosen or (size is not None and pd.notna(size) and int(size) < most)
        how = f", {adaptive:g} of the confidence" if chosen else ""
        return f"{'up to ' if fewer else ''}{most} {part}s merged ({row['merge']}{how}, {row['router']}){on}"
    if stem in ("wrong-module", "random-module"):
        return stem.replace("-", " ")
    return "base alone"


def context(row: Row) -> str:
    """What stands before the question: `none`, `icl`, `rag`, `gold-passage`, `gold-summary`.

    >>> context({"reading": "module+icl"}), context({"reading": "rag"}), context({"reading": "closed"})
    ('icl', 'rag', 'none')
    """
    return context_name(str(row["reading"])) or "none"


def leading(summary: dict, source: str) -> tuple[str, str] | None:
    """(metric, probe) that answer for a source: held-out wording where it was asked. None: nothing was scored.

    A source whose paper scores free text (`PUBLISHED_SCORES`) is led by that score.
    """
    table = cells_of(summary, source=source)
    if table.empty:
        return None
    table = table[table["mean"].notna() & table["probe"].isin(["heldout", "trained"])]
    for metric in (PUBLISHED_SCORES.get(source, ""), *SCORES):
        probes = set(table.loc[table["metric"] == metric, "probe"])
        if probes:
            return metric, "heldout" if "heldout" in probes else "trained"
    return None


def sources_of(summary: dict) -> list[str]:
    """The sources that are reported on, in the order of the study."""
    return [name for name in dict.fromkeys(cell["source"] for cell in summary["cells"]) if name != SWEPT]


class At:
    """The cells of one source at its leading score; each method gives None, or no row, where there is no result.

    Args:
        asked: (metric, probe), see `leading`.
    """

    def __init__(self, summary: dict, source: str, asked: tuple[str, str]):
        self.summary, self.source = summary, source
        self.metric, self.probe = asked

    @property
    def named(self) -> str:
        """`chronicles, exact match`."""
        return f"{self.source}, {WRITTEN.get(self.metric, self.metric)}"

    def one(self, reading: str, **wanted: Any) -> pd.Series | None:
        """The cell of a reading; where nothing is said of it, of modules that are on for everything."""
        if wanted.get("partition") is not None:
            wanted.setdefault("module_on", "all")
        place = {"source": self.source, "metric": self.metric, "probe": self.probe}
        return one(self.summary, **{**place, "reading": reading, **wanted})

    def all(self, *readings: str, **wanted: Any) -> list[pd.Series]:
        """Every cell of some readings with a result, in the order of the study."""
        place = {"source": self.source, "metric": self.metric, "probe": self.probe}
        table = cells_of(self.summary, **{**place, **wanted})
        if table.empty:
            return []
        return [row for _, row in table[table["reading"].isin(readings) & table["mean"].notna()].iterrows()]

    def other(self, cell: pd.Series, metric: str) -> pd.Series | None:
        """Another score of the same cell."""
        return one(self.summary, cell=cell["cell"], metric=metric, probe=self.probe)


def places(summary: dict) -> list[At]:
    """Every source that is reported on, at its leading score."""
    return [
        At(summary, source, asked) for source in sources_of(summary) if (asked := leading(summary, source))
    ]


@dataclass(frozen=True)
class Printed:
    """A line of the paper's tables: what was read, its scores on NarrativeQA (ROUGE-L) and QuALITY (accuracy) by the four
    models, and our cell that stands beside it."""

    name: str
    narrativeqa: str
    quality: str
    cell: Mapping[str, Any]


def beside_paper(summary: dict, lines: Sequence[Printed]) -> tuple[Beside, ...]:
    """Every line that we measured too, by the paper's scores, on the same sources or their twins."""
    found = []
    for table, sources, metric, column in (
        ("NarrativeQA, ROUGE-L", ("narrativeqa", "chronicles"), "rouge_l", "narrativeqa"),
        ("QuALITY, accuracy", ("quality", "stories"), "accuracy", "quality"),
    ):
        for source in (name for name in sources_of(summary) if name in sources):
            asked = leading(summary, source)
            at = At(summary, source, (metric, asked[1] if asked else "heldout"))
            for line in lines:
                wanted = dict(line.cell)
                cells = at.all(wanted.pop("reading"), **wanted)
                if cells:
                    found.append(
                        Beside(
                            f"{table}: {line.name} ({MODELS})",
                            getattr(line, column),
                            f"{source} {share(cells[0])}",
                        )
                    )
    return tuple(found)
