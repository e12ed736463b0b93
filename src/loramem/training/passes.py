"""One pass: rows of several modules go through the base together, and each module gets its own loss and gradient."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramem.base.forward import hidden_states
from loramem.base.model import Base
from loramem.core.identity import seed_from
from loramem.modules.bank import Bank
from loramem.modules.layer import Block
from loramem.modules.spec import Objective
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.job import TrainJob
from loramem.training.log import Log
from loramem.training.objectives import HALF, token_losses
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

    def block(self) -> Block:
        job, learner = self.learner.job, self.learner
        return Block(
            learner.slot, self.stop - self.start, beside=learner.company(), dropout=job.spec.dropout, seed=job.seed,
            step=learner.step, first=self.start, total=job.optimizer.batch,
        )  # fmt: skip


def part_losses(
    base: Base, bank: Bank, parts: Sequence[Part], *, backward: bool = True
) -> tuple[Tensor, Tensor]:
    """What each part adds to its module's loss, `[parts]`, and each row's worst token in nats, `[rows]`.

    One forward pass over all rows; logits are built only before the tokens that are learnt.
    """
    ids_BT = torch.cat([p.learner.feed.ids_ET[p.learner.chosen[p.start : p.stop]] for p in parts])
    learn_BT = torch.cat([p.learner.feed.learn_ET[p.learner.chosen[p.start : p.stop]] for p in parts])
    counts = [int(p.learner.counts[p.start : p.stop].sum()) for p in parts]
    deep = any(p.learner.job.objective.hidden == "all" for p in parts)
    with bank.active([part.block() for part in parts]):
        states = hidden_states(
            base.model, ids_BT, torch.nn.functional.pad(learn_BT[:, 1:], (0, 1)), all_layers=deep
        )
        wanted_N = ids_BT[learn_BT]
        losses: list[Tensor] = []
        nats: list[Tensor] = []
        first = done = 0
        while done < len(parts):  # consecutive parts of one objective share one head
            objective = parts[done].learner.job.objective
            last = done + 1
            while last < len(parts) and parts[last].learner.job.objective == objective:
                last += 1
            size = sum(counts[done:last])
            own = [layer[first : first + size] for layer in states]
            told = None
            if objective.name == "dcd":
                told = [
                    torch.cat([_told(p)[layer] for p in parts[done:last]])
                    for layer in range(len(parts[done].learner.told))
                ]
            values_N, nats_N = token_losses(
                base.model,
                objective,
                own[-1],
                wanted_N[first : first + size],
                None if told is None else told[-1],
            )
            nats.append(nats_N)
            start = 0
            for part, count in zip(parts[done:last], counts[done:last], strict=True):
                loss = values_N[start : start + count].sum() / int(part.learner.counts.sum())
                if told is not None and objective.l1_weight:
                    pairs = list(zip(own[-len(told) :], told, part.learner.told, strict=True))
                    apart = [
                        (mine[start : start + count] - other[start : start + count])
                        .abs()
                        .sum(dtype=loss.dtype)
                        / whole.abs().sum(dtype=loss.dtype)
                        for mine, other, whole in pairs
                    ]
                    loss = loss + objective.l1_weight * torch.stack(apart).mean()
                losses.append(loss)
                start += count
            first, done = first + size, last
        found_P = torch.stack(losses)
        if backward:
            found_P.sum().backward()  # within `active`: a layer that is recomputed needs its modules
    nats_N = torch.cat(nats)
    nats_BT = torch.zeros(ids_BT.shape, dtype=nats_N.dtype, device=ids_BT.device).masked_scatter(
        learn_BT, nats_N
    )
    return found_P.detach() if backward else found_P, nats_BT.amax(1)


def _told(part: Part) -> list[Tensor]:
    """The teacher's states for a part's rows."""
    counts = part.learner.counts
    first, last = int(counts[: part.start].sum()), int(counts[: part.stop].sum())
    return [layer[first:last] for layer in part.learner.told]


@torch.inference_mode()
def memorised(base: Base, bank: Bank, slot: int, feed: Feed) -> bool:
    """Whether every learnt token of every example of `slot` has p > 0.5 at the weights as they are."""
    rows = max(feed.batch, 64)
    for start in range(0, feed.count, rows):
        ids_BT, learn_BT = feed.ids_ET[start : start + rows], feed.learn_ET[start : start + rows]
        with bank.active([Block(slot, len(ids_BT))]):
            before_BT = torch.nn.functional.pad(learn_BT[:, 1:], (0, 1))
            states_NH = hidden_states(base.model, ids_BT, before_BT)[0]
            _, nats_N = token_losses(base.model, Objective(), states_NH, ids_BT[learn_BT])
        if not bool((nats_N < HALF).all()):
            return False
    return True
