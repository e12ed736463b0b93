"""Cells and tests of made-up summaries of questions 8 to 11."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

PAPERS = "papers"


def cell(name: str, mean: float | None, **more: object) -> dict:
    """A cell of exact match in held-out wording, its interval 5 points to either side."""
    row = {
        "cell": name, "source": PAPERS, "size_tokens": None, "metric": "exact_match", "probe": "heldout", "reading": "module",
        "partition": "document", "router": None, "merge": None, "top_k": None, "module_on": "all", "retriever": None, "pool_size": None,
        "n_modules": 4, "rank": 16, "budget": "steps=240", "steps": 240.0, "exposures": 24.0, "snapshot": None, "mean": mean, "n": 40,
        "facts": 40, "base_name": "tiny", "supervision": "qa:40", "n_failed": 0,
    }  # fmt: skip
    if more.get("reading") in ("routed", "merged"):
        row |= {"pool_size": 4, "top_k": 1}
    row |= more
    mean = row["mean"]  # type: ignore[assignment]
    return {
        **row,
        "ci_low": None if mean is None else mean - 0.05,
        "ci_high": None if mean is None else mean + 0.05,
    }


def gap(a: str, b: str, mean: float, low: float, high: float, *, probe: str = "heldout") -> dict:
    return {
        "cell": a,
        "against": b,
        "metric": "exact_match",
        "probe": probe,
        "difference": mean,
        "ci_low": low,
        "ci_high": high,
    }


def summary(cells: Iterable[dict], tests: Iterable[dict]) -> dict:
    return {
        "cells": list(cells), "comparisons": {"tests": list(tests)}, "merges": [], "levels": [], "sweeps": [], "supervision": [],
        "capacity": {"cells": [], "limits": [], "laws": []}, "run": {"study": "made-up"},
    }  # fmt: skip


def rule_rows(name: str, **scores: float) -> list[dict]:
    """Other scores of a cell, in the wording of the answers."""
    where = {"strangers_refused": "stranger", "kl_to_base": "unrelated", "common_accuracy": "unrelated"}
    return [
        cell(name, mean, metric=metric, probe=where.get(metric, "heldout"), reading="merged")
        for metric, mean in scores.items()
    ]


def sectors(equal: float, exposures: float) -> list[dict]:
    """A phonebook in four sectors, one large module at equal steps and one at equal exposures, two routers."""
    own = {"source": "phonebook", "size_tokens": 4000, "probe": "trained"}
    cut, whole = {**own, "partition": "tokens:1000"}, {**own, "partition": "corpus", "n_modules": 1}
    rows = [
        cell("sectors", 0.99, **cut, rank=4),
        cell("large-240", equal, **whole, exposures=6.0),
        cell("large-960", exposures, **whole, steps=960.0, budget="steps=960"),
    ]
    for router, found in (("bm25", 0.95), ("embedding", 0.4)):
        rows.append(cell(router, found - 0.02, **cut, reading="routed", router=router))
        rows.append(cell(router, found, **cut, reading="routed", router=router, metric="route_at_1"))
    return rows


def q09_cells() -> list[dict]:
    """The right module, one for all, three routers with their own scores, and harm."""
    rows = [
        cell("right", 0.6), cell("all", 0.45, partition="corpus", n_modules=1),
        cell("base", 0.05, reading="closed", partition=None, rank=None, budget=None),
    ]  # fmt: skip
    for router, mean in (("bm25", 0.6), ("embedding", 0.4), ("random", 0.2)):
        rows.append(cell(f"r-{router}", mean, reading="routed", router=router))
    scores = {
        "route_at_1": 0.8,
        "route_at_3": 0.95,
        "route_mrr": 0.9,
        "none_auroc": 0.75,
        "own_kept": 0.65,
        "strangers_refused": 0.85,
    }
    rows += [{**row, "reading": "routed", "router": "bm25"} for row in rule_rows("r-bm25", **scores)]
    for name, reading, kl, common in (("right", "module", 2.0, 0.4), ("all", "module", 2.5, 0.3), ("base", "closed", 0.0, 0.9), ("r-embedding", "routed", 1.9, 0.5)):  # fmt: skip
        cut = {"right": "document", "all": "corpus", "base": None}.get(name, "document")
        own = {"reading": reading, "partition": cut, "router": "embedding" if reading == "routed" else None}
        rows += [{**row, **own} for row in rule_rows(name, kl_to_base=kl, common_accuracy=common)]
    return rows


def merged(rules: Mapping[str, float]) -> list[dict]:
    """The right module, the first choice, and three merged by each rule."""
    rows = [
        cell("right", 0.6),
        cell("first", 0.4, reading="routed", router="embedding"),
        cell("wrong", 0.05, reading="wrong-module"),
    ]
    return rows + [
        cell(f"m-{rule}", mean, reading="merged", router="embedding", merge=rule, top_k=3)
        for rule, mean in rules.items()
    ]


def numbered(rule: str, means: Sequence[float]) -> list[dict]:
    """The right module alone and merged with 0, 1, ... others."""
    return [
        cell("right", 0.6),
        *(
            cell(f"{rule}-{n}", mean, reading="merged", router="oracle", merge=rule, top_k=n)
            for n, mean in enumerate(means, 1)
        ),
    ]
