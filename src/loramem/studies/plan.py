"""The plan of a study: which modules and readings it needs, each once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from loramem.answering.readings import STEMS, ReadingTask
from loramem.base.model import Base
from loramem.base.prompts import Encoded
from loramem.core.errors import Faults, InputError, LoramemError
from loramem.modules.controls import random_recipe
from loramem.modules.recipe import ModuleConfig, module_hash, trained_recipe
from loramem.modules.spec import Distractors, LoraSpec, Objective, Optimizer
from loramem.modules.targets import parameter_count
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import Source, load_source
from loramem.studies.spec import Study
from loramem.synthesis import Supervision, synthesize
from loramem.synthesis.contexts import TeacherForms, teacher_forms
from loramem.training import TrainJob, bucket_length

CONTROL_SEED = 0
"""Controls are read for one training seed: what they vary over is facts."""


@dataclass(frozen=True)
class Learnt:
    """What every module of one source learns: its supervision, encoded once."""

    key: str
    source: Source
    supervision: Supervision
    examples: tuple[Encoded, ...]
    length: int
    _forms: dict[int | None, TeacherForms] = field(default_factory=dict, compare=False, repr=False)

    def teacher(self, base: Base, objective: Objective) -> tuple[Encoded, ...]:
        """What a teacher reads for `dcd`, made once; nothing for other objectives."""
        if objective.name != "dcd":
            return ()
        tokens = objective.context_tokens
        if tokens not in self._forms:
            self._forms[tokens] = teacher_forms(
                self.supervision, self.source.documents, base.prompts, context_tokens=tokens
            )
        return self._forms[tokens].examples


@dataclass(frozen=True)
class ModulePlan:
    """One module to be trained, and where in the grid it stands."""

    id: str
    recipe: dict
    config: ModuleConfig
    learnt: Learnt
    seed: int
    job: TrainJob
    parameters: int

    @property
    def source(self) -> Source:
        return self.learnt.source

    @property
    def source_key(self) -> str:
        return self.learnt.key

    def exposures(self, steps: int) -> float:
        """How often each example is seen within `steps`."""
        return steps * self.config.optimizer.batch / len(self.learnt.examples)


@dataclass(frozen=True)
class ControlPlan:
    """A random module of a trained module's spec and norms; made in a moment once its parent is there."""

    id: str
    recipe: dict
    parent: ModulePlan


@dataclass(frozen=True)
class Cell:
    """One reading of one point of the grid for one training seed; its results become rows.

    Attributes:
        module: The point of the grid (for a control: the module it is the control of).
        snapshot: The training step at which the module is read; None: as it ended.
    """

    slug: str
    seed: int | None
    stem: str
    source_key: str
    source: Source
    task: ReadingTask
    module: ModulePlan | None
    snapshot: int | None = None


@dataclass(frozen=True)
class Plan:
    """Everything a study needs, nothing of it done yet."""

    sources: dict[str, list[Source]]
    modules: dict[str, ModulePlan]
    controls: dict[str, ControlPlan]
    cells: list[Cell]
    skipped: int = 0

    def counts(self) -> dict:
        """What --dry-run prints and plan.json keeps."""
        jobs = [module.job for module in self.modules.values()]
        tasks = {id_of(cell): cell.task for cell in self.cells}
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


def id_of(cell: Cell) -> tuple:
    """What makes two cells share one reading."""
    task = cell.task
    return (task.stem, task.module, task.source.hash, task.retrieval)


def make_plan(study: Study, base: Base) -> Plan:
    """Expand a study into modules and cells.

    Raises:
        Faults: every source that cannot be built at its size, at once.
    """
    sources: dict[str, list[Source]] = {}
    faults: list[str] = []
    for key, config in study.sources.items():
        try:
            sources[key] = load_source(config, base.prompts.count)
        except LoramemError as error:
            faults += error.faults if isinstance(error, Faults) else [str(error)]
    if faults:
        raise Faults([f"sources: {fault}" for fault in faults])
    modules: dict[str, ModulePlan] = {}
    controls: dict[str, ControlPlan] = {}
    cells: list[Cell] = []
    skipped = 0
    for key, built in sources.items():
        varied = _varied(study.grid[key], swept=bool(study.chosen))
        for source in built:
            learnt = learn(study.file.supervision.recipe, base, key, source)
            planned: dict[str, ModulePlan] = {}  # two points may come to one module once rates are chosen
            for point in study.points[key]:
                if point.sizes is not None and source.size_tokens not in point.sizes:
                    continue
                if any(skip.matches(key, source.size_tokens, point.config) for skip in study.file.skip):
                    skipped += study.file.seeds
                    continue
                for seed in range(study.file.seeds):
                    module = plan_module(base, point.config, learnt, seed)
                    planned[module.id] = modules.setdefault(module.id, module)
            cells += _cells(study, key, source, list(planned.values()), varied, controls)
    _refuse_doubles(cells)
    return Plan(sources, modules, controls, _with_partners(cells, modules), skipped)


def _refuse_doubles(cells: Sequence[Cell]) -> None:
    """Two modules under one name would be averaged. Raises `InputError` where settings differ that no name shows."""
    seen: dict[tuple, Cell] = {}
    for cell in cells:
        other = seen.setdefault((cell.slug, cell.seed), cell)
        if other.task.module != cell.task.module:
            raise InputError(
                f"two different modules would both be called {cell.slug} (seed {cell.seed}); their budgets differ in more than their "
                "length, so run them as two studies"
            )


def learn(recipe: str, base: Base, key: str, source: Source) -> Learnt:
    """The supervision of a source, in token ids."""
    supervision = synthesize(source.documents, recipe)
    examples = supervision.encode(base.prompts)
    return Learnt(key, source, supervision, examples, bucket_length(examples, base.context_length))


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


def _varied(configs: Sequence[ModuleConfig], *, swept: bool = False) -> list[tuple[str, str]]:
    """Fields that take several values over the grid; rank is always named. What follows rank alone (lr) is not, nor is
    a swept rate, so that a cell keeps its name whatever the sweep found."""
    found = [("spec", "rank")]
    fields = [
        (part, name)
        for part, kind in (
            ("spec", LoraSpec),
            ("optimizer", Optimizer),
            ("distractors", Distractors),
        )
        for name in kind.model_fields
    ]
    for section, name in [*fields, ("objective", "label"), ("budget", "label")]:
        by_rank = {(config.spec.rank, str(_setting(config, section, name))) for config in configs}
        ranks = {config.spec.rank for config in configs}
        if name != "rank" and len(by_rank) > len(ranks) and not (swept and name == "lr"):
            found.append((section, name))
    return found


def _setting(config: ModuleConfig, section: str, name: str) -> object:
    """A setting of a module; None where it has no such section."""
    return getattr(getattr(config, section), name, None)


def slug(
    key: str,
    source: Source,
    stem: str,
    *,
    config: ModuleConfig | None = None,
    varied: Sequence[tuple[str, str]] = (),
    snapshot: int | None = None,
    retrieval: Retrieval | None = None,
) -> str:
    """A readable name: source, size, the settings that vary, snapshot, reading."""
    parts = [key] + ([str(source.size_tokens)] if source.size_tokens else [])
    if config is not None:
        for section, name in varied:
            value = _setting(config, section, name)
            shown = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
            parts.append(shown if name == "label" else f"{'r' if name == 'rank' else name + '='}{shown}")
    if snapshot is not None:
        parts.append(f"at-step-{snapshot}")
    parts.append(stem)
    if retrieval is not None and stem == "rag":
        parts.append(retrieval.label)
    return "-".join(parts)


def _cells(
    study: Study,
    key: str,
    source: Source,
    planned: Sequence[ModulePlan],
    varied: list[tuple[str, str]],
    controls: dict[str, ControlPlan],
) -> list[Cell]:
    cells = []
    for name in study.file.readings:
        stem = STEMS.get(name)
        if not stem.uses_module:
            for retrieval in _retrievals_of(study, name):
                task = ReadingTask(name, source, None, retrieval)
                cells.append(
                    Cell(slug(key, source, name, retrieval=retrieval), None, name, key, source, task, None)
                )
            continue
        for module in planned:
            if stem.control and module.seed != CONTROL_SEED:
                continue
            snapshots = (*module.config.budget.snapshots, None) if name == "module" else (None,)
            for snapshot in snapshots:
                identity = module.id if snapshot is None else f"{module.id}@{snapshot}"
                if name == "random-module":
                    control = _control(module)
                    identity = controls.setdefault(control.id, control).id
                title = slug(key, source, name, config=module.config, varied=varied, snapshot=snapshot)
                task = ReadingTask(name, source, identity)
                cells.append(Cell(title, module.seed, name, key, source, task, module, snapshot))
    return cells


def _retrievals_of(study: Study, stem: str) -> Sequence[Retrieval | None]:
    if STEMS.get(stem).context != "passages":
        return (None,)
    if stem == "gold-passage":  # one passage, however the others are found
        return tuple(
            dict.fromkeys(r.model_copy(update={"method": "gold", "passages_k": 1}) for r in study.retrievals)
        )
    return tuple(r for r in study.retrievals if r.method != "gold")


def _control(module: ModulePlan) -> ControlPlan:
    recipe = random_recipe(
        module.id, module.config.spec.identity(), base=module.recipe["base"], seed=module.seed
    )
    return ControlPlan(module_hash(recipe), recipe, module)


def _with_partners(cells: list[Cell], modules: dict[str, ModulePlan]) -> list[Cell]:
    """Give each `wrong-module` cell its partner: same spec and source size, other knowledge, next by hash.

    Another source's module of the same spec comes first: slices of one source are nested, and a larger
    slice's module would know the answers. Where none is found, the module of the same source whose
    records are disjoint is taken; where there is none either, the cell is left to fail visibly.
    """
    result = []
    for cell in cells:
        if cell.stem != "wrong-module":
            result.append(cell)
            continue
        assert cell.module is not None
        mine = {record.id for record in cell.source.records}
        candidates = sorted(
            other.id
            for other in modules.values()
            if other.config.spec == cell.module.config.spec
            and other.seed == cell.seed
            and (
                other.source_key != cell.source_key
                or mine.isdisjoint(record.id for record in other.source.records)
            )
        )
        partner = next(
            (identity for identity in candidates if identity > cell.module.id),
            candidates[0] if candidates else None,
        )
        result.append(replace(cell, task=replace(cell.task, module=partner)))
    return result
