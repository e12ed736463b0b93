"""The study file: what is asked, of which sources, with which modules and readings, and what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from loramem.answering.readings import STEMS
from loramem.core.config import Config, faults_of
from loramem.core.errors import Faults, InputError, LoramemError, UnknownName, nearest
from loramem.core.files import read_text
from loramem.metrics.scorers import METRICS
from loramem.modules.recipe import ModuleConfig
from loramem.sources.catalogue import source_config
from loramem.studies import grid
from loramem.studies.expectations import Expectation
from loramem.synthesis import RECIPES

SCALES = ("quick", "laptop", "paper")


class SupervisionChoice(Config):
    """Which recipe turns documents into training examples."""

    recipe: str = "raw"


class StudyFile(Config):
    """The resolved body of a study file, lists still lists."""

    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Short name; names the run folder."""
    question: str
    version: Annotated[int, Field(ge=1)] = 1
    """Raised when the study changes meaning."""
    base: str = "embedded"
    sources: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    supervision: SupervisionChoice = SupervisionChoice()
    modules: dict[str, Any]
    partition: Literal["corpus"] = "corpus"
    """How a source is cut into modules; `corpus`: one module for all."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Training seeds 0..n-1."""
    readings: Annotated[tuple[str, ...], Field(min_length=1)]
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    expect: tuple[Expectation, ...] = ()


class Study:
    """A validated study: the file, its source configs, and the module grid of each source."""

    def __init__(self, file: StudyFile, body: dict, scale: str):
        self.file, self.body, self.scale = file, body, scale
        self.sources = {key: source_config(value, f"sources.{key}") for key, value in file.sources.items()}
        self.grid = {key: _points(file, key) for key in file.sources}

    @property
    def name(self) -> str:
        return self.file.study


def _points(file: StudyFile, source: str) -> list[ModuleConfig]:
    points, faults = [], []
    for point in grid.expand(file.modules, source=source):
        try:
            points.append(ModuleConfig.model_validate(point))
        except ValidationError as error:
            faults += faults_of(ModuleConfig, error, "modules")
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    return points


def validate(body: Mapping[str, Any], scale: str) -> Study:
    """Check a resolved body. Raises `Faults` with every fault of the file at once."""
    faults: list[str] = []
    file = None
    try:
        file = StudyFile.model_validate(dict(body))
    except ValidationError as error:
        faults += faults_of(StudyFile, error)
    sources = body.get("sources") if isinstance(body.get("sources"), dict) else {}
    for key, value in (sources or {}).items():
        try:
            source_config(value if isinstance(value, dict) else {}, f"sources.{key}")
        except LoramemError as error:
            faults += error.faults if isinstance(error, Faults) else [f"sources.{key}: {error}"]
    for field, registry in (("readings", STEMS), ("metrics", METRICS)):
        for name in body.get(field) or () if isinstance(body.get(field), list) else ():
            if name not in registry:
                faults.append(
                    f"{field}: unknown {registry.kind} {name!r}; {nearest(str(name), registry.names())}"
                )
    recipe = (
        (body.get("supervision") or {}).get("recipe", "raw")
        if isinstance(body.get("supervision"), dict)
        else "raw"
    )
    if recipe not in RECIPES:
        faults.append(
            f"supervision.recipe: unknown recipe {recipe!r}; {nearest(str(recipe), RECIPES.names())}"
        )
    if isinstance(body.get("modules"), dict):
        unknown = set(body["modules"]) - set(ModuleConfig.model_fields)
        faults += [
            f"modules.{key}: unknown key; {nearest(key, ModuleConfig.model_fields)}"
            for key in sorted(unknown)
        ]
        if file is not None and not unknown:
            for key in file.sources:
                try:
                    _points(file, key)
                except LoramemError as error:
                    faults += error.faults if isinstance(error, Faults) else [str(error)]
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    assert file is not None
    return Study(file, dict(body), scale)


def shipped() -> list[str]:
    """Names of the studies that come with the package."""
    root = resources.files("loramem.studies")
    return sorted(
        folder.name for folder in root.iterdir() if folder.is_dir() and (folder / "study.yaml").is_file()
    )


def find(name: str) -> str:
    """The text of a study: a shipped one by name, or a file by path."""
    if name in shipped():
        return (resources.files("loramem.studies") / name / "study.yaml").read_text(encoding="utf-8")
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.exists():
        return read_text(path)
    raise UnknownName(f"unknown study {name!r} (and no such file); {nearest(name, shipped())}")


def load(
    name: str,
    *,
    scale: str = "quick",
    assignments: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Study:
    """Read, resolve and check a study.

    Args:
        name: A shipped study or the path of a study file.
        scale: `quick` is the body of the file; others are in its `scales`.
        assignments: `PATH=VALUE` strings of --set.
        overrides: Body keys that command-line flags set (base, seeds).
    """
    try:
        document = yaml.safe_load(find(name))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"{name}{where}: not YAML ({getattr(error, 'problem', None) or str(error).splitlines()[0]})"
        ) from None
    except RecursionError:
        raise InputError(f"{name}: YAML nested too deeply") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{name}: a study file holds key: value settings, this one holds {type(document).__name__}"
        )
    body = grid.resolve(document, scale, assignments)
    body.update({key: value for key, value in (overrides or {}).items() if value is not None})
    return validate(body, scale)
