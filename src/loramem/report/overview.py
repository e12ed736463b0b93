"""One report over a series of studies: each question with its answer, the paper's numbers, the verdicts and what it cost.

Everything is read from the run folders, so it can be drawn again at any time, and a study that has no result is shown as a hole.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loramem.core.errors import InputError
from loramem.core.files import inside, read_json, write_json, write_text
from loramem.report.html import fill, findings_of
from loramem.studies.expectations import VERDICTS
from loramem.studies.findings import Findings
from loramem.studies.series import STATUS
from loramem.studies.study_file import NAME

FIGURES = 4
"""Leading figures of a question that are shown; the others are in its own report."""


@dataclass(frozen=True)
class Member:
    """A study of the series, as its folder tells it.

    Attributes:
        error: Why there is nothing; empty where there is a result.
        counts: Verdicts by their word.
        figures: Leading figures: name, caption, image (a data URL).
        comparisons: Paired tests that were made: of modules with other readings, and of modules with each other.
        missing: Metrics that could not be measured, each with its reason.
        sweeps: What was chosen on dev splits.
        costs: costs.json; None in folders of runs that wrote none.
        modules: Of each trained module it reads, by its id, what its training cost.
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
    modules: dict[str, dict[str, float]] = field(default_factory=dict)
    seeds: int = 0
    missing: tuple[dict, ...] = ()
    sweeps: tuple[dict, ...] = ()

    @property
    def trained_tokens(self) -> int | None:
        """Tokens that all its modules were trained on, by whichever study; None where that was not written down."""
        return None if self.costs is None else int(self.costs["costs"]["train_tokens"])

    @property
    def trained_now(self) -> int:
        """Tokens trained in its own run, those of sweeps with them."""
        spent = (self.costs or {}).get("costs", {}).get("this_run", {})
        return int(spent.get("train", {}).get("tokens", 0))

    @property
    def at_edge(self) -> int:
        return sum(bool(row["at_edge"]) for row in self.sweeps)

    def row(self) -> dict[str, Any]:
        """Its line in the series' summary.json."""
        costs = self.costs or {}
        return {
            "study": self.name, "question": self.question, "error": self.error or None, "answer": list(self.findings.answer),
            "published": self.findings.published, "verdicts": dict(self.counts), "claims": list(self.verdicts),
            "comparisons": self.comparisons, "holes": len(self.failures), "seeds": self.seeds,
            "wall_seconds": costs.get("wall_seconds"), "trained_tokens": self.trained_tokens,
            "trained_tokens_this_run": self.trained_now, "modules": costs.get("plan", {}).get("modules"),
            "modules_reused": costs.get("reused", {}).get("modules"), "readings_reused": costs.get("reused", {}).get("readings"),
            "beside": [asdict(row) for row in self.findings.beside], "missing": list(self.missing),
            "sweeps": len(self.sweeps), "sweeps_at_edge": self.at_edge, "failures": list(self.failures),
        }  # fmt: skip


def read_member(folder: Path, entry: dict) -> Member:
    """A study's folder as far as it goes.

    Args:
        entry: Its line in series.json. Where it failed there is no result, whatever an earlier call left in the folder.
    """
    name, question = entry["study"], entry["question"]
    if entry["error"] or not (folder / "summary.json").exists():
        without = "stopped before it was done" if entry["state"] == "stopped" else "not run yet"
        return Member(name, question, entry["error"] or without)
    summary = read_json(folder / "summary.json")
    found = Counter(verdict["verdict"] for verdict in summary["verdicts"])
    costs = read_json(folder / "costs.json") if (folder / "costs.json").exists() else None
    return Member(
        name, question, "", findings_of(summary), tuple(summary["verdicts"]), tuple((word, found[word]) for word in VERDICTS if found[word]),
        _figures(folder / "figures"), int(summary["comparisons"]["made"]) + len(summary.get("pairs", ())), tuple(summary["failures"]), costs,
        read_json(folder / "environment.json"), (costs or {}).get("modules", {}), int(summary["run"]["seeds"]),
        tuple(summary.get("missing", ())), tuple(summary["sweeps"]),
    )  # fmt: skip


def _figures(folder: Path) -> tuple[dict, ...]:
    """The leading figures that lie there; where none leads, the first one."""
    index = folder / "index.json"
    if not index.exists():
        return ()
    listed = [one for one in read_json(index) if inside(folder, f"{one['name']}.svg").exists()]
    chosen = [one for one in listed if one["leads"]][:FIGURES] or listed[:1]
    return tuple({**one, "image": _image(folder / f"{one['name']}.svg")} for one in chosen)


def _image(path: Path) -> str:
    """A figure as an image that the page holds: in an image nothing runs, whoever wrote the file."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def totals_of(members: Sequence[Member], status: dict) -> dict[str, Any]:
    """Sums over the studies; a module that several of them read is counted once, by its id."""
    words = Counter(word for one in members for word, count in one.counts for _ in range(count))
    distinct: dict[str, dict[str, float]] = {}
    for one in members:
        distinct |= one.modules
    return {
        "verdicts": {word: words[word] for word in VERDICTS}, "comparisons": sum(one.comparisons for one in members),
        "wall_seconds": sum(entry["seconds"] for entry in status["studies"]), "modules": len(distinct),
        "modules_counted_per_study": sum(len(one.modules) for one in members),
        "trained_tokens": int(sum(cost["tokens"] for cost in distinct.values())),
        "trained_tokens_counted_per_study": sum(one.trained_tokens or 0 for one in members),
        "trained_tokens_this_run": sum(one.trained_now for one in members),
        "module_bytes": int(sum(cost["bytes"] for cost in distinct.values())),
        "holes": sum(len(one.failures) for one in members), "studies": len(members),
        "without_result": [one.name for one in members if one.error],
        "without_costs": [one.name for one in members if not one.error and one.costs is None],
    }  # fmt: skip


def overview(out: Path) -> tuple[Path, list[Member]]:
    """Write OUT/report.html and OUT/summary.json from the folders of a series.

    Raises:
        InputError: no series was run there, or a study of it has no study's name (its folder would lie elsewhere).
    """
    if not (out / STATUS).exists():
        raise InputError(f"{out}: no {STATUS}; give the folder that `study run all` wrote")
    status = read_json(out / STATUS)
    for one in status["studies"]:
        if not re.fullmatch(NAME, one["study"]):
            raise InputError(f"{out / STATUS}: {one['study']!r} is no name of a study")
    members = [read_member(out / one["study"], one) for one in status["studies"]]
    members.sort(key=lambda one: (not one.name.startswith("q"), one.name))
    whole = totals_of(members, status)
    write_json(
        out / "summary.json",
        {"scale": status["scale"], "whole": whole, "studies": [one.row() for one in members]},
    )
    page = fill(
        "overview.html.j2", status=status, members=members, whole=whole, words=VERDICTS,
        made=next((one.environment for one in members if one.environment), None),
    )  # fmt: skip
    path = out / "report.html"
    write_text(path, page)
    return path, members
