"""The study file: what is asked, of which sources, with which modules and readings, and what is expected."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from loramem.core.config import Config, faults_of, parse
from loramem.core.errors import Faults, InputError, LoramemError, UnknownName, nearest
from loramem.core.files import read_text
from loramem.metrics.scorers import METRICS
from loramem.modules.recipe import ModuleConfig
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import source_config
from loramem.sources.chunking import Chunking, check_partition
from loramem.sources.unrelated import HarmChoice
from loramem.studies import grid
from loramem.studies.expectations import Expectation
from loramem.studies.latency import LatencyChoice
from loramem.studies.points import Point, points_of
from loramem.studies.reading_choice import readings_of
from loramem.synthesis.completing import Sampling
from loramem.synthesis.generators import SupervisionChoice

if TYPE_CHECKING:
    from loramem.synthesis.endpoint import EndpointConfig

SCALES = ("quick", "laptop", "paper")


class Skip(Config):
    """Modules of the grid that are not trained: whatever matches every given key. They are shown as not run."""

    source: str | None = None
    rank: tuple[int, ...] | None = None
    size_tokens: tuple[int, ...] | None = None
    partition: str | None = None

    def matches(self, source: str, size: int | None, partition: str, config: ModuleConfig) -> bool:
        return (
            self.source in (None, source)
            and (self.rank is None or config.spec.rank in self.rank)
            and (self.size_tokens is None or size in self.size_tokens)
            and self.partition in (None, partition)
        )


class CapacityChoice(Config):
    """When a module counts as holding what it learnt: the score, and the shares of facts that are thresholds."""

    metric: str
    thresholds: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]


class JudgeChoice(Config):
    """The model that gives the metric `judge`: at an endpoint where there is a `url`, else a base that is loaded here."""

    model: Annotated[str, Field(min_length=1)]
    """Its name at the endpoint, or a base: `embedded`, a checkpoint folder, a hub id."""
    url: str | None = None
    """An endpoint that speaks the OpenAI protocol."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    endpoint: dict[str, Any] = {}
    """Further settings of the endpoint: concurrency, timeout, retries, key_env, cost_limit, ..."""

    @model_validator(mode="after")
    def _whole(self) -> JudgeChoice:
        if self.url is not None:
            self.endpoint_config()  # refused before anything is spent
        elif self.endpoint:
            raise ValueError("endpoint settings without a url")
        return self

    def endpoint_config(self) -> EndpointConfig:
        """The endpoint at `url`. Raises `InputError` for settings it does not have."""
        from loramem.synthesis.endpoint import EndpointConfig

        own = {"url": self.url, "model": self.model, "sampling": Sampling(temperature=self.temperature)}
        if twice := sorted(own.keys() & self.endpoint.keys()):
            raise InputError(
                f"endpoint: {', '.join(twice)}: give url, model and temperature beside it, not in it"
            )
        return parse(EndpointConfig, {**self.endpoint, **own}, "endpoint")


class StrangerChoice(Config):
    """Questions of the source's dev split, which shares no fact with it."""

    questions: Annotated[int, Field(ge=2)] = 64
    """At most so many, spread over the split; one half sets a threshold, the other is judged by it."""
    dev_tokens: Annotated[int, Field(ge=1)] = 1000
    """Tokens of the split."""


class StudyFile(Config):
    """The resolved body of a study file, lists still lists."""

    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Short name; names the run folder."""
    question: str
    version: Annotated[int, Field(ge=1)] = 1
    """Raised when the study changes meaning."""
    base: str | tuple[str, ...] = "embedded"
    """A base, or a list of bases that are compared."""
    sources: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    supervision: dict[str, Any] | tuple[dict[str, Any], ...] = {}
    """How documents become examples (`SupervisionChoice`); lists are the grid. A list of such mappings is all their grids."""
    modules: dict[str, Any]
    contrasts: tuple[dict[str, Any], ...] = ()
    """Further grids: paths of `modules` set to other values (`{modules.budget: {steps: 400}}`), optionally confined
    to some `sources: [NAME]`, `sizes: [TOKENS]`, `partitions: [WAY]` and `supervisions: [RECIPE]`."""
    skip: tuple[Skip, ...] = ()
    partition: str | tuple[str, ...] = "corpus"
    """How a source is cut into modules, or a list of ways: `corpus` (one for all), `document`, `chunk`, `tokens:N`."""
    chunking: str = "512"
    """What a chunk is for partition `chunk`: TOKENS, TOKENS/OVERLAP or structure:TOKENS."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Training seeds 0..n-1."""
    readings: Annotated[tuple[str | dict[str, Any], ...], Field(min_length=1)]
    """Names, or mappings with a router and a merge rule whose lists are the grid (`reading_choice.readings_of`)."""
    pool: Literal["source", "study"] = "source"
    """Among which modules a router chooses: those of the question's source, or those of all sources of the study that were
    made the same way."""
    harm: HarmChoice | None = None
    """Unrelated passages and common facts that every module is asked besides: what it does to other things."""
    strangers: StrangerChoice | None = None
    """Questions about documents that no module learnt: does a router see that nothing fits?"""
    latency: LatencyChoice | None = None
    """Time every reading and say when modules have paid for their training; None: nothing is timed."""
    retrieval: dict[str, Any] = {}
    """How readings with passages find them (`Retrieval`); lists are the grid."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    judge: JudgeChoice | None = None
    """Who gives the metric `judge`; without it that metric is shown as missing."""
    capacity: dict[str, CapacityChoice] = {}
    """Per source: from which score T_max is read, at which thresholds."""
    expect: tuple[Expectation, ...] = ()

    @field_validator("chunking", mode="before")
    @classmethod
    def _tokens(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value


class Study:
    """A validated study: the file, its source configs, and the module grid of each source.

    Attributes:
        points: Per source the points of its grid and contrasts.
        readings: The ways of answering.
        retrievals: The ways passages are found.
        supervisions: The ways supervision is made, in the order of the file.
        partitions: The ways sources are cut into modules.
        bases: Names of the bases.
        chosen: What the sweeps found, one row per point (`studies.tuning`); empty before and without them.
    """

    def __init__(self, file: StudyFile, body: dict, scale: str):
        self.file, self.body, self.scale = file, body, scale
        self.sources = {key: source_config(value, f"sources.{key}") for key, value in file.sources.items()}
        self.points = {key: points_of(file, key) for key in file.sources}
        self.readings = readings_of(file.readings)
        self.retrievals = tuple(_product(Retrieval, file.retrieval, "retrieval"))
        self.supervisions = _supervisions(file)
        self.partitions, self.bases = _listed(file.partition), _listed(file.base)
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


C = TypeVar("C", bound=Config)


def _product(kind: type[C], section: Mapping[str, Any], where: str) -> list[C]:
    """Every combination of the listed values of a section, each once. Raises `Faults` with what is wrong with any."""
    axes = [value if isinstance(value, list) else [value] for value in section.values()]
    found, faults = [], []
    for chosen in itertools.product(*axes):
        try:
            found.append(kind.model_validate(dict(zip(section, chosen, strict=True))))
        except InputError as error:
            faults += error.faults if isinstance(error, Faults) else [f"{where}: {error}"]
        except ValidationError as error:
            faults += faults_of(kind, error, where)
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    unique: dict[str, C] = {one.model_dump_json(): one for one in found}
    return list(unique.values())


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _sections(file: StudyFile) -> list[tuple[str, dict[str, Any]]]:
    """The grids of `supervision`, each with its place in the file."""
    if isinstance(file.supervision, dict):
        return [("supervision", file.supervision)]
    return [(f"supervision[{number}]", section) for number, section in enumerate(file.supervision)]


def _supervisions(file: StudyFile) -> tuple[SupervisionChoice, ...]:
    """Every choice of supervision, each once, in the order of the file."""
    found: dict[str, SupervisionChoice] = {}
    faults: list[str] = []
    for where, section in _sections(file):
        try:
            found |= {one.model_dump_json(): one for one in _product(SupervisionChoice, section, where)}
        except Faults as error:
            faults += error.faults
    if faults:
        raise Faults(faults)
    return tuple(found.values())


def _faults_of_parts(file: StudyFile) -> list[str]:
    """What is wrong in parts that only make sense together: grids, contrasts, retrieval, capacity, skips."""
    faults: list[str] = []

    def collect(make, *arguments) -> None:
        try:
            make(*arguments)
        except LoramemError as error:
            faults.extend(error.faults if isinstance(error, Faults) else [str(error)])

    for number, changes in enumerate(file.contrasts):
        for path, value in changes.items():
            names = value if isinstance(value, list) else [value]
            if path == "sources":
                if not isinstance(value, list) or not value:
                    faults.append(f"contrasts[{number}].sources: give a list of sources, not {value!r}")
                    continue
                faults += [
                    f"contrasts[{number}].sources: unknown source {name!r}; {nearest(str(name), file.sources)}"
                    for name in names
                    if name not in file.sources
                ]
            elif path == "sizes":
                if not isinstance(value, list) or not value or not all(type(size) is int for size in value):
                    faults.append(f"contrasts[{number}].sizes: give a list of sizes in tokens, not {value!r}")
                    continue
                known = {size for source in file.sources.values() for size in source.get("sizes", ())}
                faults += [
                    f"contrasts[{number}].sizes: no source has the size {size}; allowed: {', '.join(map(str, sorted(known)))}"
                    for size in value
                    if size not in known
                ]
            elif path == "partitions":
                faults += [
                    f"contrasts[{number}].partitions: {way!r} is no partition of this study; {nearest(str(way), _listed(file.partition))}"
                    for way in names
                    if way not in _listed(file.partition)
                ]
            elif path == "supervisions":
                with contextlib.suppress(InputError):  # a faulty supervision is told elsewhere
                    known_recipes = {choice.recipe for choice in _supervisions(file)}
                    faults += [
                        f"contrasts[{number}].supervisions: {recipe!r} is no recipe of this study; {nearest(str(recipe), known_recipes)}"
                        for recipe in names
                        if str(recipe) not in known_recipes
                    ]
            elif path.split(".")[0] != "modules" or path.count(".") < 1:
                faults.append(f"contrasts[{number}]: {path!r} is no path of modules, e.g. modules.budget")
    if not faults:
        for key in file.sources:
            collect(points_of, file, key)
            if key in file.capacity and not faults:
                faults += _faults_of_capacity(key, points_of(file, key))
    collect(_product, Retrieval, file.retrieval, "retrieval")
    collect(_supervisions, file)
    collect(Chunking.parse, file.chunking)
    for way in _listed(file.partition):
        collect(check_partition, way)
        if way != "corpus" and file.capacity:
            faults.append(
                f"partition: {way} with capacity; limits are read off one module per source: use corpus"
            )
    faults += _faults_of_lists(file)
    for key, choice in file.capacity.items():
        if key not in file.sources:
            faults.append(f"capacity: unknown source {key!r}; {nearest(key, file.sources)}")
        if choice.metric not in file.metrics:
            faults.append(
                f"capacity.{key}.metric: {choice.metric!r} is not measured; {nearest(choice.metric, file.metrics)}"
            )
    faults += [
        f"{name}.{field}: an empty list has no values"
        for name, section in (("retrieval", file.retrieval), *_sections(file))
        for field, value in section.items()
        if value == []
    ]
    faults += [
        f"skip[{number}]: give at least one of source, rank, size_tokens and partition; as it is it skips everything"
        for number, skip in enumerate(file.skip)
        if skip == Skip()
    ]
    faults += [
        f"skip: unknown source {skip.source!r}; {nearest(skip.source, file.sources)}"
        for skip in file.skip
        if skip.source is not None and skip.source not in file.sources
    ]
    faults += [
        f"skip: {skip.partition!r} is no partition of this study; {nearest(skip.partition, _listed(file.partition))}"
        for skip in file.skip
        if skip.partition is not None and skip.partition not in _listed(file.partition)
    ]
    faults += _faults_of_pools(file)
    return faults


def _faults_of_lists(file: StudyFile) -> list[str]:
    """What is wrong with several bases, partitions and supervisions beside each other."""
    faults: list[str] = []
    for field, value in (
        ("base", file.base),
        ("partition", file.partition),
        ("supervision", file.supervision),
    ):
        if value == ():
            faults.append(f"{field}: an empty list has no values")
    for field, names in (("base", _listed(file.base)), ("partition", _listed(file.partition))):
        twice = [name for number, name in enumerate(names) if name in names[:number]]
        faults += [f"{field}: {name!r} is named twice" for name in dict.fromkeys(twice)]
    shown: dict[str, str] = {}
    for base in _listed(file.base):
        other = shown.setdefault(Path(base).name, base)
        if other != base:
            faults.append(
                f"base: {other!r} and {base!r} would both be called {Path(base).name} in the names of cells; rename one"
            )
    if file.capacity:
        several = [("base", len(_listed(file.base)))]
        with contextlib.suppress(InputError):  # what is wrong with them is told elsewhere
            several.append(("supervision", len(_supervisions(file))))
        faults += [
            f"{field}: {count} values with capacity; limits are read off one module per source: give one"
            for field, count in several
            if count > 1
        ]
    return faults


def _faults_of_pools(file: StudyFile) -> list[str]:
    """Routing needs modules to choose from; a reading may only be confined to a partition that there is."""
    with contextlib.suppress(InputError):  # told elsewhere
        ways = _listed(file.partition)
        odd = [one.partition for one in readings_of(file.readings) if one.partition not in (None, *ways)]
        if odd:
            return [f"readings: {odd[0]!r} is no partition of this study; {nearest(str(odd[0]), ways)}"]
        pooled = [one.reading for one in readings_of(file.readings) if one.routing is not None]
        if pooled and set(_listed(file.partition)) == {"corpus"} and file.pool == "source":
            return [
                f"readings: {pooled[0]} chooses among the modules of a source, but partition corpus makes one of it; use document, chunk or "
                "tokens:N, or pool: study"
            ]
    return []


def _faults_of_capacity(source: str, points: Sequence[Point]) -> list[str]:
    """A limit is read off one module per rank and load: whatever else varies must name another grid."""
    seen: dict[tuple, ModuleConfig] = {}
    for point in points:
        spec = point.config.spec
        key = (spec.rank, point.config.budget.label, spec.targets, spec.layers, spec.variant)
        other = seen.setdefault(key, point.config)
        if other != point.config:
            return [
                f"capacity.{source}: two modules of rank {spec.rank} under {point.config.budget.label} differ in something else than "
                "targets, layers or variant, so their limit is not defined; give one value, or leave out capacity"
            ]
    return []


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
    if isinstance(body.get("readings"), list):
        try:
            readings_of([one for one in body["readings"] if isinstance(one, str | dict)])
        except Faults as error:
            faults += error.faults
    for name in body.get("metrics") or () if isinstance(body.get("metrics"), list) else ():
        if name not in METRICS:
            faults.append(f"metrics: unknown metric {name!r}; {nearest(str(name), METRICS.names())}")
    if isinstance(body.get("modules"), dict):
        unknown = set(body["modules"]) - set(ModuleConfig.model_fields)
        faults += [
            f"modules.{key}: unknown key; {nearest(key, ModuleConfig.model_fields)}"
            for key in sorted(unknown)
        ]
        if file is not None and not unknown:
            faults += _faults_of_parts(file)
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


def read_document(name: str, *, seen: tuple[str, ...] = ()) -> dict:
    """The mapping of a study file. `extends: NAME` takes another study's file and changes the keys it gives itself.

    Raises:
        InputError: not YAML, not a mapping, or studies that extend each other in a circle.
    """
    if name in seen:
        raise InputError(f"extends: {' -> '.join((*seen, name))} is a circle")
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
    parent = document.pop("extends", None)
    if parent is None:
        return document
    parent = str(parent)
    if Path(parent).suffix in (".yaml", ".yml"):  # a path is meant from the file that names it
        parent = str(Path(name).expanduser().parent / parent)
    inherited = read_document(parent, seen=(*seen, name))
    merged = {**inherited, **document}
    if "scales" in document:
        scales = inherited.get("scales") or {}
        own = document["scales"] or {}
        merged["scales"] = {
            key: {**(scales.get(key) or {}), **(own.get(key) or {})} for key in (*scales, *own)
        }
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
