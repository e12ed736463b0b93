"""One report over a series of studies: each question with its answer, the paper's numbers, the verdicts and what it cost.

Everything is read from the run folders, so it can be drawn again at any time, and a study that has no result is shown as a hole.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json, write_text
from loramem.report.html import findings_of, number
from loramem.studies.expectations import VERDICTS
from loramem.studies.findings import Findings
from loramem.studies.progress import clock
from loramem.studies.series import STATUS

FIGURES = 2
"""Leading figures of a question that are shown; the others are in its own report."""


@dataclass(frozen=True)
class Member:
    """A study of the series, as its folder tells it.

    Attributes:
        error: Why there is nothing; empty where there is a result.
        counts: Verdicts by their word.
        figures: Leading figures: name, caption, svg.
        modules: Ids of the modules it reads.
    """

    name: str
    question: str
    error: str = ""
    findings: Findings = Findings(())
    verdicts: tuple[dict, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    figures: tuple[dict, ...] = ()
    comparisons: int = 0
    failures: tuple[dict, ...] = ()
    costs: dict | None = None
    environment: dict | None = None
    modules: frozenset[str] = frozenset()
    seeds: int = 0

    @property
    def trained_tokens(self) -> int:
        spent = (self.costs or {}).get("costs", {}).get("this_run", {})
        return int(spent.get("train", {}).get("tokens", 0))

    def row(self) -> dict[str, Any]:
        """Its line in the series' summary.json."""
        costs = self.costs or {}
        return {
            "study": self.name, "question": self.question, "error": self.error or None, "answer": list(self.findings.answer),
            "published": self.findings.published, "verdicts": dict(self.counts), "claims": list(self.verdicts),
            "comparisons": self.comparisons, "holes": len(self.failures), "seeds": self.seeds,
            "wall_seconds": costs.get("wall_seconds"), "trained_tokens": self.trained_tokens, "modules": len(self.modules),
            "modules_reused": costs.get("reused", {}).get("modules"),
        }  # fmt: skip


def read_member(folder: Path, name: str, error: str) -> Member:
    """A study's folder as far as it goes."""
    body = folder / "study.yaml"
    question = (
        str(yaml.safe_load(body.read_text(encoding="utf-8")).get("question", "")) if body.exists() else ""
    )
    if error or not (folder / "summary.json").exists():
        return Member(name, question, error or "not run yet")
    summary = read_json(folder / "summary.json")
    found = Counter(verdict["verdict"] for verdict in summary["verdicts"])
    costs = read_json(folder / "costs.json") if (folder / "costs.json").exists() else None
    return Member(
        name, question, "", findings_of(summary), tuple(summary["verdicts"]), tuple((word, found[word]) for word in VERDICTS if found[word]),
        _figures(folder / "figures"), int(summary["comparisons"]["made"]), tuple(summary["failures"]), costs,
        read_json(folder / "environment.json"), _modules(folder / "results.parquet"), int(summary["run"]["seeds"]),
    )  # fmt: skip


def _figures(folder: Path) -> tuple[dict, ...]:
    """The leading figures that lie there; where none leads, the first one."""
    index = folder / "index.json"
    if not index.exists():
        return ()
    listed = [one for one in read_json(index) if (folder / f"{one['name']}.svg").exists()]
    chosen = [one for one in listed if one["leads"]][:FIGURES] or listed[:1]
    return tuple(
        {**one, "svg": Markup((folder / f"{one['name']}.svg").read_text(encoding="utf-8"))} for one in chosen
    )


def _modules(path: Path) -> frozenset[str]:
    ids = (
        pd.read_parquet(path, columns=["module_ids"])["module_ids"].dropna().unique() if path.exists() else ()
    )
    return frozenset(one.partition("@")[0] for text in ids for one in json.loads(text))


def overview(out: Path) -> tuple[Path, list[Member]]:
    """Write OUT/report.html and OUT/summary.json from the folders of a series.

    Raises:
        InputError: no series was run there.
    """
    if not (out / STATUS).exists():
        raise InputError(f"{out}: no {STATUS}; give the folder that `study run all` wrote")
    status = read_json(out / STATUS)
    members = [read_member(out / one["study"], one["study"], one["error"]) for one in status["studies"]]
    members.sort(key=lambda one: (not one.name.startswith("q"), one.name))
    totals = Counter(word for one in members for word, count in one.counts for _ in range(count))
    distinct = frozenset().union(*(one.modules for one in members))
    whole = {
        "verdicts": {word: totals[word] for word in VERDICTS}, "comparisons": sum(one.comparisons for one in members),
        "wall_seconds": sum(entry["seconds"] for entry in status["studies"]), "modules": len(distinct),
        "modules_counted_per_study": sum(len(one.modules) for one in members),
        "trained_tokens": sum(one.trained_tokens for one in members), "holes": sum(len(one.failures) for one in members),
    }  # fmt: skip
    write_json(
        out / "summary.json",
        {"scale": status["scale"], "whole": whole, "studies": [one.row() for one in members]},
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loramem.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, clock=clock)
    page = environment.get_template("overview.html.j2").render(
        status=status, members=members, whole=whole, words=VERDICTS,
        made=next((one.environment for one in members if one.environment), None),
    )  # fmt: skip
    path = out / "report.html"
    write_text(path, page)
    return path, members
