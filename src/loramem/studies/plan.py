"""The plan of a study: which modules and readings it needs, each once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loramem.answering.readings import STEMS, ReadingTask
from loramem.base.model import Base
from loramem.core.errors import Faults, InputError, LoramemError, RunFailed
from loramem.modules.recipe import ModuleConfig, module_hash, trained_recipe
from loramem.modules.targets import parameter_count
from loramem.sources.catalogue import Source, load_source
from loramem.studies.cells import (
    Cell,
    ControlPlan,
    ModulePlan,
    context_cells,
    module_cells,
    with_partners,
    without_doubles,
)
from loramem.studies.extras import with_extras
from loramem.studies.learning import Learnt, Synthesis
from loramem.studies.naming import Naming, naming_of, slug
from loramem.studies.pooled import Group, pool_cells
from loramem.studies.spec import Study
from loramem.synthesis.generators import SupervisionChoice
from loramem.training import TrainJob


@dataclass(frozen=True)
class Plan:
    """Everything a study needs, nothing of it done yet.

    Attributes:
        skipped: Modules left out on purpose.
        lost: Cells that cannot be made because their supervision could not be: cell, seed, error.
        supervision: The account of every supervision made (`studies.learning.account`).
    """

    sources: dict[str, list[Source]]
    modules: dict[str, ModulePlan]
    controls: dict[str, ControlPlan]
    cells: list[Cell]
    skipped: int
    lost: list[dict]
    supervision: list[dict]

    def counts(self) -> dict:
        """What --dry-run prints and plan.json keeps."""
        jobs = [module.job for module in self.modules.values()]
        tasks = {id_of(task): task for cell in self.cells for task in cell.tasks}
        return {
            "modules": len(self.modules),
            "modules_skipped": self.skipped,
            "readings": len(tasks),
            "cells": len({cell.slug for cell in self.cells}),
            "train_steps": sum(job.steps for job in jobs),
            "train_rows": sum(job.steps * job.optimizer.batch for job in jobs),
            "train_tokens_padded": sum(job.steps * job.optimizer.batch * job.length for job in jobs),
            "lora_parameters": sum(module.parameters for module in self.modules.values()),
            "lora_bytes": 4 * sum(module.parameters for module in self.modules.values()),
            "questions": sum(len(task.probes) for task in tasks.values()),
            "sources": {
                key: [
                    {
                        "size_tokens": s.size_tokens,
                        "facts": len(s.records),
                        "probes": len(s.probes),
                        "notes": list(s.notes),
                    }
                    for s in sources
                ]
                for key, sources in self.sources.items()
            },
        }


def id_of(task: ReadingTask) -> tuple:
    """What makes two tasks one reading."""
    pool = None if task.pool is None else tuple(one.module for one in task.pool.candidates)
    return (
        task.stem, task.module, task.source.hash, task.retrieval, pool, task.routing, task.merging, task.module_on, task.abstain,
        task.documents, task.own_document,
    )  # fmt: skip


def make_plan(study: Study, base: Base, synthesis: Synthesis | None = None) -> Plan:
    """Expand a study into modules and cells, for one base.

    Args:
        synthesis: Makes the supervision; by default one that keeps no model's answers.

    Raises:
        Faults: every source that cannot be built at its size, and every supervision that cannot be made as asked, at once.
    """
    synthesis = synthesis or Synthesis(base, pieces=study.file.chunking)
    sources: dict[str, list[Source]] = {}
    faults: list[str] = []
    for key, config in study.sources.items():
        try:
            sources[key] = [
                with_extras(study, config, source, base) for source in load_source(config, base.prompts.count)
            ]
        except LoramemError as error:
            faults += error.faults if isinstance(error, Faults) else [str(error)]
    if faults:
        raise Faults([f"sources: {fault}" for fault in faults])
    plan = Plan(sources, {}, {}, [], 0, [], synthesis.accounts)
    skipped = 0
    groups: list[Group] = []
    for key, built in sources.items():
        naming = naming_of(study, key, base)
        for source in built:
            plan.cells.extend(context_cells(study, key, source, naming, base, synthesis))
            for how in study.partitions:
                for choice in study.supervisions:
                    try:
                        learnt = synthesis.learn(key, study.sources[key], source, choice, how)
                    except InputError as error:
                        text = f"supervision: {key}, {choice.recipe}: {error}"
                        faults += [text] if text not in faults else []
                        continue
                    except RunFailed as error:
                        plan.lost.extend(_lost(study, key, source, choice, how, naming, str(error)))
                        continue
                    skipped += _grid(study, key, source, learnt, naming, base, plan, groups)
    if faults:
        raise Faults(faults)
    plan.cells.extend(pool_cells(study, groups))
    return replace(plan, cells=with_partners(without_doubles(plan.cells)), skipped=skipped)


def _grid(
    study: Study,
    key: str,
    source: Source,
    learnt: Sequence[Learnt],
    naming: Naming,
    base: Base,
    plan: Plan,
    groups: list[Group],
) -> int:
    """The modules of every point on one supervision, and their cells; each group of them is noted in `groups`.

    Returns:
        How many modules are skipped.
    """
    skipped = 0
    seen: set[tuple] = set()  # two points may come to one module once rates are chosen
    for point in study.points[key]:
        how = learnt[0].partition
        if not point.fits(source.size_tokens, how, learnt[0].choice.recipe):
            continue
        if any(skip.matches(key, source.size_tokens, how, point.config) for skip in study.file.skip):
            skipped += study.file.seeds * len(learnt)
            continue
        for seed in range(study.file.seeds):
            made = _in_company(base, point.config, learnt, seed, plan)
            group = tuple(plan.modules.setdefault(module.id, module) for module in made)
            mark = tuple(module.id for module in group)
            if mark not in seen:
                seen.add(mark)
                # the same supervision may come of two choices: a cell is of the choice it was asked with
                own = tuple(replace(m, learnt=part) for m, part in zip(group, learnt, strict=True))
                plan.cells.extend(module_cells(study, key, source, own, naming, plan.controls))
                groups.append(Group(key, source, own, naming))
    return skipped


def _in_company(
    base: Base, config: ModuleConfig, learnt: Sequence[Learnt], seed: int, plan: Plan
) -> list[ModulePlan]:
    """One module per part; with distractors `others` those that stand beside them are planned as well.

    Raises:
        InputError: `others` of a source that is one part.
    """
    company = config.distractors
    if company is None or company.modules != "others":
        return [plan_module(base, config, part, seed) for part in learnt]
    if len(learnt) < 2:
        raise InputError(
            f"distractors others: partition {learnt[0].partition} makes one module of {learnt[0].key}, so there are none; use document, "
            "chunk or tokens:N"
        )
    alone = [
        plan_module(base, config.model_copy(update={"distractors": None}), part, seed) for part in learnt
    ]
    for module in alone:
        plan.modules.setdefault(module.id, module)
    found = []
    for part, own in zip(learnt, alone, strict=True):
        ids = tuple(sorted(other.id for other in alone if other.id != own.id))
        named = config.model_copy(update={"distractors": company.model_copy(update={"modules": ids})})
        # its place in the grid is that of the settings as they were written
        found.append(replace(plan_module(base, named, part, seed), config=config))
    return found


def _lost(
    study: Study, key: str, source: Source, choice: SupervisionChoice, how: str, naming: Naming, error: str
) -> list[dict]:
    """The cells of a supervision that could not be made."""
    return [
        {"cell": slug(naming, key, source, reading, config=point.config, choice=choice, how=how), "seed": None, "error": error}
        for point in study.points[key]
        for reading in study.readings
        if STEMS.get(reading.reading).uses_module and reading.partition in (None, how)
    ]  # fmt: skip


def plan_module(base: Base, config: ModuleConfig, learnt: Learnt, seed: int) -> ModulePlan:
    """One module of a source."""
    steps = config.budget.steps_for(len(learnt.examples), config.optimizer.batch)
    teacher = learnt.teacher(base, config.objective)
    recipe = trained_recipe(
        base, learnt.supervision.hash, config, steps=steps, length=learnt.length, seed=seed, teacher=teacher
    )
    identity = module_hash(recipe)
    job = TrainJob(
        identity, config.spec, config.objective, config.optimizer, steps, seed, learnt.examples, learnt.length,
        config.budget, teacher, config.distractors,
    )  # fmt: skip
    return ModulePlan(identity, recipe, config, learnt, seed, job, parameter_count(base.model, config.spec))
