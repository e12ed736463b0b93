"""One study from its file to its summary: the order of things, and what each run folder holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from loramem import __version__
from loramem.answering.readings import context_name
from loramem.answering.routers import ROUTERS
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.core.files import write_text
from loramem.core.secrets import masked
from loramem.modules.store import Store
from loramem.retrieval.embed import load_embedder
from loramem.studies.capacity import module_facts
from loramem.studies.estimates import estimate
from loramem.studies.execute import Outcome, failures_by_cell, make_controls, read_missing, train_missing
from loramem.studies.executors import FEWEST_READ, Executor, Local
from loramem.studies.judging import JUDGE, judge_missing
from loramem.studies.latency import LatencyChoice, latency_of
from loramem.studies.learning import Synthesis
from loramem.studies.plan import Plan, make_plan
from loramem.studies.progress import Progress
from loramem.studies.provenance import code_state, environment
from loramem.studies.results import collect, context_costs
from loramem.studies.routed import merges_of
from loramem.studies.run_folder import Leg, RunResult, forget_out, prepare_out, record
from loramem.studies.run_log import LOG
from loramem.studies.spec import Study
from loramem.studies.tuning import tune
from loramem.synthesis.recipes import needs_writer
from loramem.training.packing import DEFAULT_ROWS


def check_keys(study: Study) -> None:
    """Raises `InputError` where an endpoint wants a key and has none, before anything is spent."""
    asked = [
        choice.endpoint_config()
        for choice in study.supervisions
        if choice.is_endpoint and needs_writer(choice.recipe)
    ]
    judge = study.file.judge
    if judge is not None and judge.url is not None and JUDGE in study.file.metrics:
        asked.append(judge.endpoint_config())
    for config in asked:
        config.key()


Bases = Callable[[str], "Base | Executor"]
"""Loads a base by its name, or finds who works on it."""


def run_leg(
    study: Study, executor: Executor, store: Store, outcome: Outcome, progress: Progress, *, command: str
) -> Leg:
    """Choose settings, make supervision, train, read and collect, on one base."""
    base = executor.base
    synthesis = Synthesis(
        base,
        store.completions,
        pieces=study.file.chunking,
        on_reply=lambda index, reply: progress.replied(reply),
    )
    with outcome.ledger.timed("synthesis"):
        study = tune(study, store, outcome, progress, executor, synthesis)
        plan = make_plan(study, base, synthesis)
    if isinstance(executor, Local):  # before hours of training; workers have their own
        for embedder in embedders_of(study):
            load_embedder(embedder)
    header(study, base, plan, progress)
    train_missing(plan.modules.values(), store, outcome, progress, executor)
    make_controls(plan, base, store, outcome, progress)
    read_missing(plan.cells, base, store, outcome, progress, executor)
    keep_supervision(plan, store)
    judging = judge_missing(study, plan, base, store, outcome, progress)
    progress.say("scoring")
    results, items, examples = collect(study, plan, base, store, outcome, judging)
    latency = None
    if study.file.latency is not None:
        progress.say("timing")
        with outcome.ledger.timed("timing"):
            latency = executor.call(timed_answers, plan, study.file.latency, executor.rows)
    return Leg(
        study, plan, outcome, results, items, examples, module_facts(plan, store), context_costs(plan, base, store),
        failures_by_cell(plan, outcome, base) + judging.failures, executor.call(environment, command) | {"executor": executor.label}, base.fingerprint, judging,
        merges_of(plan.cells, base, store), latency,
    )  # fmt: skip


def embedders_of(study: Study) -> list[str]:
    """What passages and modules are found with."""
    found = (
        [one.embedder for one in study.retrievals]
        if any(context_name(one.reading) == "rag" for one in study.readings)
        else []
    )
    routings = [one.routing for one in study.readings if one.routing is not None]
    found += [one.embedder for one in routings if ROUTERS.get(one.router).text]
    return list(dict.fromkeys(found))


def timed_answers(base: Base, store: Store, plan: Plan, choice: LatencyChoice, rows: int) -> dict:
    """`latency_of`, where the work is done."""
    return latency_of(
        plan, base, store, choice, rows=max(FEWEST_READ, rows),
        training=lambda jobs: estimate(jobs, base, rows=rows)["train_seconds"],
    )  # fmt: skip


def keep_supervision(plan: Plan, store: Store) -> None:
    """Keep every supervision under its hash, so that each example's document, generator and prompt can be looked up."""
    for learnt in {
        module.learnt.supervision.hash: module.learnt for module in plan.modules.values()
    }.values():
        examples = learnt.supervision.examples
        store.put_supervision(learnt.supervision.hash, (asdict(example) for example in examples))


def execute(
    study: Study,
    bases: Base | Executor | Bases,
    store: Store,
    out: Path,
    *,
    command: str = "",
    rows: int = DEFAULT_ROWS,
    progress: Progress | None = None,
    finish: Callable[[RunResult], None] = lambda result: None,
) -> RunResult:
    """Train, read and score on every base; whatever the store already holds is used, whatever finishes is kept.

    Failed cells are recorded with their error and shown as holes in the report; the rest goes on.

    Args:
        bases: The base (this process then does the work), who works on it, or what finds either by the base's name, one
            base after another.
        rows: Rows of a training step, over all modules, where this process does the work.
        finish: What else belongs to the run before its log says that it ended: the report.

    Raises:
        InputError: one base for a study that compares several.
    """
    if not callable(bases) and len(study.bases) > 1:
        raise InputError(
            f"this study compares {len(study.bases)} bases; give a function that loads each by its name"
        )
    check_keys(study)
    made = not out.exists()
    out = prepare_out(out)
    progress = progress or Progress(out / LOG)
    began = time.time()
    body = {"scale": study.scale, **study.body}
    legs: list[Leg] = []
    outcome = Outcome()
    command = masked(command)  # a caller's own words, too, may hold a key
    about = {"command": command, "study": study.name, "scale": study.scale, "version": __version__}
    try:
        with progress.running(**about, code=code_state()):
            write_text(out / "study.yaml", yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
            for name in study.bases:
                found = bases(name) if callable(bases) else bases
                executor = Local(found, store, rows=rows) if isinstance(found, Base) else found
                outcome = Outcome()
                legs.append(run_leg(study, executor, store, outcome, progress, command=command))
            result = record(study, legs, store, out, began=began)
            progress.holes = len(result.failures)
            finish(result)
    except InputError:  # a base, a source, a target that cannot be used
        if made and not legs and "train" not in outcome.ledger.as_dict():
            forget_out(out)
        raise
    return result


def header(study: Study, base: Base, plan: Plan, progress: Progress) -> None:
    """Two lines that say what is about to happen."""
    counts = plan.counts()
    progress.say(f"{study.name} ({study.scale}): {study.file.question}")
    progress.say(
        f"base {base.name} ({base.parameters / 1e6:.1f}M parameters, {base.device}, {base.precision}); "
        f"{counts['modules']} modules, {counts['readings']} readings, {counts['questions']:,} questions"
    )
