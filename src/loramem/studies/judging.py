"""The judging pass of a study: every answer in words gets its verdict after reading and before scoring, in one batch.

Verdicts lie beside the predictions they belong to, readings/<id>/scores/judge-<hash12>.jsonl, where the hash is that of the
judge (model, sampling) and of the rubric's version: another judge has a file of its own. What has a score is never judged
again; what failed is asked again by the next run. Answers of the judge are kept in the store's cache as they come, so that
a stopped pass goes on where it was.

A study that names the metric without a judge runs to its end and shows the metric as missing. A judge that was given but
cannot be used makes the run fail, after everything else was scored and kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loramem.base.model import Base, load_base
from loramem.core.errors import InputError
from loramem.core.files import read_jsonl, write_jsonl
from loramem.metrics.judge import JUDGE_VERSION, Judged, Verdict, judge, judge_id
from loramem.metrics.scorers import JUDGE, METRICS
from loramem.modules.store import Store
from loramem.sources.types import Probe
from loramem.studies.execute import Outcome, explain
from loramem.studies.plan import Plan
from loramem.studies.progress import Progress
from loramem.studies.spec import Study
from loramem.studies.study_file import JudgeChoice
from loramem.synthesis.completing import Completer, Sampling

NO_JUDGE = "no judge was given; name one in the study file, e.g. judge: {model: embedded}, or {model: NAME, url: URL}"


@dataclass(frozen=True)
class Judging:
    """What became of a study's judgements.

    Attributes:
        name: Who judged; None where nobody did.
        scores: Reading id -> probe id -> score; None where judging failed.
        reason: Why the metric has no values at all; empty where it has some, or is not asked for.
        error: Why a judge that was given could not be used.
        account: For summary.json: who judged by which rubric, and how many answers were empty or could not be judged.
    """

    name: str | None = None
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    reason: str = ""
    error: str = ""
    account: dict[str, Any] | None = None

    def add_to(self, predictions: Mapping[str, dict], readings: Iterable[str]) -> None:
        """Put each score into the prediction row it belongs to, where the metric `judge` looks for it."""
        for reading in readings:
            for probe, score in self.scores.get(reading, {}).items():
                predictions[probe][JUDGE] = score

    def columns(self, metric: str) -> dict:
        """What rows of results.parquet say of the judge."""
        return {"judge": self.name} if metric == JUDGE else {}

    @property
    def missing(self) -> list[dict]:
        """Metrics that were asked for and have no value, for summary.json and the report."""
        return [{"metric": JUDGE, "reason": self.reason}] if self.reason else []

    @property
    def failures(self) -> list[dict]:
        """As `failures_by_cell`: what makes the run fail."""
        return [{"cell": f"metric {JUDGE}", "seed": None, "error": self.error}] if self.error else []


def accounts(judgings: Sequence[Judging]) -> dict[str, Any]:
    """`judge` and `missing` of summary.json, for a study on one base or several: numbers add up."""
    total: dict[str, Any] | None = None
    for other in (judging.account for judging in judgings if judging.account is not None):
        if total is not None:
            sums = {name: total[name] + other[name] for name in ("answers", "empty")}
            other = {**total, **sums, "failed": dict(Counter(total["failed"]) + Counter(other["failed"]))}
        total = other
    told = {str(row): row for judging in judgings for row in judging.missing}
    return {"judge": total, "missing": list(told.values())}


@dataclass
class _Reading:
    """One reading's answers: what is known of them, and what is to be judged."""

    file: Path
    rows: dict[str, dict]
    asked: dict[str, Judged]


def make_judge(choice: JudgeChoice, base: Base) -> Completer:
    """The judge of a study: an endpoint, the study's own base, or another base that is loaded beside it.

    Raises:
        InputError: the base cannot be loaded.
    """
    if choice.url is not None:
        from loramem.synthesis.endpoint import Endpoint

        return Endpoint(choice.endpoint_config())
    from loramem.synthesis.local import Local

    own = choice.model == base.name and base.computes
    # where workers elsewhere compute, the judge is loaded here
    model = base if own else load_base(choice.model, device=str(base.device) if base.computes else None)
    return Local(model, Sampling(temperature=choice.temperature))


def judge_missing(
    study: Study, plan: Plan, base: Base, store: Store, outcome: Outcome, progress: Progress
) -> Judging:
    """Judge every answer of the study that has no verdict of this judge yet. Raises nothing: what fails is told."""
    if JUDGE not in study.file.metrics:
        return Judging()
    if study.file.judge is None:
        progress.note(f"metric {JUDGE} is missing: {NO_JUDGE}")
        return Judging(reason=NO_JUDGE)
    try:
        completer = make_judge(study.file.judge, base)
        identity = judge_id(completer)[:12]
    except Exception as unfit:  # the scores of the other metrics must not be lost
        progress.note(f"metric {JUDGE} is missing: {explain(unfit)}")
        return Judging(reason=explain(unfit), error=explain(unfit))
    readings = _readings(plan, base, store, progress, name=f"judge-{identity}.jsonl")
    error = _ask(readings, completer, store, outcome, progress)
    rows = [row for reading in readings.values() for row in reading.rows.values()]
    failed = Counter(row["reason"].partition(":")[0] for row in rows if row["value"] is None)
    if failed and not error:
        why = next(row["reason"] for row in rows if row["value"] is None)
        progress.note(f"{failed.total()} of {len(rows)} answers could not be judged, e.g. {why}")
        if failed.total() == sum(row["by"] != "empty" for row in rows):
            error = f"none of the {failed.total()} answers asked about could be judged, e.g. {why}"
    scored = any(row["value"] is not None for row in rows)
    return Judging(
        completer.name,
        {id: {probe: row["value"] for probe, row in reading.rows.items()} for id, reading in readings.items()},
        "" if scored or not rows else error,
        error,
        {
            "name": completer.name, "identity": completer.identity(), "version": JUDGE_VERSION, "answers": len(rows),
            "empty": sum(row["by"] == "empty" for row in rows), "failed": dict(failed),
        },
    )  # fmt: skip


def _readings(plan: Plan, base: Base, store: Store, progress: Progress, *, name: str) -> dict[str, _Reading]:
    """Each finished reading of the plan once, with the verdicts it has."""
    found: dict[str, _Reading] = {}
    for task in (task for cell in plan.cells for task in cell.tasks):
        id = task.identity(base)
        if id in found or not store.has_reading(id):
            continue
        folder = store.reading_folder(id)
        said = {row["probe"]: row for row in store.predictions(id)}
        probes = [p for p in task.probes if METRICS.get(JUDGE).applies(p) and not said[p.id].get("failure")]
        if probes:
            found[id] = _reading(folder / "scores" / name, probes, said, progress)
    return found


def _reading(file: Path, probes: list[Probe], said: Mapping[str, dict], progress: Progress) -> _Reading:
    try:
        kept = {row["probe"]: row for row in (read_jsonl(file) if file.exists() else [])}
    except InputError as damaged:
        progress.note(f"{damaged}; its answers are judged again")
        kept = {}
    known = {p.id: kept[p.id] for p in probes if kept.get(p.id, {}).get("value") is not None}
    asked = {
        p.id: Judged(p.prompt, p.answers, said[p.id]["prediction"]) for p in probes if p.id not in known
    }  # fmt: skip
    return _Reading(file, known, asked)


def _ask(
    readings: Mapping[str, _Reading], completer: Completer, store: Store, outcome: Outcome, progress: Progress
) -> str:
    """Judge what is open, all readings in one batch, and write the verdicts down. Returns why it broke off, or nothing."""
    places = [(reading, probe) for reading in readings.values() for probe in reading.asked]
    if not places:
        return ""
    error = ""
    found: dict[int, Verdict] = {}
    progress.start("judge", total=len(places), unit="answers", things=len(readings))

    def done(position: int, verdict: Verdict) -> None:
        found[position] = verdict
        progress.advance(1, verdict.prompt_tokens + verdict.new_tokens)

    with outcome.ledger.timed("judge"):
        try:
            items = [reading.asked[probe] for reading, probe in places]
            judge(completer, items, store.completions / "judge", on_verdict=done)
        except Exception as broken:  # what has its verdict keeps it; the rest is asked again by the next run
            error = explain(broken)
            progress.note(f"judging broke off: {error}")
    for position, (reading, probe) in enumerate(places):
        verdict = found.get(position) or Verdict(None, f"broke off: {error}")
        reading.rows[probe] = {
            "probe": probe, "metric": JUDGE, "value": verdict.score, "reason": verdict.reason,
            "by": "empty" if verdict.by == "empty" else "judge",
        }  # fmt: skip
    for reading in readings.values():
        if reading.asked:
            write_jsonl(reading.file, reading.rows.values())
        progress.finished_thing()
    progress.stop()
    _spent(found.values(), outcome)
    return error


def _spent(verdicts: Collection[Verdict], outcome: Outcome) -> None:
    by = Counter(verdict.by for verdict in verdicts)
    outcome.ledger.add(
        "judge", asked=by["judge"], from_cache=by["cache"], equal_answers=by["same"], empty_answers=by["empty"],
        failed=sum(v.score is None for v in verdicts), prompt_tokens=sum(v.prompt_tokens for v in verdicts),
        new_tokens=sum(v.new_tokens for v in verdicts),
    )  # fmt: skip
    costs = [verdict.cost for verdict in verdicts if verdict.cost is not None]
    if costs:
        outcome.ledger.add("judge", cost=sum(costs))
