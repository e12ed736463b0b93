"""One pass: rows of several modules go through the base together, and each module gets its own loss and gradient."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramem.base.forward import hidden_states
from loramem.base.model import Base
from loramem.core.identity import seed_from
from loramem.modules.bank import Bank
from loramem.modules.runs import Block
from loramem.modules.spec import Objective
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.job import TrainJob
from loramem.training.log import Log
from loramem.training.objectives import HALF, relative_l1, token_losses
from loramem.training.teacher import States


@dataclass
class Learner:
    """A module in its slot, and everything about it that changes while it learns."""

    job: TrainJob
    slot: int
    feed: Feed
    course: Course
    log: Log
    wanted: set[int]
    states: States | None
    teacher_tokens: int
    began: float
    beside: dict[str, int] = field(default_factory=dict)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    step: int = 0
    tokens: int = 0
    supervised: int = 0
    chosen: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    told: list[Tensor] = field(default_factory=list)
    """The teacher's states for the step's examples: one tensor per compared layer."""

    @property
    def counts(self) -> Tensor:
        """Learnt tokens of each of the step's examples."""
        return self.feed.supervised[self.chosen]

    def company(self) -> tuple[int, ...]:
        """Slots of the distractor that is on in this step, if one is."""
        if not self.beside or self.job.distractors is None:
            return ()
        rng = random.Random(seed_from("distractor", self.job.seed, self.step))
        if rng.random() >= self.job.distractors.probability:
            return ()
        return (self.beside[rng.choice(self.job.distractors.modules)],)


@dataclass(frozen=True)
class Part:
    """Rows `start:stop` of a learner's batch, within one pass."""

    learner: Learner
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """Learnt tokens."""
        return int(self.learner.counts[self.start : self.stop].sum())

    def told(self) -> list[Tensor]:
        """The teacher's states for these rows, layer by layer; none without a teacher."""
        counts = self.learner.counts
        first, last = int(counts[: self.start].sum()), int(counts[: self.stop].sum())
        return [layer[first:last] for layer in self.learner.told]

    def block(self) -> Block:
        job, learner = self.learner.job, self.learner
        return Block(
            learner.slot, self.stop - self.start, beside=learner.company(), dropout=job.spec.dropout, seed=job.seed,
            step=learner.step, first=self.start, total=max(job.optimizer.batch, self.stop),
        )  # fmt: skip


def part_losses(base: Base, bank: Bank, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """What each part adds to its module's loss, `[parts]`, and each row's worst token in nats, `[rows]`.

    One forward pass over all rows, and its backward pass: gradients are in the bank afterwards.
    """
    ids_BT = torch.cat([p.learner.feed.ids_ET[p.learner.chosen[p.start : p.stop]] for p in parts])
    learn_BT = torch.cat([p.learner.feed.learn_ET[p.learner.chosen[p.start : p.stop]] for p in parts])
    before_BT = torch.nn.functional.pad(learn_BT[:, 1:], (0, 1))
    deep = any(p.learner.job.objective.hidden == "all" for p in parts)
    losses: list[Tensor] = []
    nats: list[Tensor] = []
    with bank.active([part.block() for part in parts]):
        states = hidden_states(base.model, ids_BT, before_BT, all_layers=deep)
        wanted_N = ids_BT[learn_BT]
        first = 0
        for _, group in itertools.groupby(parts, key=lambda part: part.learner.job.objective):
            own = list(group)  # consecutive parts of one objective share one head
            rows = slice(first, first := first + sum(part.tokens for part in own))
            found, nats_N = _group_losses(base, own, [layer[rows] for layer in states], wanted_N[rows])
            losses += found
            nats.append(nats_N)
        losses_P = torch.stack(losses)
        losses_P.sum().backward()  # within `active`: a layer that is recomputed needs its modules
    nats_N = torch.cat(nats)
    nats_BT = torch.zeros(ids_BT.shape, dtype=nats_N.dtype, device=ids_BT.device)
    return losses_P.detach(), nats_BT.masked_scatter(learn_BT, nats_N).amax(1)


def _group_losses(
    base: Base, parts: Sequence[Part], states: Sequence[Tensor], wanted_N: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The loss of each part, and the cross-entropy of each token (nats, no gradient); `states` layer by layer."""
    objective = parts[0].learner.job.objective
    told = [torch.cat(layer) for layer in zip(*(part.told() for part in parts), strict=True)]
    values_N, nats_N = token_losses(base.model, objective, states[-1], wanted_N, told[-1] if told else None)
    losses = []
    start = 0
    for part in parts:
        rows = slice(start, start := start + part.tokens)
        loss = values_N[rows].sum() / int(part.learner.counts.sum())
        if told and objective.l1_weight:
            layers = zip(states[-len(told) :], told, part.learner.told, strict=True)
            apart = [relative_l1(mine[rows], other[rows], whole) for mine, other, whole in layers]
            loss = loss + objective.l1_weight * torch.stack(apart).mean()
        losses.append(loss)
    return losses, nats_N


@torch.inference_mode()
def memorised(base: Base, bank: Bank, slot: int, feed: Feed, *, rows: int = 64) -> bool:
    """Whether every learnt token of every example of `slot` has p > 0.5 at the weights as they are."""
    for start in range(0, feed.count, rows):
        ids_BT, learn_BT = feed.ids_ET[start : start + rows], feed.learn_ET[start : start + rows]
        with bank.active([Block(slot, len(ids_BT))]):
            before_BT = torch.nn.functional.pad(learn_BT[:, 1:], (0, 1))
            states_NH = hidden_states(base.model, ids_BT, before_BT)[0]
            _, nats_N = token_losses(base.model, Objective(), states_NH, ids_BT[learn_BT])
        if not bool((nats_N < HALF).all()):
            return False
    return True
