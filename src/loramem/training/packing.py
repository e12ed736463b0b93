"""Which modules train side by side. It changes speed and memory, never a module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from loramem.modules.bucket import padded_rank
from loramem.training.job import TrainJob

DEFAULT_ROWS = 256
MIXED = 8
"""Modules of another kind join while an eighth of the rows is not yet filled."""


def kind(job: TrainJob) -> tuple:
    """Equal for jobs that share a pass and a bucket (targets as they are written: aliases only cost speed)."""
    spec = job.spec
    return (job.length, job.optimizer.compute, padded_rank(spec.rank), str(spec.targets), str(spec.layers), spec.variant == "dora")  # fmt: skip


class Queue:
    """Jobs that wait for a slot.

    Modules that share a bucket of the bank follow each other, the kind with most work first, within it the longest
    first; so modules of similar length stand side by side and slots do not run dry at the end.

    Args:
        rows: Rows of a step, over all modules.
    """

    def __init__(self, jobs: Sequence[TrainJob], *, rows: int = DEFAULT_ROWS):
        self.rows = rows
        by_kind: dict[tuple, list[TrainJob]] = defaultdict(list)
        for job in jobs:
            by_kind[kind(job)].append(job)
        for members in by_kind.values():
            members.sort(key=lambda job: (-job.steps * job.optimizer.batch, job.spec.rank, job.key))

        def work(members: Sequence[TrainJob]) -> int:
            return sum(job.steps * job.optimizer.batch * job.length for job in members)

        groups = sorted(by_kind.values(), key=lambda members: (-work(members), kind(members[0])))
        self.waiting = [job for members in groups for job in members]

    def __len__(self) -> int:
        return len(self.waiting)

    def take(self, running: Sequence[TrainJob], fits: Callable[[TrainJob], bool]) -> TrainJob | None:
        """The job to join those that run, or None: the same kind first, another only where the rows would lie idle.

        Args:
            fits: Whether there is memory for it; with nothing running the first job is taken all the same.
        """
        if not self.waiting:
            return None
        if not running:
            return self.waiting.pop(0)
        used = sum(job.optimizer.batch for job in running)
        kinds = {kind(job) for job in running}
        lengths = {job.length for job in running}
        for wanted in (
            lambda job: kind(job) in kinds,
            lambda job: MIXED * used < self.rows and job.length in lengths,
            lambda job: MIXED * used < self.rows,
        ):
            for number, job in enumerate(self.waiting):
                if wanted(job) and used + job.optimizer.batch <= self.rows and fits(job):
                    return self.waiting.pop(number)
        return None
