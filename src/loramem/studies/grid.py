"""Grids: lists become cells, scales and --set change paths, and every fault is found before anything is spent."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loramem.core.errors import Faults, InputError, nearest
from loramem.core.parsing import yaml_value
from loramem.core.shown import quoted

# Fields whose own value may be a list; a list is an axis there only if it holds lists or group names.
_LIST_VALUED = {"targets", "layers", "modules"}
# Mappings that are settings of their own, not a choice by source or rank.
_SETTINGS = ({"max_exposures", "window", "min_fall", "patience", "cooldown"}, {"sweep", "dev_tokens", "by"})
_GROUPS = {"all-linear", "attention", "mlp", "all", "first-half", "second-half"}


def set_path(tree: dict, path: str, value: Any, *, where: str = "--set") -> None:
    """Set `a.b.c` in nested mappings. Raises `InputError` when the path runs through a value.

    >>> tree = {"a": {"b": 1}}; set_path(tree, "a.c", 2); tree
    {'a': {'b': 1, 'c': 2}}
    """
    *parents, last = path.split(".")
    node: Any = tree
    for depth, key in enumerate(parents):
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise InputError(f"{where} {path}: {'.'.join(parents[: depth + 1])} holds a value, not settings")
    node[last] = value


def parse_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """`a.b=[1,2]` as a path and a YAML-typed value.

    >>> parse_assignment("modules.spec.rank=[2,8]")
    ('modules.spec.rank', [2, 8])
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or any(not part for part in path.strip().split(".")):
        example = "modules.spec.rank=[2,8]" if option == "--set" else "temperature=0"
        raise InputError(f"{option} {quoted(text)}: give PATH=VALUE, e.g. {example}")
    return path.strip(), yaml_value(value, lambda line: f"{option} {quoted(text)}")


def scales_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each scale of a study file changes. Raises `Faults` where that is no `PATH: VALUE`."""
    scales = document.get("scales") or {}
    if not isinstance(scales, dict):
        raise Faults(f"scales: expected NAME: {{PATH: VALUE}}, found {type(scales).__name__}")
    if odd := [name for name, changes in scales.items() if not isinstance(changes, dict | None)]:
        raise Faults(
            [f"scales.{name}: expected PATH: VALUE, found {type(scales[name]).__name__}" for name in odd]
        )
    return {str(name): changes or {} for name, changes in scales.items()}


def resolve(document: Mapping[str, Any], scale: str, assignments: Sequence[str]) -> dict:
    """The study's body with a scale and --set applied; `scales` itself is left out."""
    body = copy.deepcopy(dict(document))
    scales = scales_of(body)
    body.pop("scales", None)
    faults = []
    if scale != "quick":
        if scale not in scales:
            raise InputError(f"this study has no scale {scale!r}; {nearest(scale, ['quick', *scales])}")
        for path, value in scales[scale].items():
            set_path(body, str(path), copy.deepcopy(value), where=f"scales.{scale}:")
    for text in assignments:
        try:
            set_path(body, *parse_assignment(text))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise Faults(faults)
    return body


MOST_POINTS = 10_000
"""Points of one grid; what has more is a slip of the pen, and would not end."""


def combinations(axes: Sequence[Sequence[Any]], where: str) -> Iterator[tuple[Any, ...]]:
    """Every choice of one value from each list. Raises `Faults` where there are more than `MOST_POINTS`."""
    count = math.prod(map(len, axes))
    if count > MOST_POINTS:
        raise Faults(f"{where}: the lists make {count:,} combinations; at most {MOST_POINTS:,} are taken")
    return itertools.product(*axes)


def is_axis(field: str, value: Any) -> bool:
    """Whether `value` is a list of alternatives rather than one value."""
    if not isinstance(value, list) or field == "snapshots":
        return False
    if field in _LIST_VALUED:
        return bool(value) and all(
            isinstance(item, list) or (isinstance(item, str) and item in _GROUPS) for item in value
        )
    return True


def _by_rank(value: Mapping, rank: Any, where: str, source: str) -> Any:
    """The value of the largest listed rank that is not above `rank`: `{1: 0.02, 16: 0.01}` gives 0.02 to rank 4."""
    ranks = [key for key in value if type(key) is int and isinstance(rank, int) and key <= rank]
    if not ranks:
        raise InputError(
            f"{where}: no value for rank {rank} or source {source!r}; it has {', '.join(map(str, value))}"
        )
    return value[max(ranks)]


def _is_choice(value: Any) -> bool:
    """Whether a mapping chooses a value (by source or rank) rather than being one."""
    return isinstance(value, Mapping) and not any(value and set(value) <= known for known in _SETTINGS)


def expand(section: Mapping[str, Any], *, source: str) -> Iterator[dict[str, Any]]:
    """Every point of a grid of nested mappings of lists, for one source.

    A mapping in place of a value chooses by the source's name (`exposures: {phonebook: 100, counterfact: 60}`)
    or by rank, from the listed rank upwards (`lr: {1: 0.01, 16: 0.003}`), or by both, the source first.

    >>> points = list(expand({"spec": {"rank": [1, 4]}, "optimizer": {"lr": {1: 0.1, 4: 0.2}}}, source="phonebook"))
    >>> [(p["spec"]["rank"], p["optimizer"]["lr"]) for p in points]
    [(1, 0.1), (4, 0.2)]
    """
    axes: list[tuple[str, str, list]] = []
    fixed: dict[str, dict[str, Any]] = {}
    for part, fields in section.items():
        if not isinstance(fields, Mapping):
            raise InputError(f"modules.{part}: must be settings (key: value), not {fields!r}")
        fixed[part] = {}
        for field, value in fields.items():
            if isinstance(value, Mapping) and source in value:
                value = value[source]
            if is_axis(field, value):
                if not value:
                    raise InputError(f"modules.{part}.{field}: an empty list has no cells")
                axes.append((part, field, value))
            else:
                fixed[part][field] = value
    for chosen in combinations([values for _, _, values in axes], "modules"):
        point = copy.deepcopy(fixed)
        for (part, field, _), value in zip(axes, chosen, strict=True):
            point[part][field] = value
        rank = point.get("spec", {}).get("rank")
        for part, fields in point.items():
            for field, value in fields.items():
                if _is_choice(value):
                    fields[field] = _by_rank(value, rank, f"modules.{part}.{field}", source)
        yield point
