"""What studies would cost, before anything is spent: counted, timed by a few probe steps, and beside each other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from loramem.base.model import Base
from loramem.core.errors import RunFailed
from loramem.modules.store import Store
from loramem.studies.cells import ModulePlan
from loramem.studies.learning import Synthesis
from loramem.studies.plan import Plan, make_plan
from loramem.studies.spec import Study
from loramem.studies.tuning import plan_sweeps
from loramem.studies.workload import machine_of, reading_items, training_items
from loramem.training import TrainJob, train_modules
from loramem.training.packing import Queue


def dry_run(study: Study, base: Base, store: Store, *, rows: int, counted: set[str] | None = None) -> dict:
    """What a run would train, read and cost on one base; nothing is kept. Swept settings count with every one tried.

    Supervision that a model writes is counted as far as its answers are kept; no model is asked.

    Args:
        store: Where answers are kept; `Store(look=True)` makes no folder.
        counted: Modules that other studies train already, which cost nothing here; those of this study are added.
    """
    swept, plan = _planned(study, base, store)
    every = swept | plan.modules
    counted = set() if counted is None else counted
    jobs = [module.job for identity, module in every.items() if identity not in counted]
    counted.update(every)
    return {
        "sweep_modules": len(swept), **plan.counts(), "shared_modules": len(every) - len(jobs), "supervision_not_made": len(plan.lost),
        **{key: round(value, 3) for key, value in estimate(jobs, base, rows=rows).items()},
    }  # fmt: skip


def _planned(study: Study, base: Base, store: Store) -> tuple[dict[str, ModulePlan], Plan]:
    """The modules of a study's sweeps, every one tried, and its plan. No model is asked for supervision."""
    synthesis = Synthesis(base, store.completions, pieces=study.file.chunking, dry=True)
    sweeps = plan_sweeps(study, base, synthesis)
    swept = {m.id: m for found in sweeps.values() for candidate in found for m in candidate.modules}
    return swept, make_plan(study, base, synthesis)


ASIDE_SECONDS = 15.0
"""Of a study beside training and reading: planning, scoring, figures (20 on two cores for the larger ones of `study run all --scale laptop`)."""


def foresee(studies: Mapping[str, Study], base: Base, store: Store, *, rows: int) -> list[float | None]:
    """Seconds that each study of a series would still take, as far as shapes tell: meant beside each other, for the time left.

    What the store holds, or a study before it makes, costs nothing. Bases other than this one count as if they were it. Merging
    and timed answers are left out (`studies.workload`), so studies that merge much are taken for too short.

    Returns:
        None for a study that cannot be foreseen, as part of its supervision is not written yet; 0 for one that cannot be planned.
    """
    machine = machine_of(base)
    made: set[str] = set()
    found: list[float | None] = []
    for study in studies.values():
        try:
            swept, plan = _planned(study, base, store)
        except Exception:  # an estimate ends nothing: the study meets the same in its turn, and it is told
            found.append(0.0)
            continue
        modules = swept | plan.modules
        tasks = {task.identity(base): task for cell in plan.cells for task in cell.tasks}
        train = set(store.lacking("modules", modules)) - made
        read = set(store.lacking("readings", tasks)) - made
        made |= train | read
        items = training_items([modules[key].job for key in train], machine)
        items += reading_items({key: tasks[key] for key in read}, machine, rows=rows)
        seconds = len(study.bases) * sum(item.seconds for item in items) + ASIDE_SECONDS
        found.append(None if plan.lost else seconds)
    return found


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
