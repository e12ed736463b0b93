"""Who does the work: this process, or workers on many machines. Both give the same modules and readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from loramem.answering.readings import ReadingTask
from loramem.base.model import Base
from loramem.modules.store import Store
from loramem.studies.cells import ModulePlan
from loramem.studies.work import Tell, read_here, train_here
from loramem.training.packing import DEFAULT_ROWS

FEWEST_READ = 32
"""Questions answered at once, at least: a step of few rows trains, but it reads slowly."""


class Executor(Protocol):
    """Trains modules and answers readings on one base, into one store.

    What was asked for is in the store when a call returns, or was told to have failed. Nothing that is in the store
    is asked for.
    """

    base: Base
    """What a study is planned with; of workers elsewhere it may hold no weights."""
    rows: int
    """Rows of a training step, over all modules."""

    @property
    def label(self) -> str:
        """What does the work, in words for the record."""

    def train(self, modules: Sequence[ModulePlan], tell: Tell) -> None:
        """Train modules. Raises `RunFailed` where none can be trained or kept any more."""

    def read(self, tasks: Mapping[str, ReadingTask], tell: Tell) -> None:
        """Answer readings, by their ids. Raises `RunFailed` where none can be answered or kept any more."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(base, store, *arguments)` beside a base that computes, e.g. to time it."""


class Local:
    """In this process.

    Args:
        rows: Rows of a training step, over all modules.
    """

    label = "local"

    def __init__(self, base: Base, store: Store, *, rows: int = DEFAULT_ROWS):
        self.base, self.store, self.rows = base, store, rows

    def train(self, modules: Sequence[ModulePlan], tell: Tell) -> None:
        train_here(modules, self.base, self.store, tell, rows=self.rows)

    def read(self, tasks: Mapping[str, ReadingTask], tell: Tell) -> None:
        read_here(tasks, self.base, self.store, tell, rows=max(FEWEST_READ, self.rows))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.base, self.store, *arguments)
