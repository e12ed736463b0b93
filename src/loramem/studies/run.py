"""One study from its file to its summary: the order of things, and what each run folder holds."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
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
from loramem.studies.execute import Outcome, failures_by_cell, make_controls, read_missing, train_missing
from loramem.studies.plan import Plan, make_plan
from loramem.studies.progress import Progress
from loramem.studies.results import as_frame, collect, context_costs
from loramem.studies.spec import Study
from loramem.studies.summary import clean, summarise
from loramem.studies.tuning import plan_sweeps, tune
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


def execute(
    study: Study,
    base: Base,
    store: Store,
    out: Path,
    *,
    command: str = "",
    rows: int = 256,
    progress: Progress | None = None,
) -> RunResult:
    """Train, read and score; whatever the store already holds is used, whatever finishes is kept.

    Failed cells are recorded with their error and shown as holes in the report; the rest goes on.
    """
    out = prepare_out(out)
    progress = progress or Progress(out / "log.jsonl")
    began = time.time()
    outcome = Outcome()
    study = tune(study, base, store, outcome, progress, rows=rows)
    plan = make_plan(study, base)
    header(study, base, plan, progress)
    write_text(
        out / "study.yaml",
        yaml.safe_dump({"scale": study.scale, **study.body}, sort_keys=False, allow_unicode=True),
    )
    write_json(out / "environment.json", environment(base, command))
    write_json(out / "plan.json", plan.counts())
    train_missing(plan.modules.values(), base, store, outcome, progress, rows=rows)
    make_controls(plan, base, store, outcome, progress)
    read_missing(plan.cells, base, store, outcome, progress, rows=max(32, rows))
    progress.say("scoring")
    results, items, examples = collect(study, plan, base, store, outcome)
    items.to_parquet(out / "items.parquet", index=False)
    summary = summarise(results, items, study.file.expect, metrics=study.file.metrics)
    found = capacity(study.file.capacity, pd.DataFrame(summary["cells"]), items, module_facts(plan, store))
    derived = as_frame([{"base": base.fingerprint[:12], **row} for row in derived_rows(study.name, found)])
    pd.concat([results, derived], ignore_index=True).to_parquet(out / "results.parquet", index=False)
    failures = failures_by_cell(plan, outcome, base)
    summary.update(capacity=clean(found), sweeps=study.chosen, failures=failures)
    summary["run"] = {
        "study": study.name,
        "scale": study.scale,
        "version": study.file.version,
        "seeds": study.file.seeds,
        "base": base.name,
    }
    write_json(out / "summary.json", summary)
    costs = costs_of(plan, store, outcome)
    info = {
        "study": study.name, "question": study.file.question, "version": study.file.version, "scale": study.scale,
        "environment": environment(base, command), "plan": plan.counts(), "rows": len(results) + len(derived), "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "costs": costs, "contexts": context_costs(plan, base, store), "failures": failures, "examples": examples, "training": training_curves(plan, store),
        "body": yaml.safe_dump(study.body, sort_keys=False, allow_unicode=True), "wall_seconds": time.time() - began,
        "reused": {"modules": outcome.modules_reused, "readings": outcome.readings_reused},
    }  # fmt: skip
    return RunResult(out, info, summary)


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


def costs_of(plan: Plan, store: Store, outcome: Outcome) -> dict:
    """What the whole study costs (from the ledgers in the store) beside what this run spent."""
    tokens = bytes_ = truncated = 0
    for identity in plan.modules:
        if store.has_module(identity):
            folder = store.module_folder(identity)
            ledger = read_marker(folder / "ledger.json")
            tokens += ledger["tokens"]
            truncated += ledger["truncated_tokens"]
            bytes_ += (folder / "adapter_model.safetensors").stat().st_size
    return {
        "train_tokens": tokens,
        "truncated_tokens": truncated,
        "module_bytes": bytes_,
        "this_run": outcome.ledger.as_dict(),
    }


def dry_run(study: Study, base: Base, *, rows: int) -> dict:
    """What a run would train, read and cost; nothing is kept. Swept rates count with every rate tried."""
    swept = [candidate.module for found in plan_sweeps(study, base).values() for candidate in found]
    plan = make_plan(study, base)
    jobs = [module.job for module in (*swept, *plan.modules.values())]
    return {
        "sweep_modules": len(swept), **plan.counts(),
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
