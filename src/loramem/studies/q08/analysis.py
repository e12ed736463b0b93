"""Q8, many small modules or one large one? A phonebook in sectors, one module each, beside one module for all of it."""

from __future__ import annotations

import pandas as pd

from loramem.studies.chosen import beside, held_against, router_name, scored_by
from loramem.studies.findings import Beside, Findings, listed, verb
from loramem.studies.many import against, sentences
from loramem.studies.ways import At

PUBLISHED = (
    "Paper (PhoneBook of 64K tokens, Llama-3.1-8B, 1,500 steps each, one seed, the right sector given): 8 modules of rank 4 with 8K tokens "
    "each 99.8 %, one module of rank 32 6.2 %, the book in the context (ICL) 32.2 %. With the same steps the large module sees each entry an "
    "eighth as often, so that what it holds and how long it was trained are not told apart."
)
SOURCE = "phonebook"
LEAD = ("exact_match", "trained")
CLOSE = 0.05
"""Relative difference under which two numbers of exposures count as equal."""


def analyse(summary: dict) -> Findings:
    """Sectors behind the right choice against one module at equal steps and at equal exposures, then contexts and routers."""
    at = At(summary, SOURCE, LEAD)
    small = [cell for cell in at.all("module") if cell["partition"] != "corpus"]
    answer: list[str] = []
    rows: list[Beside] = []
    for sectors in small:
        size = sectors["size_tokens"]
        large = [cell for cell in at.all("module", partition="corpus") if cell["size_tokens"] == size]
        answer += [
            *_verdict(at, sectors, large),
            *_large(at, sectors, large),
            *_contexts(at, sectors),
            *_routers(at, sectors),
        ]
        rows += _beside(at, sectors, large)
    return Findings(tuple(answer), PUBLISHED, (("sectors", SOURCE), ("routers", SOURCE)), beside=tuple(rows))


def budget_of(sectors: pd.Series, large: pd.Series) -> str:
    """What a large module has in common with each sector's: `as many steps`, `as many exposures`, or its steps."""
    if large["steps"] == sectors["steps"]:
        return "as many steps"
    if abs(large["exposures"] / sectors["exposures"] - 1) < CLOSE:
        return "as many exposures"
    return f"{large['steps']:g} steps"


def _spec(cell: pd.Series) -> str:
    many = int(cell["n_modules"])
    return (
        f"{many} modules of rank {int(cell['rank'])}"
        if many > 1
        else f"one module of rank {int(cell['rank'])}"
    )


def _verdict(at: At, sectors: pd.Series, large: list[pd.Series]) -> tuple[str, ...]:
    said = [
        f"{verb(-high, -low, 'hold more than', 'hold less than', 'are not told apart from')} {_spec(cell)} trained for {budget_of(sectors, cell)}"
        for cell, (_, low, high) in held_against(at.summary, large, sectors)
    ]  # fmt: skip
    return sentences(
        f"At {int(sectors['size_tokens']):,} tokens, with the right sector given, {_spec(sectors)} {' and '.join(said)}"
        if said
        else None
    )


def _large(at: At, sectors: pd.Series, large: list[pd.Series]) -> tuple[str, ...]:
    found = []
    for cell in large:
        names = (
            f"the sectors' modules ({sectors['steps']:g} steps, each entry seen {sectors['exposures']:.1f} times)",
            f"one module ({cell['steps']:g} steps, each entry seen {cell['exposures']:.1f} times)",
        )
        text = against(at.summary, sectors, cell, names)
        ceiling = min(sectors["mean"], cell["mean"]) > 0.98
        found.append(text and f"{budget_of(sectors, cell)}: {text}" + ("; both are at the ceiling, where neither could be better" if ceiling else ""))  # fmt: skip
    return sentences(*found)


def _contexts(at: At, sectors: pd.Series) -> tuple[str, ...]:
    found = []
    for cell in at.all("icl", "rag", "closed"):
        if cell["size_tokens"] != sectors["size_tokens"]:
            continue
        of = "the whole book" if cell["partition"] == "corpus" else "the right sector alone"
        name = {
            "icl": f"{of} in the context",
            "rag": f"passages found for the question (RAG, {cell['retriever']})",
        }.get(cell["reading"], "the base alone")
        found.append(against(at.summary, sectors, cell, ("the right sector's module", name)))
    return sentences(*found)


def _routers(at: At, sectors: pd.Series) -> tuple[str, ...]:
    routed = [
        cell
        for cell in at.all("routed", partition=sectors["partition"])
        if cell["size_tokens"] == sectors["size_tokens"]
    ]
    if not routed:
        return ()
    pool = int(routed[0]["pool_size"])
    lost = held_against(at.summary, routed, sectors)
    words = {"costs nothing that is told apart": [], "costs answers": []}  # type: dict[str, list[str]]
    for cell, (_, _, high) in lost:
        words["costs answers" if high < 0 else "costs nothing that is told apart"].append(
            router_name(cell["router"])
        )
    found: list[str | None] = [
        f"The pool of every router is all {pool} sectors, so that a random choice is right for {100 / pool:.1f} % of the questions; "
        + "; ".join(f"it {word} with {listed(names)}" for word, names in words.items() if names)
    ] if lost else []  # fmt: skip
    for cell in sorted(routed, key=lambda cell: -cell["mean"]):
        first = scored_by(at, cell, "route_at_1")
        name = router_name(cell["router"])
        finds = f"{name}: " if first is None else f"{name} finds the sector for {first} of the questions; "
        text = against(at.summary, cell, sectors, ("its answers", "the right sector's"))
        found.append(text and finds + text)
    return sentences(*found)


def _beside(at: At, sectors: pd.Series, large: list[pd.Series]) -> list[Beside]:
    what = f"exact match at {int(sectors['size_tokens']):,} tokens"
    rows = beside(f"sectors, the right one given ({what}; paper 64K)", "99.8 %", sectors)
    for cell in large:
        if cell["steps"] == sectors["steps"]:
            rows += beside("one large module, as many steps", "6.2 %", cell)
    for cell in at.all("icl", partition="corpus"):
        if cell["size_tokens"] == sectors["size_tokens"]:
            rows += beside("the book in the context (ICL)", "32.2 %", cell)
    return rows
