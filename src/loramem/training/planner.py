"""Which rows go through the base together: as many as memory holds, never rows of different lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch

from loramem.base.model import Base
from loramem.core.errors import InputError, RunFailed
from loramem.modules.bank import Bank
from loramem.training.job import TrainJob
from loramem.training.memory import Need, SavedBytes, need_of, out_of_memory, state_bytes
from loramem.training.packing import kind
from loramem.training.passes import Learner, Part, part_losses

PROBE_ROWS = (1, 3)
ONE_ROW = "out of memory with a single row; use a base in lower precision or a smaller rank"


def probe_key(job: TrainJob) -> tuple:
    """Jobs that keep as much for each row."""
    return (kind(job), job.spec.dropout > 0, job.spec.variant, job.objective.name, job.objective.hidden)


class Planner:
    """Plans passes within a budget of bytes, calibrated by a probe step for every kind of module.

    Args:
        budget: Bytes for modules and passes together; the base is there already.
        recompute: Gradient checkpointing; None: where a module's own batch does not fit without.

    Attributes:
        most_rows: Rows of a pass that memory was seen not to hold, less one half; None while it has held all.
    """

    def __init__(self, base: Base, budget: int, recompute: bool | None = None):
        self.base, self.budget, self.recompute = base, budget, recompute
        self.most_rows: int | None = None
        self._needs: dict[tuple, dict[bool, Need]] = {}
        self._states: dict[tuple, int] = {}
        self._limits: dict[tuple, int] = {}
        self._planned: tuple[tuple, list[tuple[list[Part], bool]]] = ((), [])

    def state(self, job: TrainJob) -> int:
        key = (job.spec.rank, job.spec.variant, kind(job))
        if key not in self._states:
            try:
                self._states[key] = state_bytes(self.base, job.spec)
            except InputError:  # it fits no layer: it takes nothing, and is refused where it is added
                self._states[key] = 0
        return self._states[key]

    def observe(self, learner: Learner, bank: Bank) -> None:
        """Learn what a row of this kind keeps, from a probe of its longest example; the first of a kind pays for it."""
        job = learner.job
        key = probe_key(job)
        if key in self._needs:
            return
        weights = [parameter for parameter in self.base.model.parameters()]
        weights += [tensor for bucket in bank.buckets for tensor in (bucket.flat_CP, bucket.scale_C)]
        longest = int(learner.feed.supervised.argmax())
        before = learner.chosen, learner.told
        seen: dict[int, int] = {}
        for rows in PROBE_ROWS:
            learner.chosen = torch.full((rows,), longest)
            if learner.states is not None:
                learner.told = [learner.states.of(learner.chosen, learner.counts)]
            elif job.objective.name == "dcd":
                hidden = self.base.model.get_input_embeddings().weight
                depth = self.base.model.config.get_text_config().num_hidden_layers
                shape = (int(learner.counts.sum()), hidden.shape[1])
                learner.told = [torch.ones(shape, dtype=hidden.dtype, device=hidden.device)] * depth
            try:
                with SavedBytes(weights) as saved:
                    part_losses(self.base, bank, [Part(learner, 0, rows)])
                seen[rows] = saved.total
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if rows == 1:
                    raise RunFailed(ONE_ROW) from None
                self._limits[key] = 1  # of this kind one row was held, and three were not
            finally:
                for bucket in bank.learning:
                    bucket.grad_NP.zero_()
        learner.chosen, learner.told = before
        fewest, most = min(seen), max(seen)
        saved_row = (seen[most] - seen[fewest]) / (most - fewest) if most > fewest else seen[fewest]
        self._needs[key] = {
            again: need_of(
                self.base, saved_row=saved_row, length=job.length, answers=float(learner.feed.supervised[longest]),
                objective=job.objective.name, recompute=again,
            )
            for again in (False, True)
        }  # fmt: skip

    def peak(self, jobs: Sequence[TrainJob]) -> int:
        """Predicted peak in bytes of training `jobs` side by side, above what the base takes.

        Kinds must have been observed; jobs that have not count with their states alone.
        """
        states = sum(self.state(job) for job in jobs)
        rows: dict[tuple, int] = defaultdict(int)
        needs: dict[tuple, list[Need]] = defaultdict(list)
        for job in jobs:
            found = self._needs.get(probe_key(job))
            if found is not None:
                rows[_together(job)] += job.optimizer.batch
                needs[_together(job)].append(found[bool(self.recompute)])
        passes = [max(need.of(rows[key]) for need in found) for key, found in needs.items()]
        return states + max(passes, default=0)

    def fits(self, job: TrainJob, running: Sequence[TrainJob]) -> bool:
        """Whether `job` may join those that run."""
        return self.peak([*running, job]) <= self.budget

    def passes(self, learners: Mapping[int, Learner], bank: Bank) -> list[tuple[list[Part], bool]]:
        """The passes of one step: (parts in the bank's order, whether layers are recomputed)."""
        key = (*bank.in_order(), self.most_rows)
        if key != self._planned[0]:  # the same from step to step while nobody comes or goes
            self._planned = key, list(self._plan(learners, bank))
        return self._planned[1]

    def _plan(self, learners: Mapping[int, Learner], bank: Bank) -> Iterator[tuple[list[Part], bool]]:
        room = self.budget - sum(self.state(one.job) for one in learners.values())
        groups: dict[tuple, list[Learner]] = defaultdict(list)
        for slot in bank.in_order():
            if slot in learners:
                groups[_together(learners[slot].job)].append(learners[slot])
        for members in groups.values():
            needs = [self._needs[probe_key(one.job)] for one in members if probe_key(one.job) in self._needs]
            batch = max(one.job.optimizer.batch for one in members)
            again = self.recompute
            if again is None:
                again = any(need[False].rows_within(room) < batch for need in needs)
            most = min((need[again].rows_within(room) for need in needs), default=batch)
            limits = [self._limits[key] for one in members if (key := probe_key(one.job)) in self._limits]
            most = max(1, min([most, *limits, *([] if self.most_rows is None else [self.most_rows])]))
            for parts in _cut(members, most):
                yield parts, again

    def halve(self, rows: int) -> bool:
        """Memory did not hold `rows` rows: plan for half of them. False where there is nothing left to halve."""
        if rows <= 1:
            return False
        self.most_rows = rows // 2
        return True


def _together(job: TrainJob) -> tuple:
    """Jobs whose rows may share a pass."""
    return (job.length, job.optimizer.compute == "tf32")


def _cut(members: Sequence[Learner], most: int) -> Iterator[list[Part]]:
    """Parts of at most `most` rows together; a batch is only split where it does not fit by itself."""
    parts: list[Part] = []
    rows = 0
    for learner in members:
        batch = learner.job.optimizer.batch
        if parts and rows + batch > most:
            yield parts
            parts, rows = [], 0
        start = 0
        while batch - start > most:
            yield [Part(learner, start, start + most)]
            start += most
        parts.append(Part(learner, start, batch))
        rows += batch - start
    if parts:
        yield parts
