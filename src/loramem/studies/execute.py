"""The local executor: train what is missing, read what is missing, keep whatever is finished."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loramem.answering.readings import STEMS, Done, ReadingTask, read
from loramem.base.model import Base
from loramem.core.background import Background
from loramem.core.errors import LoramemError
from loramem.core.ledger import Ledger
from loramem.modules.controls import random_like
from loramem.modules.peft_format import adapter_config
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.studies.cells import Cell, ModulePlan
from loramem.studies.plan import Plan
from loramem.studies.progress import Progress
from loramem.training import Teacher, Trained, TrainJob, train_modules


@dataclass
class Outcome:
    """What an execution did: ids that failed with their error, and what was found finished."""

    failed_modules: dict[str, str] = field(default_factory=dict)
    failed_readings: dict[str, str] = field(default_factory=dict)
    modules_reused: int = 0
    readings_reused: int = 0
    ledger: Ledger = field(default_factory=Ledger)


def explain(error: BaseException) -> str:
    """One line for a results table: the message of an error of ours, else kind and message."""
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return first if isinstance(error, LoramemError) else f"{type(error).__name__}: {first}"


def train_missing(
    modules: Iterable[ModulePlan],
    base: Base,
    store: Store,
    outcome: Outcome,
    progress: Progress,
    *,
    rows: int,
) -> None:
    """Train every planned module that the store lacks, side by side; each is saved, beside the training, the moment it is done."""
    wanted = list(modules)
    missing = [module for module in wanted if not store.has_module(module.id)]
    outcome.modules_reused += len(wanted) - len(missing)
    if not missing:
        return
    planned = {module.id: module for module in missing}
    progress.start(
        "train",
        total=sum(module.job.steps * module.job.optimizer.batch for module in missing),
        unit="rows",
        things=len(missing),
    )

    def fail(key: str, error: BaseException) -> None:
        outcome.failed_modules[key] = explain(error)
        progress.note(f"module {key[:12]} failed: {explain(error)}")

    with outcome.ledger.timed("train"), Background() as saver:

        def finish(done: Trained) -> None:
            module = planned[done.key]
            extra = {
                "parameters": module.parameters,
                "supervision": module.learnt.spent(),
                "source": {
                    "name": module.source.name,
                    "size_tokens": module.source.size_tokens,
                    "facts": len(module.source.records),
                },
            }

            def saved(error: BaseException | None) -> None:
                if error is not None:
                    fail(done.key, error)
                    return
                outcome.ledger.add("train", modules=1, tokens=done.tokens, teacher_tokens=done.teacher_tokens)
                progress.finished_thing(
                    early_rows=(module.job.steps - done.steps) * module.job.optimizer.batch
                )

            spec = module.config.spec
            # described here: the saver's thread must not walk a model whose layers come and go
            config = adapter_config(spec, model=base.model, base_name=base.name)
            text = module.source.text
            saver.run(
                lambda: save_trained(store, done, module.recipe, spec, config, extra=extra, text=text), saved
            )

        def step(rows_done: int, tokens: int) -> None:
            progress.advance(rows_done, tokens)
            saver.collect()

        teacher = Teacher(base, store.teacher_cache)
        for jobs in in_order([module.job for module in missing]):
            train_modules(
                base, jobs, on_finish=finish, on_fail=fail, on_step=step, on_note=progress.note, rows=rows,
                find=lambda identity: store.module(identity).load(), teacher=teacher,
            )  # fmt: skip
            saver.wait()  # those that come next may stand beside these
    progress.stop()


def in_order(jobs: Sequence[TrainJob]) -> list[list[TrainJob]]:
    """Jobs in rounds: those that train beside modules of other jobs come after these."""
    keys = {job.key for job in jobs}
    rounds: tuple[list[TrainJob], list[TrainJob]] = ([], [])
    for job in jobs:
        company = () if job.distractors is None else job.distractors.modules
        rounds[bool(keys.intersection(company))].append(job)
    return [jobs for jobs in rounds if jobs]


def save_trained(
    store: Store,
    done: Trained,
    recipe: dict,
    spec: LoraSpec,
    config: Mapping[str, Any],
    *,
    extra: dict | None = None,
    text: str = "",
) -> None:
    """Keep a trained module: weights, log, costs, how its training ended, and the text it learnt."""
    ledger = {
        "tokens": done.tokens,
        "supervised_tokens": done.supervised_tokens,
        "seconds": done.seconds,
        "truncated_tokens": done.truncated_tokens,
        "teacher_tokens": done.teacher_tokens,
    }
    facts = {"final_loss": done.final_loss, "steps_taken": done.steps, "ended": done.ended, **(extra or {})}
    store.put_module(
        done.key, recipe, spec, done.tensors, config=config, log=done.log, ledger=ledger,
        extra=facts, snapshots=done.snapshots, text=text,
    )  # fmt: skip


def make_controls(plan: Plan, base: Base, store: Store, outcome: Outcome, progress: Progress) -> None:
    """Draw the random modules that the store lacks: each needs its parent's norms, so it comes after training."""
    for control in plan.controls.values():
        if store.has_module(control.id):
            continue
        if control.parent.id in outcome.failed_modules:
            outcome.failed_modules[control.id] = (
                f"its parent failed: {outcome.failed_modules[control.parent.id]}"
            )
            continue
        try:
            spec, tensors = store.module(control.parent.id).load()
            drawn = random_like(tensors, seed=control.recipe["seed"])
        except LoramemError as error:
            outcome.failed_modules[control.id] = explain(error)
            progress.note(f"random module {control.id[:12]} failed: {explain(error)}")
            continue
        store.put_module(
            control.id, control.recipe, spec, drawn, config=adapter_config(spec, model=base.model, base_name=base.name), log=[],
            ledger={"tokens": 0, "supervised_tokens": 0, "seconds": 0.0, "truncated_tokens": 0},
            extra={"parameters": control.parent.parameters},
        )  # fmt: skip


def read_missing(
    cells: Iterable[Cell], base: Base, store: Store, outcome: Outcome, progress: Progress, *, rows: int
) -> None:
    """Answer every planned reading that the store lacks."""
    tasks: dict[str, ReadingTask] = {}
    for task in (task for cell in cells for task in cell.tasks):
        identity = task.identity(base)
        tasks.setdefault(identity, task)
        stem = STEMS.get(task.stem)
        needed = [task.module] if stem.which in ("own", "wrong", "random") else []
        if task.pool is not None:
            needed += [one.module for one in task.pool.candidates]
        if None in needed:
            outcome.failed_readings[identity] = (
                "no wrong module: no other source of this study has a module of the same spec; add a second source or drop the reading"
            )
        failed = [
            parent for one in needed if one and (parent := one.partition("@")[0]) in outcome.failed_modules
        ]
        if failed:
            whose = "its module" if task.pool is None else f"a module of its pool ({failed[0][:12]})"
            outcome.failed_readings[identity] = f"{whose} failed: {outcome.failed_modules[failed[0]]}"
    missing = [
        identity
        for identity in tasks
        if not store.has_reading(identity) and identity not in outcome.failed_readings
    ]
    outcome.readings_reused += len(tasks) - len(missing) - len(outcome.failed_readings.keys() & tasks.keys())
    if not missing:
        return
    progress.start(
        "read",
        total=sum(len(tasks[identity].probes) for identity in missing),
        unit="probes",
        things=len(missing),
    )
    last = time.perf_counter()

    def done(index: int, made: Done) -> None:
        nonlocal last
        now = time.perf_counter()
        identity, costs = missing[index], made.costs
        store.put_reading(
            identity,
            tasks[identity].describe(base),
            made.predictions,
            {**costs, "seconds_since_previous": now - last},
            merges=made.merges,
        )
        last = now
        outcome.ledger.add(
            "read",
            readings=1,
            probes=costs["probes"],
            prompt_tokens=costs["prompt_tokens"],
            new_tokens=costs["new_tokens"],
        )
        progress.advance(len(made.predictions), costs["prompt_tokens"] + costs["new_tokens"])
        progress.finished_thing()

    def fail(index: int, error: Exception) -> None:
        outcome.failed_readings[missing[index]] = explain(error)
        progress.note(
            f"reading {missing[index][:12]} ({tasks[missing[index]].stem}) failed: {explain(error)}"
        )

    with outcome.ledger.timed("read"):
        read(base, [tasks[identity] for identity in missing], store, rows=rows, on_done=done, on_fail=fail)
    progress.stop()


def failures_by_cell(plan: Plan, outcome: Outcome, base: Base) -> list[dict]:
    """One entry per cell and seed that has no result or only part of one, with the reason."""
    found: list[dict] = list(plan.lost)
    seen: set[tuple] = set()
    for cell in plan.cells:
        errors = [
            outcome.failed_readings[identity]
            for task in cell.tasks
            if (identity := task.identity(base)) in outcome.failed_readings
        ]
        if errors and (cell.slug, cell.seed) not in seen:
            seen.add((cell.slug, cell.seed))
            part = f"{len(errors)} of {len(cell.tasks)} parts: " if len(cell.tasks) > 1 else ""
            found.append({"cell": cell.slug, "seed": cell.seed, "error": part + errors[0]})
    return found
