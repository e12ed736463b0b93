"""Readable names of cells: what varies over a study stands in them, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from loramem.answering.readings import context_name
from loramem.base.model import Base
from loramem.modules.recipe import ModuleConfig
from loramem.modules.spec import LoraSpec, Optimizer
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import Source
from loramem.studies.reading_choice import ReadingChoice
from loramem.studies.spec import Study
from loramem.synthesis.generators import SupervisionChoice


@dataclass(frozen=True)
class Naming:
    """What tells cells apart and so stands in their names."""

    varied: Sequence[tuple[str, str]]
    supervisions: bool
    generators: bool
    partitions: bool
    prefix: str = ""


def naming_of(study: Study, key: str, base: Base) -> Naming:
    choices = study.supervisions
    return Naming(
        _varied(study.grid[key], swept={name for row in study.chosen for name in row["swept"]}),
        len({choice.recipe for choice in choices}) > 1,
        len({choice.who for choice in choices} - {"source"}) > 1,
        len(study.partitions) > 1,
        f"{Path(base.name).name}-" if len(study.bases) > 1 else "",
    )


def _varied(configs: Sequence[ModuleConfig], *, swept: Collection[str] = ()) -> list[tuple[str, str]]:
    """Fields that take several values over the grid; rank is always named. What follows rank alone (lr) is not, nor is
    a swept rate or budget, so that a cell keeps its name whatever the sweep found."""
    found = [("spec", "rank")]
    fields = [
        (part, name)
        for part, kind in (
            ("spec", LoraSpec),
            ("optimizer", Optimizer),
        )
        for name in kind.model_fields
    ]
    for section, name in [*fields, ("distractors", "label"), ("objective", "label"), ("budget", "label")]:
        by_rank = {(config.spec.rank, str(_setting(config, section, name))) for config in configs}
        ranks = {config.spec.rank for config in configs}
        if name != "rank" and len(by_rank) > len(ranks) and (name if name == "lr" else section) not in swept:
            found.append((section, name))
    return found


def _setting(config: ModuleConfig, section: str, name: str) -> object:
    """A setting of a module; None where it has no such section."""
    return getattr(getattr(config, section), name, None)


def slug(
    naming: Naming,
    key: str,
    source: Source,
    reading: ReadingChoice | str,
    *,
    config: ModuleConfig | None = None,
    choice: SupervisionChoice | None = None,
    how: str | None = None,
    snapshot: int | None = None,
    retrieval: Retrieval | None = None,
) -> str:
    """A readable name: base, source, size, what varies of supervision and module, snapshot, reading."""
    parts = [naming.prefix + key] + ([str(source.size_tokens)] if source.size_tokens else [])
    if how is not None and naming.partitions:
        parts.append(how)
    if choice is not None:
        parts += [choice.recipe] if naming.supervisions else []
        parts += [choice.who] if naming.generators else []
    if config is not None:
        for section, name in naming.varied:
            value = _setting(config, section, name)
            if value is None:  # a section that this module does not have
                continue
            shown = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
            parts.append(shown if name == "label" else f"{'r' if name == 'rank' else name + '='}{shown}")
    if snapshot is not None:
        parts.append(f"at-step-{snapshot}")
    name = reading if isinstance(reading, str) else reading.reading
    parts.append(reading if isinstance(reading, str) else reading.label)
    if retrieval is not None and context_name(name) == "rag":
        parts.append(retrieval.label)
    return "-".join(parts)
