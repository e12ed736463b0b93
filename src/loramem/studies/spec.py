"""A study: its file found, resolved to a scale, checked, and expanded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loramem.core.config import faults_of
from loramem.core.errors import Faults, InputError, LoramemError, UnknownName, nearest
from loramem.core.files import read_text
from loramem.core.parsing import yaml_value
from loramem.core.paths import user_path
from loramem.core.secrets import ADVICE, masked, named
from loramem.core.shown import quoted
from loramem.metrics.scorers import METRICS
from loramem.modules.recipe import ModuleConfig
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import source_config
from loramem.studies import grid
from loramem.studies.faults import faults_of_parts
from loramem.studies.points import Point, points_of
from loramem.studies.reading_choice import readings_of
from loramem.studies.study_file import StudyFile, listed, product, supervisions_of

MOST_ABOVE = 20
"""Studies above one that extends another."""


class Study:
    """A validated study: the file, its source configs, and the module grid of each source.

    Attributes:
        body: The resolved file as it is kept and shown: without what gives access (a signed URL of published data).
        points: Per source the points of its grid and contrasts.
        readings: The ways of answering.
        retrievals: The ways passages are found.
        supervisions: The ways supervision is made, in the order of the file.
        partitions: The ways sources are cut into modules.
        bases: Names of the bases.
        chosen: What the sweeps found, one row per point (`studies.tuning`); empty before and without them.
    """

    def __init__(self, file: StudyFile, body: dict, scale: str):
        self.file, self.body, self.scale = file, masked(body), scale
        self.sources = {key: source_config(value, f"sources.{key}") for key, value in file.sources.items()}
        self.points = {key: points_of(file, key) for key in file.sources}
        self.readings = readings_of(file.readings)
        self.retrievals = tuple(product(Retrieval, file.retrieval, "retrieval"))
        self.supervisions = supervisions_of(file)
        self.partitions, self.bases = listed(file.partition), listed(file.base)
        self.chosen: list[dict] = []

    @property
    def name(self) -> str:
        return self.file.study

    @property
    def grid(self) -> dict[str, list[ModuleConfig]]:
        """Per source the settings of its points."""
        return {key: [point.config for point in points] for key, points in self.points.items()}

    def with_rates(self, points: dict[str, list[Point]], chosen: list[dict]) -> Study:
        """A copy whose rates are chosen."""
        found = copy.copy(self)
        found.points, found.chosen = points, chosen
        return found


def validate(body: Mapping[str, Any], scale: str) -> Study:
    """Check a resolved body. Raises `Faults` with every fault of the file at once."""
    # also where they would not be used: the file is kept with the run
    faults: list[str] = [f"{path} is not to be given: {ADVICE}" for path in named(body)]
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
    if isinstance(body.get("readings"), list):
        try:
            readings_of([one for one in body["readings"] if isinstance(one, str | dict)])
        except Faults as error:
            faults += error.faults
    for name in body.get("metrics") or () if isinstance(body.get("metrics"), list) else ():
        if name not in METRICS:
            faults.append(f"metrics: unknown metric {quoted(name)}; {nearest(str(name), METRICS.names())}")
    if isinstance(body.get("modules"), dict):
        unknown = set(body["modules"]) - set(ModuleConfig.model_fields)
        faults += [
            f"modules.{key}: unknown key; {nearest(str(key), ModuleConfig.model_fields)}"
            for key in sorted(unknown, key=str)
        ]
        if file is not None and not unknown:
            faults += faults_of_parts(file)
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
    path = user_path(name, "study")
    if path.suffix in (".yaml", ".yml") or (name and path.exists()):
        return read_text(path)
    raise UnknownName(f"unknown study {quoted(name)} (and no such file); {nearest(name, shipped())}")


def read_document(name: str, *, seen: tuple[str, ...] = ()) -> dict:
    """The mapping of a study file. `extends: NAME` takes another study's file and changes the keys it gives itself.

    Raises:
        InputError: not YAML, not a mapping, or studies that extend each other in a circle.
    """
    if name in seen:
        raise InputError(f"extends: {' -> '.join((*seen, name))} is a circle")
    document = yaml_value(find(name), lambda line: f"{name}:{line}" if line else name)
    if document is None:
        raise InputError(f"{name}: empty; a study file holds key: value settings")
    if not isinstance(document, dict):
        raise InputError(
            f"{name}: a study file holds key: value settings, this one holds {type(document).__name__}"
        )
    parent = document.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise InputError(f"{name}: extends: give the name of a study or of a file, not {quoted(parent)}")
    if len(seen) >= MOST_ABOVE:
        raise InputError(f"{name}: extends: more than {MOST_ABOVE} studies that extend each other")
    if Path(parent).suffix in (".yaml", ".yml"):  # a path is meant from the file that names it
        parent = str(user_path(name).parent / parent)
    inherited = read_document(parent, seen=(*seen, name))
    merged = {**inherited, **document}
    if "scales" in document:
        scales, own = grid.scales_of(inherited), grid.scales_of(document)
        merged["scales"] = {key: {**scales.get(key, {}), **own.get(key, {})} for key in (*scales, *own)}
    return merged


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
    document = read_document(name)
    body = grid.resolve(document, scale, assignments)
    body.update({key: value for key, value in (overrides or {}).items() if value is not None})
    return validate(body, scale)
