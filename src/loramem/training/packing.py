"""Packs: which modules train together. Packing changes speed and memory, never a module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from loramem.base.model import Base
from loramem.modules.targets import parameter_count
from loramem.training.loop import TrainJob

BYTES_PER_PARAMETER = 16  # fp32 weight, gradient and two moments
DEFAULT_ROWS = 256
DEFAULT_BYTES = 2 * 2**30


def plan_packs(
    jobs: Sequence[TrainJob], base: Base, *, rows: int = DEFAULT_ROWS, budget_bytes: int = DEFAULT_BYTES
) -> list[list[TrainJob]]:
    """Split jobs into packs of equal (length, batch) with at most `rows` rows per step and `budget_bytes` of state.

    Modules of similar length in steps travel together, longest packs first, and within a pack equal specs
    stand side by side (they share a bucket). A module larger than the budget is a pack of its own.
    """
    groups: dict[tuple[int, int], list[TrainJob]] = defaultdict(list)
    for job in jobs:
        groups[job.length, job.optimizer.batch].append(job)
    packs: list[list[TrainJob]] = []
    for (_, batch), members in sorted(groups.items()):
        members.sort(key=lambda job: (-job.steps, job.spec.rank, job.key))
        size = max(1, rows // batch)
        pack: list[TrainJob] = []
        used = 0
        for job in members:
            cost = BYTES_PER_PARAMETER * parameter_count(base.model, job.spec)
            if pack and (len(pack) == size or used + cost > budget_bytes):
                packs.append(pack)
                pack, used = [], 0
            pack.append(job)
            used += cost
        if pack:
            packs.append(pack)
    packs.sort(key=lambda pack: -max(job.steps for job in pack) * len(pack))
    return packs
