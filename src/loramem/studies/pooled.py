"""The cells that choose among modules: which modules stand in a pool, and which of them are right for a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loramem.answering.pools import Pool
from loramem.answering.readings import STEMS
from loramem.answering.routers import Candidate
from loramem.sources.catalogue import Source
from loramem.studies.cells import Cell, ModulePlan, made_by, retrievals_of, task_of
from loramem.studies.learning import gold_of
from loramem.studies.naming import Naming, slug
from loramem.studies.spec import Study


@dataclass(frozen=True)
class Group:
    """Modules made alike, one per part of a source."""

    key: str
    source: Source
    modules: tuple[ModulePlan, ...]
    naming: Naming

    @property
    def alike(self) -> tuple:
        """What modules of other sources must share to stand in the same pool."""
        first = self.modules[0]
        return (first.config, first.seed, *made_by(first))


def pool_cells(study: Study, groups: Sequence[Group]) -> list[Cell]:
    """The cells that choose among the modules of a group (`pool: study`: among those of all sources that were made alike)."""
    cells = []
    pooled = [reading for reading in study.readings if STEMS.get(reading.reading).which == "pool"]
    for group in groups if pooled else ():
        if study.file.pool == "study":
            others = [one for one in groups if one.key != group.key and one.alike == group.alike]
        else:
            others = []
        if len(group.modules) == 1 and not others:
            continue  # nothing to choose from: the group's one module is read by `module`
        first = group.modules[0]
        pool = pool_of([group, *others])
        how = first.learnt.partition
        for reading in (one for one in pooled if one.partition in (None, how)):
            for retrieval in retrievals_of(study, reading.reading):
                task = task_of(
                    study, reading, group.source, group.source, how, retrieval=retrieval, pool=pool
                )
                title = slug(
                    group.naming, group.key, group.source, reading, config=first.config, choice=first.learnt.choice, how=how,
                    retrieval=retrieval,
                )  # fmt: skip
                cells.append(
                    Cell(title, first.seed, reading.reading, group.key, group.source, (task,), group.modules, partition=how)
                )  # fmt: skip
    return cells


def pool_of(groups: Sequence[Group]) -> Pool:
    """The modules of groups as one pool; what is right is known for the questions of the first."""
    candidates = tuple(
        Candidate(
            module.id, _part_name(module, many=len(groups) > 1), module.source.text, _summary_of(module)
        )
        for group in groups
        for module in group.modules
    )
    first = groups[0]
    gold = gold_of(first.source, [module.source for module in first.modules])
    how = first.modules[0].learnt.partition
    whose = first.key if len(groups) == 1 else f"{', '.join(group.key for group in groups)}"
    return Pool(f"{whose} by {how}: {len(candidates)} modules", candidates, gold)


def _part_name(module: ModulePlan, *, many: bool) -> str:
    return f"{module.source_key}/{module.learnt.part}" if many else module.learnt.part


def _summary_of(module: ModulePlan) -> str:
    """The first summary that the module learnt, else the gold summaries of its documents (of a piece there is none)."""
    learnt = [example.answer for example in module.learnt.supervision.examples if example.recipe == "summary"]
    if learnt:
        return learnt[0]
    if module.learnt.partition in ("corpus", "document"):
        return "\n".join(document.summary for document in module.source.documents if document.summary)
    return ""
