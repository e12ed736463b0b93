"""The local executor: train what is missing, read what is missing, keep whatever is finished."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from loramem.answering.readings import ReadingTask, read
from loramem.base.model import Base
from loramem.core.errors import LoramemError
from loramem.core.ledger import Ledger
from loramem.modules.store import Store
from loramem.studies.plan import Plan
from loramem.studies.progress import Progress
from loramem.training.loop import Trained, train_pack
from loramem.training.packing import plan_packs


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
    plan: Plan, base: Base, store: Store, outcome: Outcome, progress: Progress, *, rows: int
) -> None:
    """Train every planned module that the store lacks, in packs; each is saved the moment it is done."""
    missing = [module for module in plan.modules.values() if not store.has_module(module.id)]
    outcome.modules_reused = len(plan.modules) - len(missing)
    if not missing:
        return
    planned = {module.id: module for module in missing}
    packs = plan_packs([module.job for module in missing], base, rows=rows)
    progress.start(
        "train",
        total=sum(module.job.steps * module.job.optimizer.batch for module in missing),
        unit="rows",
        things=len(missing),
    )

    def finish(done: Trained) -> None:
        module = planned[done.key]
        ledger = {
            "tokens": done.tokens,
            "supervised_tokens": done.supervised_tokens,
            "seconds": done.seconds,
            "truncated_tokens": done.truncated_tokens,
        }
        extra = {
            "final_loss": done.final_loss,
            "parameters": module.parameters,
            "source": {
                "name": module.source.name,
                "size_tokens": module.source.size_tokens,
                "facts": len(module.source.records),
            },
        }
        store.put_module(
            done.key, module.recipe, module.config.spec, done.tensors, model=base.model, base_name=base.name,
            log=done.log, ledger=ledger, extra=extra,
        )  # fmt: skip
        outcome.ledger.add("train", modules=1, tokens=done.tokens)
        progress.finished_thing()

    def fail(key: str, error: Exception) -> None:
        outcome.failed_modules[key] = explain(error)
        progress.note(f"module {key[:12]} failed: {explain(error)}")

    with outcome.ledger.timed("train"):
        for pack in packs:
            try:
                train_pack(
                    base,
                    pack,
                    on_step=lambda rows_done, tokens: progress.advance(rows_done, tokens),
                    on_finish=finish,
                    on_fail=fail,
                )
            except Exception as error:  # one pack's failure must not end the others
                for job in pack:
                    if not store.has_module(job.key) and job.key not in outcome.failed_modules:
                        fail(job.key, error)
    progress.stop()


def read_missing(
    plan: Plan, base: Base, store: Store, outcome: Outcome, progress: Progress, *, rows: int
) -> dict[str, ReadingTask]:
    """Answer every planned reading that the store lacks. Returns all planned readings by id."""
    tasks: dict[str, ReadingTask] = {}
    for cell in plan.cells:
        identity = cell.task.identity(base)
        tasks.setdefault(identity, cell.task)
        if cell.stem in ("module", "wrong-module"):
            if cell.task.module is None:
                outcome.failed_readings[identity] = (
                    "no wrong module: no other source of this study has a module of the same spec; add a second source or drop the reading"
                )
            elif cell.task.module in outcome.failed_modules:
                outcome.failed_readings[identity] = (
                    f"its module failed: {outcome.failed_modules[cell.task.module]}"
                )
    missing = [
        identity
        for identity in tasks
        if not store.has_reading(identity) and identity not in outcome.failed_readings
    ]
    outcome.readings_reused = len(tasks) - len(missing) - len(outcome.failed_readings)
    if not missing:
        return tasks
    progress.start(
        "read",
        total=sum(len(tasks[identity].probes) for identity in missing),
        unit="probes",
        things=len(missing),
    )
    last = time.perf_counter()

    def done(index: int, predictions: list[dict], costs: dict) -> None:
        nonlocal last
        now = time.perf_counter()
        identity = missing[index]
        store.put_reading(
            identity,
            tasks[identity].describe(base),
            predictions,
            {**costs, "seconds_since_previous": now - last},
        )
        last = now
        outcome.ledger.add(
            "read",
            readings=1,
            probes=costs["probes"],
            prompt_tokens=costs["prompt_tokens"],
            new_tokens=costs["new_tokens"],
        )
        progress.advance(len(predictions), costs["prompt_tokens"] + costs["new_tokens"])
        progress.finished_thing()

    def fail(index: int, error: Exception) -> None:
        outcome.failed_readings[missing[index]] = explain(error)
        progress.note(
            f"reading {missing[index][:12]} ({tasks[missing[index]].stem}) failed: {explain(error)}"
        )

    with outcome.ledger.timed("read"):
        read(base, [tasks[identity] for identity in missing], store, rows=rows, on_done=done, on_fail=fail)
    progress.stop()
    return tasks


def failures_by_cell(plan: Plan, outcome: Outcome, base: Base) -> list[dict]:
    """One entry per cell and seed that has no result, with the reason."""
    found: list[dict] = []
    seen: set[tuple] = set()
    for cell in plan.cells:
        error = outcome.failed_readings.get(cell.task.identity(base))
        if error and (cell.slug, cell.seed) not in seen:
            seen.add((cell.slug, cell.seed))
            found.append({"cell": cell.slug, "seed": cell.seed, "error": error})
    return found
