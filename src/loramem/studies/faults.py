"""What is wrong with a study file in parts that only make sense together; everything is told at once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loramem.core.errors import Faults, InputError, LoramemError, nearest
from loramem.core.shown import quoted
from loramem.modules.recipe import ModuleConfig
from loramem.retrieval import Retrieval
from loramem.sources.chunking import Chunking, check_partition
from loramem.studies.points import Point, points_of
from loramem.studies.reading_choice import readings_of
from loramem.studies.study_file import Skip, StudyFile, listed, product, sections_of, supervisions_of


def faults_of_parts(file: StudyFile) -> list[str]:
    """What is wrong in parts that only make sense together: grids, contrasts, retrieval, capacity, skips."""
    faults: list[str] = []

    def collect(make, *arguments) -> None:
        try:
            make(*arguments)
        except LoramemError as error:
            faults.extend(error.faults if isinstance(error, Faults) else [str(error)])

    for number, changes in enumerate(file.contrasts):
        faults += _faults_of_contrast(file, f"contrasts[{number}]", changes)
    if not faults:
        for key in file.sources:
            collect(points_of, file, key)
            if key in file.capacity and not faults:
                faults += _faults_of_capacity(key, points_of(file, key))
    collect(product, Retrieval, file.retrieval, "retrieval")
    collect(supervisions_of, file)
    collect(Chunking.parse, file.chunking)
    for way in listed(file.partition):
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
        for name, section in (("retrieval", file.retrieval), *sections_of(file))
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
        f"skip: {skip.partition!r} is no partition of this study; {nearest(skip.partition, listed(file.partition))}"
        for skip in file.skip
        if skip.partition is not None and skip.partition not in listed(file.partition)
    ]
    faults += _faults_of_pools(file)
    return faults


def _faults_of_contrast(file: StudyFile, where: str, changes: Mapping[str, Any]) -> list[str]:
    """What is wrong with the paths of a contrast, and with what it is confined to."""
    recipes: list[str] | None = None
    with contextlib.suppress(InputError):  # a faulty supervision is told elsewhere
        recipes = [choice.recipe for choice in supervisions_of(file)]
    sizes = {
        one for source in file.sources.values() for one in _as_list(source.get("sizes")) if type(one) is int
    }
    confined: dict[str, tuple[str, Sequence[Any] | None]] = {
        "sources": ("unknown source {}", list(file.sources)),
        "sizes": ("no source has the size {}", sorted(sizes)),
        "partitions": ("{} is no partition of this study", listed(file.partition)),
        "supervisions": ("{} is no recipe of this study", recipes),
    }
    faults: list[str] = []
    for path, value in changes.items():
        if path in confined:
            said, known = confined[path]
            numbers = all(type(one) is int for one in _as_list(value))
            if not isinstance(value, list) or not value or (path == "sizes" and not numbers):
                what = "sizes in tokens" if path == "sizes" else path
                faults.append(f"{where}.{path}: give a list of {what}, not {quoted(value)}")
            elif known is not None:
                allowed = f"allowed: {', '.join(map(str, known[:20]))}" if path == "sizes" else ""
                faults += [
                    f"{where}.{path}: {said.format(quoted(one))}; {allowed or nearest(str(one), map(str, known))}"
                    for one in value
                    if one not in known
                ]
        elif path.split(".")[0] != "modules" or path.count(".") < 1:
            faults.append(f"{where}: {quoted(path)} is no path of modules, e.g. modules.budget")
    return faults


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


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
    for field, names in (("base", listed(file.base)), ("partition", listed(file.partition))):
        twice = [name for number, name in enumerate(names) if name in names[:number]]
        faults += [f"{field}: {name!r} is named twice" for name in dict.fromkeys(twice)]
    shown: dict[str, str] = {}
    for base in listed(file.base):
        other = shown.setdefault(Path(base).name, base)
        if other != base:
            faults.append(
                f"base: {other!r} and {base!r} would both be called {Path(base).name} in the names of cells; rename one"
            )
    if file.capacity:
        several = [("base", len(listed(file.base)))]
        with contextlib.suppress(InputError):  # what is wrong with them is told elsewhere
            several.append(("supervision", len(supervisions_of(file))))
        faults += [
            f"{field}: {count} values with capacity; limits are read off one module per source: give one"
            for field, count in several
            if count > 1
        ]
    return faults


def _faults_of_pools(file: StudyFile) -> list[str]:
    """Routing needs modules to choose from; a reading may only be confined to a partition that there is."""
    with contextlib.suppress(InputError):  # told elsewhere
        ways = listed(file.partition)
        odd = [one.partition for one in readings_of(file.readings) if one.partition not in (None, *ways)]
        if odd:
            return [f"readings: {odd[0]!r} is no partition of this study; {nearest(str(odd[0]), ways)}"]
        pooled = [one.reading for one in readings_of(file.readings) if one.routing is not None]
        if pooled and set(listed(file.partition)) == {"corpus"} and file.pool == "source":
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
