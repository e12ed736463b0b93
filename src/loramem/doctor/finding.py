"""What a check of the doctor says, and what it is asked to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        state: `ok`; `note`: worth knowing, nothing is broken; `fault`: something will fail.
        remedy: What to do; every fault has one.
        facts: The numbers behind the text, for machines.
    """

    area: str
    name: str
    state: State
    text: str
    remedy: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.remedy or self.state != "fault", f"{self.area} {self.name}: a fault without a remedy"

    @property
    def line(self) -> str:
        """As people read it.

        >>> print(Finding("memory", "free", "fault", "12 MB", "close something").line)
        fault  memory    free: 12 MB -> close something
        """
        return f"{self.state:5}  {self.area:9} {self.name}: {self.text}" + (
            f" -> {self.remedy}" if self.remedy else ""
        )


@dataclass(frozen=True)
class Asked:
    """What is looked at: the options of `loramem doctor`."""

    store: Path
    base: str = "embedded"
    device: str | None = None
    offline: bool = False
    repair: bool = False
    deep: bool = False
    url: str | None = None
    """Of a store that many machines share; `store` is then the part of it that this machine keeps."""


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def first_line(error: BaseException) -> str:
    """Kind and first line of an exception."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:300]}" if said else type(error).__name__
