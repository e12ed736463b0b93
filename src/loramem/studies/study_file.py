"""The study file as it is written: its keys, and the lists in them that are grids."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from loramem.core.config import Config, faults_of, parse
from loramem.core.errors import Faults, InputError
from loramem.modules.recipe import ModuleConfig
from loramem.sources.slicing import Size
from loramem.sources.unrelated import HarmChoice
from loramem.studies.expectations import Expectation
from loramem.studies.grid import combinations
from loramem.studies.latency import LatencyChoice
from loramem.synthesis.completing import Sampling
from loramem.synthesis.generators import SupervisionChoice

if TYPE_CHECKING:
    from loramem.synthesis.endpoint import EndpointConfig

SCALES = ("quick", "laptop", "paper")
NAME = r"[a-z0-9][a-z0-9_-]*"
"""What a study may be called: it names folders and pages."""
SOURCE_NAME = r"\w[\w.+ -]{0,63}"
"""What a source may be called in a study: it begins the names of cells and figures, and stands in paths of settings."""


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
    dev_tokens: Size = 1000
    """Tokens of the split."""


class StudyFile(Config):
    """The resolved body of a study file, lists still lists."""

    study: Annotated[str, Field(pattern=f"^{NAME}$", max_length=64)]
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

    @field_validator("sources")
    @classmethod
    def _named(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        faults = [
            f"a source called {name[:80]!r}: letters, digits and . _ + - (and blanks within), 64 at most, the first one no mark"
            for name in value
            if not re.fullmatch(SOURCE_NAME, name) or name != name.strip()
        ]
        alike: dict[str, str] = {}
        for name in value:
            other = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
            if other != name:
                faults.append(f"sources called {other!r} and {name!r}: names that look alike; rename one")
        if faults:
            raise Faults(faults)
        return value

    @field_validator("chunking", mode="before")
    @classmethod
    def _tokens(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value


C = TypeVar("C", bound=Config)


def product(kind: type[C], section: Mapping[str, Any], where: str) -> list[C]:
    """Every combination of the listed values of a section, each once. Raises `Faults` with what is wrong with any."""
    axes = [value if isinstance(value, list) else [value] for value in section.values()]
    found, faults = [], []
    for chosen in combinations(axes, where):
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


def listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def sections_of(file: StudyFile) -> list[tuple[str, dict[str, Any]]]:
    """The grids of `supervision`, each with its place in the file."""
    if isinstance(file.supervision, dict):
        return [("supervision", file.supervision)]
    return [(f"supervision[{number}]", section) for number, section in enumerate(file.supervision)]


def supervisions_of(file: StudyFile) -> tuple[SupervisionChoice, ...]:
    """Every choice of supervision, each once, in the order of the file."""
    found: dict[str, SupervisionChoice] = {}
    faults: list[str] = []
    for where, section in sections_of(file):
        try:
            found |= {one.model_dump_json(): one for one in product(SupervisionChoice, section, where)}
        except Faults as error:
            faults += error.faults
    if faults:
        raise Faults(faults)
    return tuple(found.values())
