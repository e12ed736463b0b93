"""The cells of a study: which module or context answers which questions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from loramem.answering.pools import Pool
from loramem.answering.readings import STEMS, ReadingTask, context_name
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.metrics.scorers import METRICS
from loramem.modules.controls import random_recipe
from loramem.modules.recipe import ModuleConfig, module_hash
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import Source
from loramem.studies.learning import Learnt, Synthesis, parts_of
from loramem.studies.naming import Naming, slug
from loramem.studies.reading_choice import ReadingChoice
from loramem.studies.spec import Study
from loramem.training import TrainJob

CONTROL_SEED = 0
"""Controls are read for one training seed: what they vary over is facts."""


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
        source: The whole source.
        tasks: What is read: one task, or one per part where each part is asked with its own module or context.
        modules: The point of the grid, one module per part (for a control: the modules it is the control of).
        snapshot: The training step at which the modules are read; None: as they ended.
        partition: How the source was cut; None where that makes no difference.
    """

    slug: str
    seed: int | None
    stem: str
    source_key: str
    source: Source
    tasks: tuple[ReadingTask, ...]
    modules: tuple[ModulePlan, ...] = ()
    snapshot: int | None = None
    partition: str | None = None

    @property
    def module(self) -> ModulePlan | None:
        """The first module: all of a cell have the same settings."""
        return self.modules[0] if self.modules else None

    @property
    def module_ids(self) -> list[str]:
        """The modules that answer, or may."""
        pools = [one.module for task in self.tasks if task.pool for one in task.pool.candidates]
        return [task.module for task in self.tasks if task.module] + pools


def task_of(
    study: Study,
    reading: ReadingChoice,
    part: Source,
    whole: Source,
    how: str | None,
    *,
    module: str | None = None,
    retrieval: Retrieval | None = None,
    pool: Pool | None = None,
) -> ReadingTask:
    """A reading of one part of a source.

    Passages and summaries come from the whole source. Documents in the context are those of the part; beside a module of a
    piece, or of many modules, each question reads its own document as a whole.
    """
    stem = STEMS.get(reading.reading)
    apart = stem.context in ("passages", "summary") or (
        stem.uses_module and how not in (None, "corpus", "document")
    )
    documents = whole.documents if apart and part.documents != whole.documents else None
    own = stem.context == "documents" and stem.uses_module and (documents is not None or pool is not None)
    return ReadingTask(
        reading.reading, part, module, retrieval, documents if stem.in_context else None, own and how != "corpus", pool,
        reading.routing, reading.merging, reading.module_on, reading.abstain,
        letters=any(METRICS.get(name).needs == "letter_prediction" for name in study.file.metrics),
    )  # fmt: skip


def context_cells(
    study: Study, key: str, source: Source, naming: Naming, base: Base, synthesis: Synthesis
) -> list[Cell]:
    """The cells without modules. The base alone and retrieval know nothing of partitions (passages come from the whole
    source); documents in the context are those that a module of the partition learns."""
    cells = []
    for reading in study.readings:
        stem = STEMS.get(reading.reading)
        if stem.uses_module:
            continue
        for how in study.partitions if stem.context == "documents" else (None,):
            parts = (
                [source] if how is None else [own for _, own in parts_of(source, how, synthesis.pieces, base)]
            )
            for retrieval in retrievals_of(study, reading.reading):
                tasks = tuple(
                    task for part in parts
                    if (task := task_of(study, reading, part, source, how, retrieval=retrieval)).probes
                )  # fmt: skip
                title = slug(naming, key, source, reading, how=how, retrieval=retrieval)
                cells.append(Cell(title, None, reading.reading, key, source, tasks, partition=how))
    return cells


def module_cells(
    study: Study,
    key: str,
    source: Source,
    modules: tuple[ModulePlan, ...],
    naming: Naming,
    controls: dict[str, ControlPlan],
) -> list[Cell]:
    """The cells of one group of modules, one module per part; those that choose among modules are in `pooled`."""
    cells = []
    first = modules[0]
    for reading in study.readings:
        stem = STEMS.get(reading.reading)
        if stem.which in ("none", "pool") or (stem.control and first.seed != CONTROL_SEED):
            continue
        if reading.partition not in (None, first.learnt.partition):
            continue
        plain = reading.reading == "module" and reading.module_on == "all"
        for snapshot in (*first.config.budget.snapshots, None) if plain else (None,):
            for retrieval in retrievals_of(study, reading.reading):
                tasks = []
                for module in modules:
                    identity = module.id if snapshot is None else f"{module.id}@{snapshot}"
                    if stem.which == "random":
                        control = _control(module)
                        identity = controls.setdefault(control.id, control).id
                    task = task_of(
                        study, reading, module.source, source, first.learnt.partition, module=identity, retrieval=retrieval,
                    )  # fmt: skip
                    if task.probes:
                        tasks.append(task)
                if not tasks:  # a reading that asks nothing of this kind of source
                    continue
                title = slug(
                    naming, key, source, reading, config=first.config, choice=first.learnt.choice, how=first.learnt.partition,
                    snapshot=snapshot, retrieval=retrieval,
                )  # fmt: skip
                cells.append(
                    Cell(
                        title,
                        first.seed,
                        reading.reading,
                        key,
                        source,
                        tuple(tasks),
                        modules,
                        snapshot,
                        first.learnt.partition,
                    )
                )
    return cells


def retrievals_of(study: Study, reading: str) -> Sequence[Retrieval | None]:
    if STEMS.get(reading).context != "passages":
        return (None,)
    if context_name(reading) == "gold-passage":  # one passage, however the others are found
        return tuple(
            dict.fromkeys(r.model_copy(update={"method": "gold", "passages_k": 1}) for r in study.retrievals)
        )
    return tuple(r for r in study.retrievals if r.method != "gold")


def _control(module: ModulePlan) -> ControlPlan:
    recipe = random_recipe(
        module.id, module.config.spec.identity(), base=module.recipe["base"], seed=module.seed
    )
    return ControlPlan(module_hash(recipe), recipe, module)


def with_partners(cells: Sequence[Cell]) -> list[Cell]:
    """Give each task of a `wrong-module` cell its partner: same spec, other knowledge, next by hash.

    Of a source cut into parts, another part's module made the same way comes first. Of a source that is one part, another
    source's: slices of one source are nested, and a larger slice's module would know the answers. Where neither is
    found, a module of the same source whose records are disjoint; where there is none either, the cell fails visibly.
    Of several, those made the same way come first.
    """
    # the same module may stand in cells of two choices or partitions
    modules = {(m.id, *made_by(m)): m for cell in cells for m in cell.modules}.values()
    return [
        replace(
            cell, tasks=tuple(_with_partner(cell, module, task, modules) for module, task in _asked(cell))
        )
        if STEMS.get(cell.stem).which == "wrong"
        else cell
        for cell in cells
    ]


def _asked(cell: Cell) -> list[tuple[ModulePlan, ReadingTask]]:
    """The modules of a cell whose parts are asked anything, with their tasks."""
    asked = {task.source.hash: task for task in cell.tasks}
    return [(module, asked[module.source.hash]) for module in cell.modules if module.source.hash in asked]


def made_by(module: ModulePlan) -> tuple[str, str, str]:
    """How what a module learns came to be: the recipe, who wrote it, and how its source was cut."""
    return module.learnt.choice.recipe, module.learnt.choice.who, module.learnt.partition


def _with_partner(
    cell: Cell, module: ModulePlan, task: ReadingTask, modules: Collection[ModulePlan]
) -> ReadingTask:
    mine = {record.id for record in module.source.records}

    def apart(other: ModulePlan) -> bool:
        return mine.isdisjoint(record.id for record in other.source.records)

    siblings = [m for m in cell.modules if m.id != module.id and apart(m)]
    others = siblings or [
        other
        for other in modules
        if other.config.spec == module.config.spec
        and other.seed == cell.seed
        and (other.source_key != cell.source_key or apart(other))
    ]
    alike = [other for other in others if made_by(other) == made_by(module)]
    candidates = sorted({other.id for other in alike or others})
    partner = next(
        (identity for identity in candidates if identity > module.id), candidates[0] if candidates else None
    )
    return replace(task, module=partner)


def without_doubles(cells: Sequence[Cell]) -> list[Cell]:
    """Each cell once: two choices of supervision may come to one. Two modules under one name would be averaged.

    Raises:
        InputError: settings differ that no name shows.
    """
    seen: dict[tuple, Cell] = {}
    for cell in cells:
        other = seen.setdefault((cell.slug, cell.seed), cell)
        if _asked_with(other) != _asked_with(cell):
            raise InputError(
                f"two different modules or readings would both be called {cell.slug} (seed {cell.seed}); they differ in something that no "
                "name shows, so run them as two studies"
            )
    return list(seen.values())


def _asked_with(cell: Cell) -> list[tuple]:
    """Everything by which two cells of one name may differ."""
    return [
        (
            task.module,
            task.pool and task.pool.candidates,
            task.routing,
            task.merging,
            task.module_on,
            task.abstain,
        )
        for task in cell.tasks
    ]
