"""The points of a study's module grid: every combination of its lists, its contrasts, and settings that are still to be chosen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from loramem.core.config import Config, faults_of
from loramem.core.errors import Faults, InputError
from loramem.modules.recipe import ModuleConfig
from loramem.sources.slicing import Size
from loramem.studies import grid
from loramem.synthesis.recipes import canonical

if TYPE_CHECKING:
    from loramem.studies.study_file import StudyFile

CONFINES = ("sources", "sizes", "partitions", "supervisions")
"""Keys of a contrast that say where it applies; the others are paths of `modules`."""


class Sweep(Config):
    """Learning rates tried on the source's dev split; the one with the lowest loss on the answers is taken."""

    sweep: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Rates to try, each with training seed 0 and everything else as in the grid."""
    dev_tokens: Size
    """Tokens of the dev split: knowledge that no slice of the study holds (PITFALLS 44)."""
    by: Literal["loss", "exact_match"] = "loss"
    """What decides: the loss on the answers, or how many are given back exactly (the loss breaks ties). Where questions are asked
    in other words than were learnt, the loss of a sure but wrong answer grows while more answers become right."""


class LengthSweep(Config):
    """Values of `budget.steps` or `budget.exposures` tried together with the rates (question 6 searches both)."""

    sweep: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Point:
    """One point of the grid of modules.

    Attributes:
        config: Its settings; while some are still to be chosen, the first ones tried.
        tried: All settings to choose from; empty where there is nothing to choose.
        dev_tokens: Size of the dev split on which they are tried.
        by: What decides among them (`Sweep.by`).
        sizes: The source sizes it is confined to, or None.
        partitions: The partitions it is confined to, or None.
        supervisions: The recipes it is confined to, or None.
    """

    config: ModuleConfig
    tried: tuple[ModuleConfig, ...] = ()
    dev_tokens: int = 0
    by: str = "loss"
    sizes: tuple[int, ...] | None = None
    partitions: tuple[str, ...] | None = None
    supervisions: tuple[str, ...] | None = None

    def fits(self, size: int | None, partition: str, recipe: str) -> bool:
        """Whether it stands in the grid of a source of this size, cut in this way, on supervision of this recipe."""
        return (
            (self.sizes is None or size in self.sizes)
            and (self.partitions is None or partition in self.partitions)
            and (self.supervisions is None or recipe in self.supervisions)
        )


def points_of(file: StudyFile, source: str) -> list[Point]:
    """The points of the grid and of its contrasts, each once, in order."""
    found: dict[tuple, Point] = {}
    faults: list[str] = []
    for number, changes in enumerate([{}, *file.contrasts]):
        where = "modules" if number == 0 else f"contrasts[{number - 1}]"
        if source not in changes.get("sources", [source]):
            continue
        body = {"modules": copy.deepcopy(file.modules)}
        for path, value in changes.items():
            if path not in CONFINES:
                grid.set_path(body, path, copy.deepcopy(value), where=where)
        sizes = tuple(changes["sizes"]) if "sizes" in changes else None
        partitions = tuple(changes["partitions"]) if "partitions" in changes else None
        recipes = tuple(map(canonical, changes["supervisions"])) if "supervisions" in changes else None
        for settings in grid.expand(body["modules"], source=source):
            try:
                tried, sweep = _choices(settings)
                configs = [ModuleConfig.model_validate(one) for one in tried]
                swept = tuple(configs) if sweep else ()
                dev_tokens, by = (sweep.dev_tokens, sweep.by) if sweep else (0, "loss")
                point = Point(configs[0], swept, dev_tokens, by, sizes, partitions, recipes)
                known = found.setdefault((point.config, point.tried, partitions, recipes), point)
                if known.sizes is not None:  # named by several contrasts: at the sizes of each
                    wider = None if sizes is None else tuple(sorted({*known.sizes, *sizes}))
                    found[point.config, point.tried, partitions, recipes] = replace(known, sizes=wider)
            except InputError as error:
                faults.append(f"{where}: {error}")
            except ValidationError as error:
                kinds: dict[str, tuple[type[Config], str]] = {
                    "Sweep": (Sweep, ".optimizer.lr"),
                    "LengthSweep": (LengthSweep, ".budget"),
                }
                kind, place = kinds.get(error.title, (ModuleConfig, ""))
                faults += faults_of(kind, error, where + place)
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    return list(found.values())


def _choices(settings: dict[str, Any]) -> tuple[list[dict[str, Any]], Sweep | None]:
    """Every combination of swept settings of one point, and the sweep (None: nothing is swept).

    Raises:
        ValidationError: a malformed sweep.
        InputError: a budget is swept without a rate, which says how large the dev split is.
    """
    rate = settings.get("optimizer", {}).get("lr")
    axes: list[list[tuple[str, str, Any]]] = []
    sweep = Sweep.model_validate(rate) if isinstance(rate, Mapping) else None
    if sweep is not None:
        axes.append([("optimizer", "lr", value) for value in sweep.sweep])
    for name in ("steps", "exposures"):
        value = settings.get("budget", {}).get(name)
        if isinstance(value, Mapping):
            if sweep is None:
                raise InputError(
                    f"budget.{name} is swept, so optimizer.lr must be: {{sweep: [...], dev_tokens: N}}"
                )
            lengths = LengthSweep.model_validate(value).sweep
            axes.append(
                [
                    ("budget", name, int(one) if name == "steps" and one == int(one) else one)
                    for one in lengths
                ]
            )
    found = []
    for chosen in grid.combinations(axes, "modules"):
        point = copy.deepcopy(settings)
        for part, name, value in chosen:
            point[part][name] = value
        found.append(point)
    return found, sweep
