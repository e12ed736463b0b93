"""Made-up cells of studies that read many modules, for tests of sentences and figures."""

from __future__ import annotations

from collections.abc import Iterable

EMPTY = dict.fromkeys((
    "partition", "router", "merge", "top_k", "module_on", "pool_size", "retriever", "distractors", "rank", "budget", "lr", "alpha", "snapshot",
    "size_tokens", "targets", "layers", "variant", "objective", "supervision", "generator", "base_name",
))  # fmt: skip
MADE = {
    "rank": 4, "budget": "exposures=20", "lr": 0.01, "alpha": 8.0, "targets": "all-linear", "layers": "all", "variant": "lora", "objective": "ntp-answer",
    "supervision": "qa:40", "generator": "source",
}  # fmt: skip


def cell(
    reading: str, *, source: str = "chronicles", metric: str = "exact_match", mean: float | None = 0.3, **more
) -> dict:
    """One cell as in summary.json; modules are of one making unless said otherwise, intervals reach 10 points to either side."""
    uses = reading.partition("+")[0] in ("module", "routed", "merged", "wrong-module", "random-module")
    row = {**EMPTY, "base_name": "tiny", **(MADE | {"module_on": "all"} if uses else {}), **more}
    name = [
        source,
        *(
            str(row[key])
            for key in (
                "partition",
                "lr",
                "targets",
                "layers",
                "variant",
                "objective",
                "budget",
                "router",
                "merge",
                "top_k",
                "module_on",
                "retriever",
            )
            if row[key] is not None
        ),
        reading,
    ]
    ends = (None, None) if mean is None else (max(0.0, mean - 0.1), min(1.0, mean + 0.1))
    return {
        "cell": "-".join(name), "source": source, "metric": metric, "probe": "heldout", "reading": reading, "mean": mean, "ci_low": ends[0], "ci_high": ends[1],
        "n": 60, "facts": 30, "seeds": 2, "n_failed": 0, **row,
    }  # fmt: skip


def compared(a: dict, b: dict, mean: float, low: float, high: float) -> dict:
    """The paired test of a - b."""
    return {
        "cell": a["cell"],
        "against": b["cell"],
        "metric": a["metric"],
        "probe": a["probe"],
        "difference": mean,
        "ci_low": low,
        "ci_high": high,
        "facts": 30,
        "p": 0.5,
    }


def level(of: dict, name: str, mean: float, half: float = 0.05) -> dict:
    return {
        "cell": of["cell"], "metric": of["metric"], "probe": of["probe"], "level": name, "mean": mean, "ci_low": max(0.0, mean - half),
        "ci_high": min(1.0, mean + half), "n": 20, "n_failed": 0,
    }  # fmt: skip


def summary(cells: Iterable[dict], tests: Iterable[dict] = ()) -> dict:
    tests = list(tests)
    return {
        "cells": list(cells), "levels": [], "comparisons": {"made": len(tests), "adjustment": "Holm", "tests": tests}, "capacity": {"cells": [], "limits": [], "laws": []},
        "supervision": [], "run": {"study": "made-up"},
    }  # fmt: skip


def chronicles(**more) -> dict[str, dict]:
    """Closed-book cells of one source: the base, one module a document, the right chunk's, the router's chunk and document, three merged."""
    router = {"router": "embedding", "pool_size": 12}
    found = {
        "base": cell("closed", **more), "single": cell("module", partition="document", mean=0.5, **more), "right": cell("module", partition="chunk", mean=0.5, **more),
        "routed": cell("routed", partition="chunk", top_k=1, **router, **more), "routed_documents": cell("routed", partition="document", top_k=1, **router, **more),
        "merged": cell("merged", partition="chunk", top_k=3, merge="ties-delta", **router, **more),
    }  # fmt: skip
    routes = {**found["routed"], "metric": "route_at_1", "mean": 0.4, "ci_low": 0.3, "ci_high": 0.5}
    return {**found, "routes": routes}


def _variant(parameters: int = 60_000, **more) -> dict:
    return cell("module", **{"source": "papers", "partition": "corpus", "parameters": parameters, **more})


ABLATION = {
    "first": _variant(mean=0.5), "attention": _variant(20_000, targets="attention"), "q": _variant(5_000, targets="q_proj"), "first-half": _variant(layers="first-half"),
    "dora": _variant(variant="dora"), "kl": _variant(objective="dcd-l1_weight=0"), "both": _variant(targets="mlp", variant="dora"),
    "documents": _variant(partition="document", variant="dora"), "longer": _variant(variant="pissa", budget="steps=9"),
}  # fmt: skip
"""Modules of an ablation; the last three are no variants of the first."""
