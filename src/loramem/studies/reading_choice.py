"""The readings of a study: names, or mappings whose lists are the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError, model_validator

from loramem.answering.readings import STEMS
from loramem.answering.routers import Routing
from loramem.core.config import Config, faults_of
from loramem.core.errors import Faults, InputError, nearest
from loramem.core.shown import quoted
from loramem.inference.generate import ModuleOn
from loramem.modules.merged import Merging
from loramem.studies.grid import combinations


class ReadingChoice(Config):
    """One way of answering.

    Attributes:
        reading: A name in `STEMS`.
        routing: How modules are chosen, where the reading chooses.
        merging: How several become one, where it merges.
        module_on: Where the module works: `all`, `answer` (only while the answer is decoded, arXiv 2606.05698), or
            `after-prefix` (not while the context is read).
        abstain: A question that no module fits (`routing.none_below`) is not answered; else the base answers it.
        partition: Only modules of this partition are read so; None: those of every partition.
    """

    reading: str
    routing: Routing | None = None
    merging: Merging | None = None
    module_on: ModuleOn = "all"
    abstain: bool = False
    partition: str | None = None

    @model_validator(mode="after")
    def _fitting(self) -> ReadingChoice:
        stem = STEMS.get(self.reading)
        pooled = stem.which == "pool"
        if pooled != (self.routing is not None) or stem.merges != (self.merging is not None):
            raise ValueError(f"{self.reading}: a router belongs to routed and merged, a merge rule to merged")
        if self.module_on != "all" and not stem.uses_module:
            raise ValueError(f"{self.reading}: module_on {self.module_on} without a module")
        if self.module_on == "after-prefix" and not stem.in_context:
            raise ValueError(f"{self.reading}: module_on after-prefix without a context; add +icl or +rag")
        if self.partition is not None and not stem.uses_module:
            raise ValueError(f"{self.reading}: partition {self.partition} without a module")
        if self.abstain and (self.routing is None or self.routing.none_below is None):
            raise ValueError(
                f"{self.reading}: abstain needs none_below, the confidence under which no module fits"
            )
        return self

    @property
    def label(self) -> str:
        """The reading as a part of a cell's name.

        >>> ReadingChoice(reading="merged", routing=Routing(router="oracle", top_k=3), merging=Merging(rule="cat")).label
        'merged-oracle-top3-cat'
        """
        parts = [self.reading]
        if self.routing is not None:
            parts.append(self.routing.label)
            if self.merging is not None:
                k = f"top{self.routing.top_k}"
                parts.append(k if self.routing.adaptive is None else f"{k}-p{self.routing.adaptive:g}")
            if self.routing.none_below is not None:
                parts.append(f"none{self.routing.none_below:g}" + ("-abstain" if self.abstain else ""))
        if self.merging is not None:
            parts.append(self.merging.label)
        if self.module_on != "all":
            parts.append(f"on-{self.module_on}")
        return "-".join(parts)


OWN = ("reading", "module_on", "abstain", "partition")


def readings_of(entries: Sequence[str | Mapping[str, Any]]) -> tuple[ReadingChoice, ...]:
    """Every reading of a study, each once, in order.

    An entry is a name (`routed` and `merged` with their defaults) or a mapping: `reading`, then fields of `Routing`, of
    `Merging`, `module_on`, `abstain` and `partition`, all flat; lists are the grid. `seed` goes to both; `weights` of a merge are a list
    themselves, so that a grid of them is a list of lists, and one list of them is written `[[0.5, 0.3, 0.2]]`.

    Raises:
        Faults: everything that is wrong with any entry.
    """
    found: dict[str, ReadingChoice] = {}
    faults: list[str] = []
    for number, entry in enumerate(entries):
        where = f"readings[{number}]"
        settings = {"reading": entry} if isinstance(entry, str) else dict(entry)
        name = settings.get("reading")
        names = name if isinstance(name, list) else [name]
        if unknown := [one for one in names if one not in STEMS]:
            at = "readings" if isinstance(entry, str) else f"{where}.reading"
            faults += [
                f"{at}: unknown reading {quoted(one)}; {nearest(str(one), STEMS.names())}" for one in unknown
            ]
            continue
        if empty := [key for key, value in settings.items() if value == []]:
            faults += [f"{where}.{key}: an empty list has no values" for key in empty]
            continue
        axes = [value if isinstance(value, list) else [value] for value in settings.values()]
        try:
            every = combinations(axes, where)
        except Faults as error:
            faults += error.faults
            continue
        for chosen in every:
            try:
                one = _choice(dict(zip(settings, chosen, strict=True)), where)
            except InputError as error:
                faults += error.faults if isinstance(error, Faults) else [f"{where}: {error}"]
            except ValidationError as error:
                faults += faults_of(ReadingChoice, error, where)
            else:
                found.setdefault(one.model_dump_json(), one)
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    return tuple(found.values())


def _choice(settings: dict[str, Any], where: str) -> ReadingChoice:
    """One reading out of flat settings. Raises `Faults` for keys that belong to no part of it."""
    stem = STEMS.get(settings["reading"])
    parts: dict[str, type[Config]] = {}
    if stem.which == "pool":
        parts["routing"] = Routing
    if stem.merges:
        parts["merging"] = Merging
    allowed = [*OWN, *(field for kind in parts.values() for field in kind.model_fields)]
    if not stem.merges:  # one module answers: how many might is no setting of it
        allowed = [key for key in allowed if key not in ("top_k", "adaptive")]
    if odd := [key for key in settings if key not in allowed]:
        raise Faults([f"{where}.{key}: unknown key for {stem.name}; {nearest(key, allowed)}" for key in odd])
    made: dict[str, Any] = {key: settings[key] for key in OWN if key in settings}
    faults: list[str] = []
    for part, kind in parts.items():
        own = {key: settings[key] for key in kind.model_fields if key in settings}
        try:
            made[part] = kind.model_validate(own)
        except ValidationError as error:
            faults += faults_of(kind, error, where)
    if faults:
        raise Faults(faults)
    return ReadingChoice.model_validate(made)
