"""One study from its file to its summary: the order of things, and what each run folder holds."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch
import yaml

from loramem import __version__
from loramem.base.model import Base, describe
from loramem.core.errors import InputError, RunFailed
from loramem.core.files import read_jsonl, read_marker, write_json, write_text
from loramem.modules.store import Store
from loramem.studies.capacity import capacity, derived_rows, module_facts
from loramem.studies.costs import costs_of, module_costs
from loramem.studies.execute import Outcome, failures_by_cell, make_controls, read_missing, train_missing
from loramem.studies.judging import Judging, accounts, judge_missing
from loramem.studies.latency import LATENCY_METRICS, latency_of, with_verdicts
from loramem.studies.learning import Synthesis
from loramem.studies.plan import Plan, make_plan
from loramem.studies.progress import Progress
from loramem.studies.results import as_frame, collect, context_costs
from loramem.studies.routed import merge_rows, merges_of
from loramem.studies.spec import Study
from loramem.studies.summary import clean, summarise
from loramem.studies.tuning import plan_sweeps, tune
from loramem.synthesis.supervision import save as save_supervision
from loramem.training import TrainJob, train_modules
from loramem.training.packing import Queue

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pandas")


@dataclass
class RunResult:
    """Where a run lies and what it found.

    Attributes:
        info: What the run was, for its report: environment, costs, examples, training curves, failures.
        summary: summary.json.
    """

    out: Path
    info: dict
    summary: dict

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    @property
    def failures(self) -> list[dict]:
        return self.info["failures"]


def environment(base: Base, command: str) -> dict:
    """What produced the numbers: versions, machine, code state, base."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "loramem": __version__, "python": platform.python_version(), "packages": versions, "platform": platform.platform(),
        "processor": platform.machine(), "threads": torch.get_num_threads(), "command": command, "code": code_state(),
        "base": describe(base),
    }  # fmt: skip


def code_state() -> dict:
    """Commit of the checkout this package runs from, and whether it was changed; empty outside a checkout."""
    where = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=where, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return (
        {}
        if commit is None
        else {"commit": commit, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    )


def prepare_out(out: Path) -> Path:
    """Make the run folder. Raises `InputError` where that is impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "log.jsonl").touch()
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}") from None
    return out


Bases = Callable[[str], Base]
"""Loads a base by its name."""


@dataclass(frozen=True)
class Leg:
    """A study on one of its bases, done: what it planned and found, and what its report needs of the base."""

    study: Study
    plan: Plan
    outcome: Outcome
    results: pd.DataFrame
    items: pd.DataFrame
    examples: list[dict]
    modules: pd.DataFrame
    contexts: list[dict]
    failures: list[dict]
    environment: dict
    fingerprint: str
    judging: Judging
    merges: pd.DataFrame
    latency: dict | None


def run_leg(
    study: Study, base: Base, store: Store, outcome: Outcome, progress: Progress, *, command: str, rows: int
) -> Leg:
    """Choose settings, make supervision, train, read and collect, on one base."""
    synthesis = Synthesis(
        base,
        store.completions,
        pieces=study.file.chunking,
        on_reply=lambda index, reply: progress.replied(reply),
    )
    with outcome.ledger.timed("synthesis"):
        study = tune(study, base, store, outcome, progress, synthesis, rows=rows)
        plan = make_plan(study, base, synthesis)
    header(study, base, plan, progress)
    train_missing(plan.modules.values(), base, store, outcome, progress, rows=rows)
    make_controls(plan, base, store, outcome, progress)
    read_missing(plan.cells, base, store, outcome, progress, rows=max(32, rows))
    keep_supervision(plan, store)
    judging = judge_missing(study, plan, base, store, outcome, progress)
    progress.say("scoring")
    results, items, examples = collect(study, plan, base, store, outcome, judging)
    latency = None
    if study.file.latency is not None:
        progress.say("timing")
        with outcome.ledger.timed("timing"):
            latency = latency_of(
                plan, base, store, study.file.latency, rows=max(32, rows),
                training=lambda jobs: estimate(jobs, base, rows=rows)["train_seconds"],
            )  # fmt: skip
    return Leg(
        study, plan, outcome, results, items, examples, module_facts(plan, store), context_costs(plan, base, store),
        failures_by_cell(plan, outcome, base) + judging.failures, environment(base, command), base.fingerprint, judging,
        merges_of(plan.cells, base, store), latency,
    )  # fmt: skip


def keep_supervision(plan: Plan, store: Store) -> None:
    """Keep every supervision under its hash, so that each example's document, generator and prompt can be looked up."""
    for learnt in {
        module.learnt.supervision.hash: module.learnt for module in plan.modules.values()
    }.values():
        path = store.root / "supervision" / learnt.supervision.hash / "examples.jsonl"
        if not path.exists():
            save_supervision(learnt.supervision, path)


def execute(
    study: Study,
    bases: Base | Bases,
    store: Store,
    out: Path,
    *,
    command: str = "",
    rows: int = 256,
    progress: Progress | None = None,
) -> RunResult:
    """Train, read and score on every base; whatever the store already holds is used, whatever finishes is kept.

    Failed cells are recorded with their error and shown as holes in the report; the rest goes on.

    Args:
        bases: The base, or what loads the study's bases by name, one after another.

    Raises:
        InputError: one base for a study that compares several.
    """
    if isinstance(bases, Base) and len(study.bases) > 1:
        raise InputError(
            f"this study compares {len(study.bases)} bases; give a function that loads each by its name"
        )
    out = prepare_out(out)
    progress = progress or Progress(out / "log.jsonl")
    began = time.time()
    write_text(
        out / "study.yaml",
        yaml.safe_dump({"scale": study.scale, **study.body}, sort_keys=False, allow_unicode=True),
    )
    legs: list[Leg] = []
    for name in study.bases:
        base = bases if isinstance(bases, Base) else bases(name)
        legs.append(run_leg(study, base, store, Outcome(), progress, command=command, rows=rows))
    environments = [leg.environment for leg in legs]
    shown = {**environments[0], "bases": [one["base"] for one in environments]}
    counts = merged_counts([leg.plan.counts() for leg in legs])
    write_json(out / "environment.json", shown)
    write_json(out / "plan.json", counts)
    results = pd.concat([leg.results for leg in legs], ignore_index=True)
    items = pd.concat([leg.items for leg in legs], ignore_index=True)
    items.to_parquet(out / "items.parquet", index=False)
    supervision = [
        {"base": base, **row}
        for base, leg in zip(study.bases, legs, strict=True)
        for row in leg.plan.supervision
    ]
    write_json(out / "supervision.json", clean(supervision))
    scored = [one for one in study.file.expect if one.metric not in LATENCY_METRICS]
    summary = summarise(results, items, scored, metrics=study.file.metrics)
    modules = pd.concat([leg.modules for leg in legs], ignore_index=True)
    found = capacity(study.file.capacity, pd.DataFrame(summary["cells"]), items, modules)
    derived = as_frame([{"base": legs[0].fingerprint[:12], **row} for row in derived_rows(study.name, found)])
    pd.concat([results, derived], ignore_index=True).to_parquet(out / "results.parquet", index=False)
    failures = [failure for leg in legs for failure in leg.failures]
    summary.update(
        capacity=clean(found), sweeps=[row for leg in legs for row in leg.study.chosen], failures=failures,
        supervision=clean([{k: v for k, v in row.items() if k != "documents"} for row in supervision]),
    )  # fmt: skip
    summary["contexts"] = clean([row for leg in legs for row in leg.contexts])
    summary.update(accounts([leg.judging for leg in legs]))
    merges = pd.concat([leg.merges for leg in legs], ignore_index=True)
    if len(merges):
        merges.to_parquet(out / "merges.parquet", index=False)
    summary["merges"] = clean(merge_rows(merges))
    timed = [leg.latency for leg in legs if leg.latency is not None]
    if timed:
        write_json(out / "latency.json", timed)
        summary["latency"] = timed
    summary["verdicts"] = with_verdicts(summary, study.file.expect)
    summary["run"] = {
        "study": study.name,
        "scale": study.scale,
        "version": study.file.version,
        "seeds": study.file.seeds,
        "base": ", ".join(study.bases),
    }
    write_json(out / "summary.json", summary)
    spent = module_costs((leg.plan for leg in legs), store)
    info = {
        "study": study.name, "question": study.file.question, "version": study.file.version, "scale": study.scale,
        "environment": shown, "plan": counts, "rows": len(results) + len(derived), "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "costs": costs_of(spent, ((leg.plan, leg.outcome) for leg in legs)), "contexts": [row for leg in legs for row in leg.contexts], "failures": failures,
        "examples": [row for leg in legs for row in leg.examples], "training": [row for leg in legs for row in training_curves(leg.plan, store)],
        "body": yaml.safe_dump(study.body, sort_keys=False, allow_unicode=True), "wall_seconds": time.time() - began,
        "reused": {name: sum(getattr(leg.outcome, f"{name}_reused") for leg in legs) for name in ("modules", "readings")},
    }  # fmt: skip
    write_json(
        out / "costs.json",
        {
            **{key: info[key] for key in ("created", "wall_seconds", "costs", "reused", "plan")},
            "modules": spent,
        },
    )
    return RunResult(out, info, summary)


def merged_counts(counts: Sequence[dict]) -> dict:
    """The counts of several plans: numbers add up, sources are those of the first base (sizes in its tokens)."""
    return {
        key: value if key == "sources" else sum(one[key] for one in counts)
        for key, value in counts[0].items()
    }


def header(study: Study, base: Base, plan: Plan, progress: Progress) -> None:
    """Two lines that say what is about to happen."""
    counts = plan.counts()
    progress.say(f"{study.name} ({study.scale}): {study.file.question}")
    progress.say(
        f"base {base.name} ({base.parameters / 1e6:.1f}M parameters, {base.device}, {base.precision}); "
        f"{counts['modules']} modules, {counts['readings']} readings, {counts['questions']:,} questions"
    )


def training_curves(plan: Plan, store: Store) -> list[dict]:
    """Loss curves of every finished module of the plan."""
    curves = []
    for module in plan.modules.values():
        if store.has_module(module.id):
            folder = store.module_folder(module.id)
            marker = read_marker(folder / "recipe.json")
            curves.append({
                "module": module.id[:12], "source": module.source_key, "size_tokens": module.source.size_tokens, "facts": len(module.source.records),
                "rank": module.config.spec.rank, "seed": module.seed, "steps": marker.get("steps_taken", module.job.steps),
                "budget": module.config.budget.label, "ended": marker.get("ended", "steps"),
                "parameters": module.parameters, "final_loss": marker.get("final_loss"), "ledger": read_marker(folder / "ledger.json"),
                "log": read_jsonl(folder / "training.jsonl"),
            })  # fmt: skip
    return curves


def dry_run(study: Study, base: Base, store: Store, *, rows: int, counted: set[str] | None = None) -> dict:
    """What a run would train, read and cost on one base; nothing is kept. Swept settings count with every one tried.

    Supervision that a model writes is counted as far as its answers are kept; no model is asked.

    Args:
        store: Where answers are kept; `Store(look=True)` makes no folder.
        counted: Modules that other studies train already, which cost nothing here; those of this study are added.
    """
    synthesis = Synthesis(base, store.completions, pieces=study.file.chunking, dry=True)
    sweeps = plan_sweeps(study, base, synthesis)
    swept = {m.id: m for found in sweeps.values() for candidate in found for m in candidate.modules}
    plan = make_plan(study, base, synthesis)
    every = swept | plan.modules
    counted = set() if counted is None else counted
    jobs = [module.job for identity, module in every.items() if identity not in counted]
    counted.update(every)
    return {
        "sweep_modules": len(swept), **plan.counts(), "shared_modules": len(every) - len(jobs), "supervision_not_made": len(plan.lost),
        **{key: round(value, 3) for key, value in estimate(jobs, base, rows=rows).items()},
    }  # fmt: skip


PROBE_STEPS = 4


def estimate(jobs: Sequence[TrainJob], base: Base, *, rows: int) -> dict:
    """Seconds of training at most, from a few timed probe steps of those that train first. Modules that end early need less."""
    queue = Queue(jobs, rows=rows)
    pack: list[TrainJob] = []
    while (job := queue.take(pack, lambda job: True)) is not None:
        pack.append(job)
    if not pack:
        return {"train_seconds": 0.0, "seconds_per_probe_step": 0.0, "train_peak_bytes": 0}
    # few examples are enough, and a teacher need not read all of its contexts for a probe
    probe = [
        replace(
            job, steps=PROBE_STEPS, budget=None, distractors=None, examples=job.examples[: 2 * job.optimizer.batch],
            teacher=job.teacher[: 2 * job.optimizer.batch],
        )
        for job in pack
    ]  # fmt: skip
    times: list[float] = []
    failed: list[Exception] = []

    def tick(rows_done: int, tokens: int) -> None:
        times.append(time.perf_counter())

    peak = train_modules(
        base, probe, on_finish=lambda done: None, on_fail=lambda key, error: failed.append(error), on_step=tick, rows=rows
    )  # fmt: skip
    if not times:
        raise RunFailed(f"the probe step failed: {failed[0]}")
    per_step = (times[-1] - times[0]) / max(1, len(times) - 1)
    per_cell = per_step / sum(job.optimizer.batch * job.length for job in pack)
    padded = sum(job.steps * job.optimizer.batch * job.length for job in jobs)
    return {
        "side_by_side": len(pack), "seconds_per_probe_step": per_step, "train_seconds": per_cell * padded, "train_peak_bytes": peak,
    }  # fmt: skip


def default_out(study: Study) -> Path:
    return Path("runs") / f"{study.name}-{study.scale}"


def shown_command(arguments: Sequence[str]) -> str:
    """The command line as it would be typed, for the record."""
    return shlex.join(["loramem", *arguments]) if arguments else Path(sys.argv[0]).name
