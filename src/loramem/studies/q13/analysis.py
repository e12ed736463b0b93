"""Q13, modules beside external context: module and context together against each of the two alone."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from loramem.studies.findings import Findings, listed, share, verb
from loramem.studies.many import against, sentences, tested
from loramem.studies.ways import At, Printed, beside_paper, context, places, way

PUBLISHED = (
    "Paper (NarrativeQA ROUGE-L, QuALITY accuracy; Llama-3.2-1B | Llama-3.1-8B | Qwen3-1.7B | Qwen3-8B; one seed): ICL 24.52, 26.01 | 33.81, "
    "70.20 | 27.34, 46.80 | 35.22, 72.89; RAG 21.90, 26.12 | 29.20, 63.79 | 23.80, 43.43 | 31.15, 64.53; single+ICL 24.73, 28.34 | 35.39, 64.12 | "
    "28.37, 46.59 | 32.34, 67.49; top-3+ICL 26.41, 30.00 | 38.78, 69.22 | 29.17, 56.52 | 37.23, 76.26; top-3+RAG 24.53, 31.20 | 35.55, 60.34 | 29.10, "
    "54.99 | 37.64, 64.31. It says that a module with a context beats each alone. Its own table disagrees: on QuALITY single+ICL is below ICL on "
    "Llama-3.1-8B and both Qwen3, top-3+ICL and top-3+RAG below ICL and RAG on Llama-3.1-8B, top-3+RAG below RAG on Qwen3-8B; on NarrativeQA single+ICL "
    "is below ICL on Qwen3-8B. Its single+RAG cells on QuALITY repeat the closed-book ones and count as unknown."
)
DOCUMENT, CHUNKS = ({"partition": name, "module_on": "all"} for name in ("document", "chunk"))
TABLE = (
    Printed(
        "ICL",
        "24.52 | 33.81 | 27.34 | 35.22",
        "26.01 | 70.20 | 46.80 | 72.89",
        {"reading": "icl", "partition": "document"},
    ),
    Printed("RAG", "21.90 | 29.20 | 23.80 | 31.15", "26.12 | 63.79 | 43.43 | 64.53", {"reading": "rag"}),
    Printed(
        "single + ICL",
        "24.73 | 35.39 | 28.37 | 32.34",
        "28.34 | 64.12 | 46.59 | 67.49",
        {"reading": "module+icl", **DOCUMENT},
    ),
    Printed(
        "top-3 + ICL",
        "26.41 | 38.78 | 29.17 | 37.23",
        "30.00 | 69.22 | 56.52 | 76.26",
        {"reading": "merged+icl", "merge": "ties-delta", "top_k": 3, **CHUNKS},
    ),
    Printed(
        "top-3 + RAG",
        "24.53 | 35.55 | 29.10 | 37.64",
        "31.20 | 60.34 | 54.99 | 64.31",
        {"reading": "merged+rag", "merge": "ties-delta", "top_k": 3, **CHUNKS},
    ),
)
CONTEXTS = {
    "icl": "the document in the context", "rag": "retrieved passages", "gold-passage": "the gold passage", "gold-summary": "the gold summary",
}  # fmt: skip


@dataclass(frozen=True)
class Together:
    """A module beside a context, and each of the two alone."""

    both: pd.Series
    text: pd.Series
    module: pd.Series | None

    @property
    def name(self) -> str:
        return f"{way(self.both)} with {CONTEXTS[context(self.both)]}"

    def words(self, summary: dict) -> tuple[str | None, str | None]:
        """What the intervals allow against (the context, the module): `more`, `less`, `open`; None: not tested."""
        found = [
            None if other is None else tested(summary, self.both, other) for other in (self.text, self.module)
        ]
        text, module = (
            None if one is None else verb(one[1], one[2], "more", "less", "open") for one in found
        )
        return text, module


def analyse(summary: dict) -> Findings:
    """How many ways of joining the two beat each alone, then every pair, the upper bounds, and contexts that were cut."""
    found = places(summary)
    pairs = {at.source: together(at) for at in found}
    answer = [text for at in found for text in (*_count(at, pairs[at.source]), *_cut(at))]
    answer += [text for at in found for text in (*_each(at, pairs[at.source]), *_when_on(at), *_bounds(at))]
    figures = tuple(("contexts", at.source) for at in found)
    return Findings(tuple(answer), PUBLISHED, figures, beside=beside_paper(summary, TABLE))


def together(at: At) -> list[Together]:
    """Every module that is read beside the document or beside passages, on for all of it: one module a document, and what is
    chosen among the chunks' modules (the right chunk's module is read by an oracle, and left to the figure)."""
    found = []
    for cell in at.all("module+icl", "module+rag", partition="document", module_on="all") + at.all(
        *(f"{stem}+{name}" for stem in ("routed", "merged") for name in ("icl", "rag")),
        partition="chunk",
        module_on="all",
    ):
        text = _text(at, cell)
        if text is not None:
            found.append(Together(cell, text, _alone(at, cell)))
    return found


def _text(at: At, cell: pd.Series) -> pd.Series | None:
    """The context of a cell without a module: of documents those that one module a document reads."""
    name = context(cell)
    if name != "icl":
        return at.one(name, retriever=cell["retriever"])
    cells = at.all("icl")
    own = [one for one in cells if one["partition"] == "document"] or [
        one for one in cells if one["partition"] == cell["partition"]
    ]
    return own[0] if own else None


def _alone(at: At, cell: pd.Series) -> pd.Series | None:
    stem = str(cell["reading"]).partition("+")[0]
    return at.one(
        stem,
        **{name: _or_none(cell[name]) for name in ("partition", "router", "merge", "top_k", "module_on")},
    )


def _or_none(value):
    return None if pd.isna(value) else value


def _count(at: At, pairs: list[Together]) -> tuple[str, ...]:
    words = [(pair, *pair.words(at.summary)) for pair in pairs]
    words = [row for row in words if row[1] is not None and row[2] is not None]
    if not words:
        return ()
    better = [pair.name for pair, text, module in words if text == module == "more"]
    worse = [pair.name for pair, text, module in words if "less" in (text, module)]
    said = f"{at.named}: of {len(words)} ways to put modules beside a context, {len(better)} clearly beat{'s' if len(better) == 1 else ''} each of the two alone"
    said += f" ({listed(better)})" if better else ""
    said += f"; {len(worse)} {'is' if len(worse) == 1 else 'are'} clearly worse than one of the two" + (
        f" ({listed(worse)})" if worse else ""
    )
    return (f"{said}; {len(words) - len(better) - len(worse)} are not told apart from the better one.",)


def _each(at: At, pairs: list[Together]) -> tuple[str, ...]:
    return sentences(*(
        text and f"{at.named}: {text}"
        for pair in pairs
        for text in (
            against(at.summary, pair.both, pair.text, (pair.name, CONTEXTS[context(pair.text)] + " alone")),
            against(at.summary, pair.both, pair.module, (pair.name, f"{way(pair.both)} alone")),
        )
    ))  # fmt: skip


def _when_on(at: At) -> tuple[str, ...]:
    """A module that is switched on after the context was read, against one that also reads it, and against the text."""
    found = []
    for cell in at.all("module+icl", "module+rag", module_on="after-prefix", partition="document"):
        always = at.one(cell["reading"], partition="document", retriever=_or_none(cell["retriever"]))
        for other in (always, _text(at, cell)):
            if other is not None:
                where = f", beside {CONTEXTS[context(cell)]}"
                text = against(at.summary, cell, other, (way(cell), way(other)))
                found.append(text and f"{at.named}{where}: {text}")
    return sentences(*found)


def _bounds(at: At) -> tuple[str, ...]:
    """What the base gives where nothing has to be found: no test, for no module was read so."""
    shown = [
        f"{name} {share(cell)}"
        for reading, name in (("closed", "nothing"), *CONTEXTS.items())
        for cell in (
            at.all(reading)[:1]
            if reading != "icl"
            else [one for one in at.all("icl") if one["partition"] != "chunk"][:1]
        )
    ]
    return (f"{at.named}, the base alone reads: {'; '.join(shown)}.",) if len(shown) > 1 else ()


def _cut(at: At) -> tuple[str, ...]:
    """Where a context did not fit and was cut, of which no reading of it can make up; the question never is."""
    reading = {
        cell["cell"]: str(cell["reading"]) for cell in at.summary["cells"] if cell["source"] == at.source
    }
    rows = [row for row in at.summary.get("contexts", ()) if row["cell"] in reading and row["probes_cut"]]
    plain = [row for row in rows if reading[row["cell"]] in CONTEXTS] or rows
    if not rows:
        return ()
    shown = [
        f"{row['cell']} for {row['probes_cut']:,} of {row['probes']:,} questions, by up to {row['tokens']:,} tokens"
        for row in plain
    ]
    others = (
        f", and in {len(rows) - len(plain)} readings of modules beside it" if len(rows) > len(plain) else ""
    )
    return (f"{at.source}: contexts that did not fit were cut: {'; '.join(shown)}{others}.",)
