"""One case of bad input as data: files, a command line, what the message must say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tinystudy import body

Content = str | bytes | Callable[[Path], None]
"""A file's text or bytes, or what makes something at the path it is given."""


@dataclass(frozen=True)
class Case:
    """A command that must be refused.

    Attributes:
        command: Words parted by blanks; `{base}` is a tiny checkpoint, `{port}` a closed port.
        says: What the message must hold, white space aside.
        files: What lies in the folder in which the command runs, by name.
        about: Parameters of the command that are given something bad, by name.
        more: Further words, which may hold blanks.
        code: The exit code: 2 for bad input, 1 where something that was right failed.
        stdin: What is piped in.
        environment: Variables that are set.
        spoil: Copies of whole folders that lie there as well, and what is done to them: `model` (a tiny checkpoint), `store` (finished
            modules `A`, `B` and `B2` of that base, `C` of another), `run` (a run folder of a capacity study).
    """

    command: str
    says: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)
    about: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    code: int = 2
    stdin: bytes | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    spoil: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        return [*self.command.split(), *self.more]

    @property
    def path(self) -> tuple[str, ...]:
        """The command that is called, e.g. `("modules", "train")`."""
        words = self.command.split()
        grouped = words[:1] in (["base"], ["data"], ["modules"], ["study"])
        return tuple(words[: 2 if grouped else 1])


Cases = dict[str, Case]
A, B, B2, C = (name * 32 for name in ("a1", "b1", "b2", "c1"))
"""Ids of the modules in a copy of the store; the first digits of `B` and `B2` are the same."""


def as_it_is(folder: Path) -> None:
    """A copy to which nothing is done."""


def study_text(**changes: Any) -> str:
    """The file of a small study with paths set (`modules__spec__rank=[2]`)."""
    return yaml.safe_dump(body(**changes), sort_keys=False, allow_unicode=True)


def study(*says: str, **changes: Any) -> Case:
    """A study file of which something is wrong that is found before any base is loaded."""
    return Case("study run s.yaml", says, {"s.yaml": study_text(**changes)}, about=("name",))


def raw_study(content: Content, *says: str) -> Case:
    """A study file as it is written."""
    return Case("study run s.yaml", says, {"s.yaml": content}, about=("name",))


def setting(assignment: str, *says: str) -> Case:
    """A setting of the demo study on the command line."""
    return Case("study run quick --set", says, more=(assignment,), about=("--set",))
