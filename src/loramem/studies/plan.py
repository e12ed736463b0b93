"""The plan of a study: which modules and readings it needs, each once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from loramem.answering.readings import STEMS, ReadingTask
from loramem.base.model import Base
from loramem.core.errors import Faults, LoramemError
from loramem.modules.recipe import ModuleConfig, module_hash, trained_recipe
from loramem.modules.targets import parameter_count
from loramem.sources.catalogue import Source, load_source
from loramem.studies.spec import Study
from loramem.synthesis import Supervision, synthesize
from loramem.training.loop import TrainJob, bucket_length


@dataclass(frozen=True)
class ModulePlan:
    """One module to be trained, and where in the grid it stands."""

    id: str
    recipe: dict
    config: ModuleConfig
    source_key: str
    source: Source
    supervision: Supervision
    seed: int
    job: TrainJob
    parameters: int

    @property
    def exposures(self) -> float:
        """How often each example is seen."""
        return self.job.steps * self.config.optimizer.batch / len(self.supervision.examples)


@dataclass(frozen=True)
class Cell:
    """One reading of one point of the grid for one training seed; its results become rows."""

    slug: str
    seed: int | None
    stem: str
    source_key: str
    source: Source
    task: ReadingTask
    module: ModulePlan | None
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything a study needs, nothing of it done yet."""

    sources: dict[str, list[Source]]
    modules: dict[str, ModulePlan]
    cells: list[Cell]

    def counts(self) -> dict:
        """What --dry-run prints and plan.json keeps."""
        jobs = [module.job for module in self.modules.values()]
        return {
            "modules": len(self.modules),
            "readings": len({id_of(cell) for cell in self.cells}),
            "cells": len({cell.slug for cell in self.cells}),
            "train_steps": sum(job.steps for job in jobs),
            "train_rows": sum(job.steps * job.optimizer.batch for job in jobs),
            "train_tokens_padded": sum(job.steps * job.optimizer.batch * job.length for job in jobs),
            "lora_parameters": sum(module.parameters for module in self.modules.values()),
            "lora_bytes": 4 * sum(module.parameters for module in self.modules.values()),
            "questions": sum(
                len(task.probes) for task in {id_of(cell): cell.task for cell in self.cells}.values()
            ),
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
    return (cell.task.stem, cell.task.module, cell.source.hash)


def slug(
    config: ModuleConfig | None, stem: str, key: str, source: Source, varied: Sequence[tuple[str, str]]
) -> str:
    """A readable name: source, size, the settings that vary, reading."""
    parts = [key] + ([str(source.size_tokens)] if source.size_tokens else [])
    if config is not None:
        for section, name in varied:
            value = getattr(getattr(config, section), name)
            shown = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
            parts.append(f"{'r' if name == 'rank' else name + '='}{shown}")
    return "-".join([*parts, stem])


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
    cells: list[Cell] = []
    for key, built in sources.items():
        varied = _varied(study.grid[key])
        for source in built:
            supervision = synthesize(source.documents, study.file.supervision.recipe)
            grid = [
                [
                    _module(study, base, config, key, source, supervision, seed)
                    for seed in range(study.file.seeds)
                ]
                for config in study.grid[key]
            ]
            for seeds in grid:
                for module in seeds:
                    modules.setdefault(module.id, module)
            cells += _cells(study, key, source, grid, varied)
    return Plan(sources, modules, _with_partners(cells, modules))


def _varied(configs: Sequence[ModuleConfig]) -> list[tuple[str, str]]:
    """Fields that take several values over the grid; rank is always named. lr follows rank, so it is not."""
    found = [("spec", "rank")]
    for section in ("spec", "objective", "budget", "optimizer"):
        for name in type(getattr(configs[0], section)).model_fields:
            values = {str(getattr(getattr(config, section), name)) for config in configs}
            by_rank = {(config.spec.rank, str(getattr(getattr(config, section), name))) for config in configs}
            ranks = {config.spec.rank for config in configs}
            if len(values) > 1 and name != "rank" and len(by_rank) > len(ranks):
                found.append((section, name))
    return found


def _module(
    study: Study,
    base: Base,
    config: ModuleConfig,
    key: str,
    source: Source,
    supervision: Supervision,
    seed: int,
) -> ModulePlan:
    examples = supervision.encode(base.prompts)
    length = bucket_length(examples, base.context_length)
    steps = config.budget.steps_for(len(examples), config.optimizer.batch)
    recipe = trained_recipe(base, supervision.hash, config, steps=steps, length=length, seed=seed)
    identity = module_hash(recipe)
    job = TrainJob(identity, config.spec, config.objective, config.optimizer, steps, seed, examples, length)
    return ModulePlan(
        identity,
        recipe,
        config,
        key,
        source,
        supervision,
        seed,
        job,
        parameter_count(base.model, config.spec),
    )


def _cells(
    study: Study, key: str, source: Source, grid: list[list[ModulePlan]], varied: list[tuple[str, str]]
) -> list[Cell]:
    cells = []
    for name in study.file.readings:
        stem = STEMS.get(name)
        if not stem.uses_module:
            documents = source.documents if stem.in_context else ()
            task = ReadingTask(name, source.probes, None, documents)
            cells.append(Cell(slug(None, name, key, source, varied), None, name, key, source, task, None))
            continue
        for seeds in grid:
            for module in seeds:
                task = ReadingTask(name, source.probes, module.id)
                cells.append(
                    Cell(
                        slug(module.config, name, key, source, varied),
                        module.seed,
                        name,
                        key,
                        source,
                        task,
                        module,
                    )
                )
    return cells


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
