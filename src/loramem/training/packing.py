"""Packs: which modules train together. Packing changes speed and memory, never a module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from loramem.base.model import Base
from loramem.modules.bank import padded_rank
from loramem.modules.targets import parameter_count
from loramem.training.loop import TrainJob

BYTES_PER_PARAMETER = 16  # fp32 weight, gradient and two moments
DEFAULT_ROWS = 256
DEFAULT_BYTES = 2 * 2**30


def _bucket(job: TrainJob) -> tuple:
    """Equal for jobs whose modules share a bucket (targets as they are written: aliases only cost speed)."""
    return (padded_rank(job.spec.rank), str(job.spec.targets), str(job.spec.layers))


def state_bytes(base: Base, job: TrainJob) -> int:
    """Bytes of a module's weights, gradient and moments while it trains, its padding counted."""
    return (
        BYTES_PER_PARAMETER
        * parameter_count(base.model, job.spec)
        * padded_rank(job.spec.rank)
        // job.spec.rank
    )


def plan_packs(
    jobs: Sequence[TrainJob], base: Base, *, rows: int = DEFAULT_ROWS, budget_bytes: int = DEFAULT_BYTES
) -> list[list[TrainJob]]:
    """Split jobs into packs of equal (length, batch) with at most `rows` rows per step and `budget_bytes` of state.

    Modules that share a bucket of the bank travel together, those of similar length in steps side by side; a pack
    that holds an eighth of its rows is closed where the bucket changes, since every bucket costs a pass over the rows
    at each layer. Longest packs first. A module larger than the budget is a pack of its own.
    """
    groups: dict[tuple[int, int], list[TrainJob]] = defaultdict(list)
    for job in jobs:
        groups[job.length, job.optimizer.batch].append(job)
    packs: list[list[TrainJob]] = []
    for (_, batch), members in sorted(groups.items()):
        members.sort(key=lambda job: (_bucket(job), -job.steps, job.spec.rank, job.key))
        size = max(1, rows // batch)
        pack: list[TrainJob] = []
        used = 0
        for job in members:
            cost = state_bytes(base, job)
            other = pack and _bucket(job) != _bucket(pack[-1]) and 8 * len(pack) >= size
            if pack and (len(pack) == size or used + cost > budget_bytes or other):
                packs.append(pack)
                pack, used = [], 0
            pack.append(job)
            used += cost
        if pack:
            packs.append(pack)
    packs.sort(key=lambda pack: -max(job.steps for job in pack) * len(pack))
    return packs
