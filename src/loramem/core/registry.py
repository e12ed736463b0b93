"""Registries: a name, a thing, and a helpful answer to a wrong name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from loramem.core.errors import UnknownName, nearest
from loramem.core.shown import quoted

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing (source, metric, reading, ...), in order of registration.

    >>> rules = Registry("merge rule")
    >>> rules.add("linear", 1)
    1
    >>> rules.get("liner")
    Traceback (most recent call last):
    loramem.core.errors.UnknownName: unknown merge rule 'liner'; allowed: linear. Did you mean 'linear'?
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Register `thing`; a name is given once."""
        assert name not in self._things, f"{self.kind} {name!r} is registered twice"
        self._things[name] = thing
        return thing

    def get(self, name: str) -> T:
        """The thing called `name`. Raises `UnknownName` with the allowed names and the nearest guess."""
        if name not in self:
            raise UnknownName(f"unknown {self.kind} {quoted(name)}; {nearest(name, self._things)}")
        return self._things[name]

    def names(self) -> list[str]:
        return list(self._things)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._things  # a list from a file is no name

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)
