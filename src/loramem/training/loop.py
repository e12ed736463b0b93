"""The one training loop: modules learn side by side on one frozen base, each as if it were alone.

Exactness: the loss of a module is the mean over its own tokens, a step's loss their sum; order of examples, dropout,
distractors, schedule, clipping and AdamW are each module's own. Padded length comes from the recipe, and rows of
different lengths never share a pass. So neighbours never change a module, and a module equals a solo run
(tests/training). A module that is done leaves its slot to the next in the queue.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from loramem.base.forward import recomputed
from loramem.base.model import Base
from loramem.core.errors import InputError, RunFailed
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.job import Trained, TrainJob
from loramem.training.log import Log
from loramem.training.memory import memory_budget, out_of_memory
from loramem.training.optimizer import BankedAdamW
from loramem.training.packing import DEFAULT_ROWS, Queue
from loramem.training.passes import Learner, Part, memorised, part_losses
from loramem.training.planner import ONE_ROW, Planner
from loramem.training.teacher import Teacher, online

# Leaves and gradients are views of one flat buffer on purpose; torch only remarks on their strides.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

Find = Callable[[str], tuple[LoraSpec, dict[str, Tensor]]]
"""A finished module by its id: spec and weights."""
COMPUTE = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16}


def train_modules(
    base: Base,
    jobs: Sequence[TrainJob],
    *,
    on_finish: Callable[[Trained], None],
    on_fail: Callable[[str, Exception], None],
    on_step: Callable[[int, int], None] = lambda rows, tokens: None,
    on_note: Callable[[str], None] = lambda text: None,
    rows: int = DEFAULT_ROWS,
    memory: int | None = None,
    find: Find | None = None,
    teacher: Teacher | None = None,
    recompute: bool | None = None,
) -> int:
    """Train `jobs`, as many at a time as rows and memory allow; each is handed to `on_finish` the moment it is done.

    A module whose loss is not finite is handed to `on_fail` and leaves; the others go on unchanged.

    Args:
        on_step: Called after each step with the rows and real tokens of it.
        on_note: Told what a user should know: that memory ran out and what was done.
        rows: Rows of a step, over all modules.
        memory: Bytes that training may take; None: what the machine has (`memory_budget`).
        find: Finds finished modules: for jobs with distractors.
        teacher: Of jobs with objective `dcd`; None: one that keeps its states in memory.
        recompute: Gradient checkpointing; None: where a module's own batch does not fit without.

    Returns:
        The predicted peak in bytes of the fullest moment, above what the base takes.
    """
    trainer = _Trainer(
        base,
        jobs,
        on_finish,
        on_fail,
        on_step,
        on_note,
        rows,
        memory,
        find,
        teacher or Teacher(base),
        recompute,
    )
    trainer.run()
    return trainer.peak


class _Trainer:
    """The state of `train_modules`."""

    def __init__(
        self,
        base: Base,
        jobs: Sequence[TrainJob],
        on_finish: Callable[[Trained], None],
        on_fail: Callable[[str, Exception], None],
        on_step: Callable[[int, int], None],
        on_note: Callable[[str], None],
        rows: int,
        memory: int | None,
        find: Find | None,
        teacher: Teacher,
        recompute: bool | None,
    ):
        self.base, self.find, self.teacher = base, find, teacher
        self.on_finish, self.on_fail, self.on_step, self.on_note = on_finish, on_fail, on_step, on_note
        self.queue = Queue(jobs, rows=rows)
        self.bank = Bank(base.model)
        self.optimizer = BankedAdamW(self.bank)
        self.planner = Planner(base, memory_budget(base.device) if memory is None else memory, recompute)
        self.learners: dict[int, Learner] = {}
        self.peak = 0

    def run(self) -> None:
        try:
            while self.learners or self.queue:
                self._admit()
                if self.learners:
                    self._step()
                    self._release([s for s, one in self.learners.items() if one.course.ended is not None])
        finally:
            self.bank.detach()

    # -- slots -----------------------------------------------------------------------------------
    def _admit(self) -> None:
        """Fill free slots from the queue."""
        came: list[TrainJob] = []
        while True:
            running = [*(one.job for one in self.learners.values()), *came]
            job = self.queue.take(running, lambda job, now=running: self.planner.fits(job, now))  # type: ignore[misc]
            if job is None:
                break
            came.append(job)
        if not came:
            return
        self.bank.trim()
        by_group: dict[tuple, list[LoraSpec]] = defaultdict(list)
        for job in came:
            by_group[job.length, COMPUTE[job.optimizer.compute]].append(job.spec)
        for (length, compute), specs in by_group.items():
            with suppress(InputError):  # said below, for the job it belongs to
                self.bank.reserve(specs, compute=compute, group=length)
        for job in came:
            slot = None
            try:
                if job.optimizer.compute == "tf32" and self.base.device.type != "cuda":
                    raise InputError(f"compute tf32: {self.base.device} has no such precision; use float32")
                slot = self.bank.add(
                    job.spec, job.seed, compute=COMPUTE[job.optimizer.compute], group=job.length
                )
                self.learners[slot] = self._learner(job, slot)
                self.planner.observe(self.learners[slot], self.bank)
            except Exception as error:  # one module's fault must not end the others
                if slot is not None:
                    self.learners.pop(slot, None)
                    self._drop([slot])
                self.on_fail(job.key, error)
        self.peak = max(self.peak, self.planner.peak([one.job for one in self.learners.values()]))

    def _learner(self, job: TrainJob, slot: int) -> Learner:
        budget = job.budget
        feed = Feed(job, self.base.prompts.pad_id, self.base.device)
        course = Course(budget, job.optimizer, steps=job.steps, examples=len(job.examples))
        read = self.teacher.tokens
        states = None
        if job.objective.name == "dcd" and job.objective.hidden == "last":
            states = self.teacher.states(job.teacher)
        learner = Learner(
            job, slot, feed, course, Log(job.steps), set(budget.snapshots if budget else ()), states,
            self.teacher.tokens - read, time.perf_counter(),
        )  # fmt: skip
        if 0 in learner.wanted:
            learner.kept[0] = self.bank.tensors(slot)
        if job.distractors is not None:
            learner.beside = {identity: self._company(identity) for identity in job.distractors.modules}
        return learner

    def _company(self, identity: str) -> int:
        """The frozen slot of a finished module, shared by all who train beside it."""
        for one in self.learners.values():
            if identity in one.beside:
                return one.beside[identity]
        if self.find is None:
            raise InputError(f"distractor {identity[:12]}: training was given no store to find modules in")
        spec, tensors = self.find(identity)
        slot = self.bank.add(spec, frozen=True)
        try:
            self.bank.load(slot, tensors)
        except InputError:
            self.bank.drop([slot])
            raise
        return slot

    def _release(self, slots: Sequence[int]) -> None:
        """Hand over what is done, and free its slots."""
        for slot in slots:
            one = self.learners[slot]
            for later in (at for at in one.wanted if at > one.step):  # training is over: it stays as it is
                one.kept[later] = self.bank.tensors(slot)
            self.on_finish(
                Trained(
                    one.job.key, self.bank.tensors(slot), one.log.rows, one.log.final(), one.tokens, one.supervised,
                    one.feed.truncated, time.perf_counter() - one.began, one.step, str(one.course.ended), one.kept,
                    one.teacher_tokens,
                )
            )  # fmt: skip
        self._drop(slots)

    def _drop(self, slots: Sequence[int]) -> None:
        """Take modules out of the bank, and the finished ones that nobody trains beside any more."""
        for slot in slots:
            self.learners.pop(slot, None)
        used = {slot for one in self.learners.values() for slot in one.beside.values()}
        frozen = {slot for slot, bucket in self.bank.bucket_of.items() if bucket.key.frozen}
        self.bank.drop([*slots, *(frozen - used - set(self.bank.companion.values()))])

    # -- steps -----------------------------------------------------------------------------------
    def _step(self) -> None:
        """One optimiser step of every learner."""
        for learner in list(self.learners.values()):
            try:
                self._draw(learner, learner.feed.next())
            except Exception as error:  # of its own teacher: the others go on
                self.on_fail(learner.job.key, error)
                self._drop([learner.slot])
        found = None
        while found is None and self.learners:
            found = self._gradients()
        if found is None:
            return
        losses, worst = found
        finite = torch.stack(list(losses.values())).isfinite().tolist()
        bad = [slot for slot, fine in zip(losses, finite, strict=True) if not fine]
        for slot in bad:
            job = self.learners[slot].job
            self.on_fail(
                job.key,
                RunFailed(
                    f"loss is not finite at step {self.learners[slot].step + 1}; lower lr ({job.optimizer.lr})"
                ),
            )
        self._drop(bad)
        lr = {slot: one.course.lr(one.step) for slot, one in self.learners.items()}
        norms = self.optimizer.step(
            lr=lr,
            decay={slot: one.job.optimizer.weight_decay for slot, one in self.learners.items()},
            clip={slot: one.job.optimizer.clip or math.inf for slot, one in self.learners.items()},
        )
        rows = tokens = 0
        for slot, one in self.learners.items():
            one.step += 1
            real = int(one.feed.lengths[one.chosen].sum())
            one.tokens, one.supervised = one.tokens + real, one.supervised + int(one.counts.sum())
            rows, tokens = rows + len(one.chosen), tokens + real
            one.course.observe(one.step, losses[slot], one.chosen, worst[slot])
            if one.course.may_be_memorised(one.step) and self._memorised(one):
                one.course.ended = "memorised"
            one.log.add(one.step, one.course.ended is not None, losses[slot], norms[slot], lr[slot])
            if one.step in one.wanted:
                one.kept[one.step] = self.bank.tensors(slot)
        self.on_step(rows, tokens)

    def _memorised(self, learner: Learner) -> bool:
        """Whether a module has nothing left to learn; where memory does not hold the check, it trains on."""
        rows = 64
        while rows:
            try:
                return memorised(self.base, self.bank, learner.slot, learner.feed, rows=rows)
            except Exception as error:
                if not out_of_memory(error):
                    raise
            rows //= 2
        self.on_note(
            f"module {learner.job.key[:12]}: no memory to check whether it has memorised all; it trains on"
        )
        return False

    def _draw(self, learner: Learner, chosen: Tensor) -> None:
        """Set a learner's examples, and what the teacher makes of them."""
        learner.chosen = chosen
        objective = learner.job.objective
        if learner.states is not None:
            learner.told = [learner.states.of(chosen, learner.counts)]
        elif objective.name == "dcd":
            examples = [learner.job.teacher[index] for index in chosen.tolist()]
            learner.told = online(self.base, examples, learner.counts.tolist())
            learner.teacher_tokens += sum(len(one.ids) for one in examples)

    def _gradients(self) -> tuple[dict[int, Tensor], dict[int, Tensor]] | None:
        """Loss and worst tokens of every learner, its gradient in the bank; None where it must be tried again."""
        losses: dict[int, Tensor] = {}
        worst: dict[int, list[Tensor]] = defaultdict(list)
        inside: Sequence[Part] = ()
        try:
            for inside, again in self.planner.passes(self.learners, self.bank):
                with recomputed(self.base.model, again), tf32(inside[0].learner.job.optimizer.compute):
                    found_P, worst_B = part_losses(self.base, self.bank, inside)
                row = 0
                for part, loss in zip(inside, found_P, strict=True):
                    slot = part.learner.slot
                    losses[slot] = losses[slot] + loss if slot in losses else loss
                    worst[slot].append(worst_B[row : row + part.stop - part.start])
                    row += part.stop - part.start
            return losses, {slot: torch.cat(found) for slot, found in worst.items()}
        except Exception as error:  # what to do depends on what it was
            reason: Exception = error.with_traceback(None)  # its frames hold the tensors that did not fit
        for bucket in self.bank.learning:
            bucket.grad_NP.zero_()
        if out_of_memory(reason):
            tried = sum(part.stop - part.start for part in inside)
            if self.planner.halve(tried):
                self.on_note(
                    f"out of memory with {tried} rows at once; going on with {self.planner.most_rows} at a time"
                )
                if self.base.device.type == "cuda":
                    torch.cuda.empty_cache()
                return None
            reason = RunFailed(ONE_ROW)
        slots = list(dict.fromkeys(part.learner.slot for part in inside)) or list(self.learners)
        for slot in slots:
            self.on_fail(self.learners[slot].job.key, reason)
        self._drop(slots)
        return None


@contextmanager
def tf32(compute: str) -> Iterator[None]:
    """Within the block, fp32 products on an accelerator are rounded to tf32 where `compute` says so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if compute == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
