"""What a study needs of an executor: what is missing is made, what fails is recorded, what is spent is counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from loramem.answering.readings import STEMS, ReadingTask
from loramem.base.model import Base
from loramem.core.errors import LoramemError
from loramem.core.ledger import Ledger
from loramem.modules.controls import random_like
from loramem.modules.peft_format import adapter_config
from loramem.modules.store import Store
from loramem.studies.cells import Cell, ModulePlan
from loramem.studies.executors import Executor
from loramem.studies.plan import Plan
from loramem.studies.progress import Progress
from loramem.studies.work import Advanced, Event, Failed, Finished, Said, explain, in_order


@dataclass
class Outcome:
    """What an execution did: ids that failed with their error, and what was found finished."""

    failed_modules: dict[str, str] = field(default_factory=dict)
    failed_readings: dict[str, str] = field(default_factory=dict)
    modules_reused: int = 0
    readings_reused: int = 0
    ledger: Ledger = field(default_factory=Ledger)


def train_missing(
    modules: Iterable[ModulePlan], store: Store, outcome: Outcome, progress: Progress, executor: Executor
) -> None:
    """Train every planned module that the store lacks."""
    wanted = {module.id: module for module in modules}
    missing = [wanted[identity] for identity in store.lacking("modules", wanted)]
    outcome.modules_reused += len(wanted) - len(missing)
    if not missing:
        return
    rows = sum(module.job.steps * module.job.optimizer.batch for module in missing)
    progress.start("train", total=rows, unit="rows", things=len(missing))

    def tell(event: Event) -> None:
        match event:
            case Advanced(amount, tokens):
                progress.advance(amount, tokens)
            case Finished(key, costs, facts, early):
                spent = {unit: costs[unit] for unit in ("tokens", "teacher_tokens")}
                outcome.ledger.add("train", modules=1, **spent)
                progress.module_done(key, early_rows=early, **{**costs, **facts})
            case Failed(key, error):
                outcome.failed_modules[key] = error
                progress.module_failed(key, error)
            case Said(text):
                progress.note(text)

    with outcome.ledger.timed("train"):
        for jobs in in_order([module.job for module in missing]):  # some train beside those before them
            executor.train([wanted[job.key] for job in jobs], tell)
    progress.stop()


def make_controls(plan: Plan, base: Base, store: Store, outcome: Outcome, progress: Progress) -> None:
    """Draw the random modules that the store lacks: each needs its parent's norms, so it comes after training."""
    controls = {control.id: control for control in plan.controls.values()}
    for control in (controls[identity] for identity in store.lacking("modules", controls)):
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
            progress.module_failed(control.id, explain(error))
            continue
        store.put_module(
            control.id, control.recipe, spec, drawn, config=adapter_config(spec, model=base.model, base_name=base.name), log=[],
            ledger={"tokens": 0, "supervised_tokens": 0, "seconds": 0.0, "truncated_tokens": 0},
            extra={"parameters": control.parent.parameters},
        )  # fmt: skip


def read_missing(
    cells: Iterable[Cell], base: Base, store: Store, outcome: Outcome, progress: Progress, executor: Executor
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
    lacking = store.lacking("readings", tasks)
    missing = [identity for identity in lacking if identity not in outcome.failed_readings]
    outcome.readings_reused += len(tasks) - len(missing) - len(outcome.failed_readings.keys() & tasks.keys())
    if not missing:
        return
    questions = sum(len(tasks[identity].probes) for identity in missing)
    progress.start("read", total=questions, unit="probes", things=len(missing))

    def tell(event: Event) -> None:
        match event:
            case Advanced(amount, tokens):
                progress.advance(amount, tokens)
            case Finished(key, costs, facts):
                spent = {unit: costs[unit] for unit in ("probes", "prompt_tokens", "new_tokens")}
                outcome.ledger.add("read", readings=1, **spent)
                progress.reading_done(key, **{**costs, **facts})
            case Failed(key, error):
                outcome.failed_readings[key] = error
                progress.reading_failed(key, error, stem=tasks[key].stem)
            case Said(text):
                progress.note(text)

    with outcome.ledger.timed("read"):
        executor.read({identity: tasks[identity] for identity in missing}, tell)
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
