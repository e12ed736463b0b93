"""Q12, long documents and several hops: one module for a document against one for each of its chunks, closed book."""

from __future__ import annotations

import pandas as pd

from loramem.studies.findings import Findings, difference, listed, points, share, verb
from loramem.studies.many import against, sentences
from loramem.studies.ways import At, Printed, beside_paper, places, way

PUBLISHED = (
    "Paper (closed book, NarrativeQA ROUGE-L, QuALITY accuracy; Llama-3.2-1B | Llama-3.1-8B | Qwen3-1.7B | Qwen3-8B; one seed): base "
    "9.08, 25.75 | 13.08, 32.01 | 13.27, 26.42 | 16.35, 26.06; single 23.81, 29.86 | 27.05, 42.42 | 24.78, 33.15 | 25.78, 44.10; multi top-1 "
    "16.87, 24.32 | 19.95, 37.83 | 15.90, 32.71 | 19.13, 39.46; multi top-3 16.85, 26.43 | 22.42, 42.42 | 16.27, 39.93 | 21.15, 46.26. Its "
    "claim that many lose to one holds of NarrativeQA on all four; on QuALITY three merged equal one module on Llama-3.1-8B and are above "
    "it on both Qwen3."
)
CHUNKS = {"partition": "chunk", "module_on": "all"}
TABLE = (
    Printed("base", "9.08 | 13.08 | 13.27 | 16.35", "25.75 | 32.01 | 26.42 | 26.06", {"reading": "closed"}),
    Printed(
        "single",
        "23.81 | 27.05 | 24.78 | 25.78",
        "29.86 | 42.42 | 33.15 | 44.10",
        {"reading": "module", "partition": "document"},
    ),
    Printed(
        "multi, top-1",
        "16.87 | 19.95 | 15.90 | 19.13",
        "24.32 | 37.83 | 32.71 | 39.46",
        {"reading": "routed", **CHUNKS},
    ),
    Printed(
        "multi, top-3 merged",
        "16.85 | 22.42 | 16.27 | 21.15",
        "26.43 | 42.42 | 39.93 | 46.26",
        {"reading": "merged", "merge": "ties-delta", "top_k": 3, **CHUNKS},
    ),
)
SINGLE_HOP = "single-hop"
FLOOR = 0.2
"""A score under which two ways can hardly differ by much."""


def analyse(summary: dict) -> Findings:
    """Per source: many against one, what of it is routing and what the cutting; then levels, hard questions, and controls."""
    found = places(summary)
    answer = [text for at in found for text in _gap(at)]
    answer += [text for at in found for text in (*_parts(at), *_levels(at), *_choices(at), *_base(at))]
    figures = [(kind, at.source) for kind in ("closed_book", "by_hops") for at in found]
    return Findings(tuple(answer), PUBLISHED, tuple(figures), beside=beside_paper(summary, TABLE))


def many(at: At) -> list[pd.Series]:
    """The readings that choose among the chunks' modules: each router's first choice, then what is merged."""
    return at.all("routed", partition="chunk", module_on="all") + at.all(
        "merged", partition="chunk", module_on="all"
    )


def _gap(at: At) -> tuple[str, ...]:
    """Many against one; then both behind the same router, for one module a document is asked as if its document were known."""
    single = at.one("module", partition="document")
    alike = [
        (cell, at.one(cell["reading"], partition="document", router=cell["router"], **_merge(cell)))
        for cell in many(at)
    ]
    return sentences(
        *(_against(at, cell, single) for cell in many(at)),
        *(_against(at, cell, other) for cell, other in alike),
    )


def _merge(cell: pd.Series) -> dict:
    return {name: cell[name] for name in ("merge", "top_k") if pd.notna(cell[name])}


def _parts(at: At) -> tuple[str, ...]:
    """The gap in two: a document that is cut (the right chunk's module against one module), and a router that errs."""
    right, single = (at.one("module", partition=name) for name in ("chunk", "document"))
    found = [_of("of cutting the document", at, right, single)]
    for cell in at.all("routed", partition="chunk", module_on="all"):
        text = _of("of routing", at, right, cell)
        found.append(text and text + _routes(at, cell))
    return sentences(*found)


def _of(what: str, at: At, a: pd.Series | None, b: pd.Series | None) -> str | None:
    text = None if a is None or b is None else against(at.summary, a, b, (way(a), way(b)))
    return text and f"{at.named}, {what}: {text}"


def _routes(at: At, cell: pd.Series) -> str:
    first = at.other(cell, "route_at_1")
    return "" if first is None else f"; its first choice holds the answer for {share(first)} of the questions"


def _levels(at: At) -> tuple[str, ...]:
    """Whether the gap is larger where facts must be joined.

    By level only intervals of the two scores are known, not paired ones, so these differences err towards "open".
    """
    single = at.one("module", partition="document")
    routed = at.all("routed", partition="chunk", module_on="all")
    if single is None or not routed:
        return ()
    one, multi = (_by_level(at, cell) for cell in (single, routed[0]))
    gaps = {name: difference(multi[name], one[name]) for name in one if name in multi}
    if SINGLE_HOP not in gaps or len(gaps) < 2:
        return ()
    shown = "; ".join(
        f"{name} {_percent(one[name])} against {_percent(multi[name])} ({points(*gap)})"
        for name, gap in gaps.items()
    )
    floor = [
        name for name in gaps if name != SINGLE_HOP and max(one[name]["mean"], multi[name]["mean"]) < FLOOR
    ]
    first = _as_row(gaps.pop(SINGLE_HOP))
    words = [
        verb(low, high, "larger", "smaller", "open")
        for _, low, high in (difference(first, _as_row(gap)) for gap in gaps.values())
    ]
    text = (
        f"{at.named}, one module against {way(routed[0])} by level (not paired): {shown}. Beside {SINGLE_HOP} questions the gap is clearly "
        f"larger at {words.count('larger')} of {len(words)} levels that join facts, clearly smaller at {words.count('smaller')}, open at "
        f"{words.count('open')}."
    )  # fmt: skip
    if floor:
        text += f" Where both stay under {_percent({'mean': FLOOR})} there is little room for a gap: {listed(floor)}."
    return (text,)


def _by_level(at: At, cell: pd.Series) -> dict[str, pd.Series]:
    return {
        str(row["level"]): pd.Series(row) for row in at.summary["levels"]
        if (row["cell"], row["metric"], row["probe"]) == (cell["cell"], at.metric, at.probe)
    }  # fmt: skip


def _percent(cell: pd.Series | dict) -> str:
    return f"{100 * cell['mean']:.0f} %"


def _as_row(gap: tuple[float, float, float]) -> pd.Series:
    return pd.Series(dict(zip(("mean", "ci_low", "ci_high"), gap, strict=True)))


def _choices(at: At) -> tuple[str, ...]:
    """Hard questions, and whether a reply names an option at all."""
    if at.metric != "accuracy":
        return ()
    cells = [cell for cell in (at.one("closed"), at.one("module", partition="document"), at.one("module", partition="chunk"), *many(at)) if cell is not None]  # fmt: skip
    hard = [(way(cell), own) for cell in cells if (own := at.other(cell, "accuracy_hard")) is not None]
    parsed = [(way(cell), own) for cell in cells if (own := at.other(cell, "parsed")) is not None]
    found = []
    if hard:
        facts = int(max(own["facts"] for _, own in hard))
        found.append(
            f"{at.source}, the {facts} hard questions alone (chance 25 %): "
            + "; ".join(f"{name} {share(own)}" for name, own in hard)
            + "."
        )
    if parsed and all(own["mean"] == 0 for _, own in parsed):
        asked = sum(int(own["n"]) for _, own in parsed)
        found.append(
            f"{at.source}: asked for a letter, none of {asked:,} replies names one option, so strict parsing says nothing here; options are scored by their likelihood."
        )
    elif parsed:
        said = [
            (name, own, at.other(cell, "accuracy_parsed"))
            for (name, own), cell in zip(parsed, cells, strict=False)
        ]
        found.append(
            f"{at.source}, asked for a letter: "
            + "; ".join(
                f"{name} names one in {share(own)}"
                + ("" if right is None else f", the right one in {share(right)}")
                for name, own, right in said
            )
            + "."
        )
    return tuple(found)


def _base(at: At) -> tuple[str, ...]:
    """Every way against the base alone, and the module against its controls."""
    base, single = at.one("closed"), at.one("module", partition="document")
    ways = [single, at.one("module", partition="chunk"), *many(at)]
    controls = at.all("wrong-module", "random-module", partition="chunk") + at.all(
        "random-module", partition="document"
    )
    own = {name: at.one("module", partition=name) for name in ("chunk", "document")}
    return sentences(
        *(_against(at, cell, base) for cell in ways if cell is not None),
        *(_against(at, own[cell["partition"]], cell) for cell in controls),
    )  # fmt: skip


def _against(at: At, a: pd.Series | None, b: pd.Series | None) -> str | None:
    """Two ways on the same questions; the source is named."""
    if a is None or b is None:
        return None
    text = against(at.summary, a, b, (way(a), way(b)))
    return text and f"{at.named}: {text}"
