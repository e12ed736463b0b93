"""The one training loop: a pack of modules learns at once on one frozen base, each as if it were alone.

Exactness: the loss of a module is the mean over its own tokens, the pack's loss their sum; order of
examples, dropout, schedule, clipping and AdamW are each module's own. Padded length comes from the
recipe. So neighbours never change a module, and a module equals a solo run (tests/training).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.base.prompts import Encoded
from loramem.core.errors import InputError, RunFailed
from loramem.core.identity import seed_from
from loramem.inference.head import only_at
from loramem.modules.bank import Bank
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer
from loramem.training.course import HALF, Course
from loramem.training.optimizer import BankedAdamW

# Leaves and gradients are views of one flat buffer on purpose; torch only remarks on their strides.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

BUCKET = 8
LOGGED = 50


@dataclass(frozen=True)
class TrainJob:
    """One module to be trained: everything `train_pack` needs and nothing of its neighbours.

    Attributes:
        key: Names the result, e.g. the module's id.
        steps: Optimiser steps, at most.
        seed: Of initialisation, order and dropout.
        examples: Token ids; an example longer than `length` is cut and counted.
        length: Padded length in tokens, from the recipe (`bucket_length`).
        budget: Where given, its plateau, early stop and snapshots apply; `steps` alone decides otherwise.
    """

    key: str
    spec: LoraSpec
    objective: Objective
    optimizer: Optimizer
    steps: int
    seed: int
    examples: tuple[Encoded, ...]
    length: int
    budget: Budget | None = None


@dataclass
class Trained:
    """A finished module.

    Attributes:
        tensors: PEFT-named fp32 weights.
        log: Rows of step, loss (mean nats per supervised token since the row before), lr, grad_norm (L2,
            before clipping).
        final_loss: Mean loss over the last tenth of the steps.
        steps: Optimiser steps taken.
        ended: Why it ended: `steps` (all done), `plateau`, `limit` (no plateau found in time), `memorised`.
        tokens, supervised_tokens: Trained on, padding not counted.
        truncated_tokens: Tokens per epoch that were cut away.
        seconds: Wall seconds of the pack until this module was done, shared by its members.
    """

    key: str
    tensors: dict[str, Tensor]
    log: list[dict]
    final_loss: float
    tokens: int
    supervised_tokens: int
    truncated_tokens: int
    seconds: float
    steps: int = 0
    ended: str = "steps"
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """Step -> weights, held in memory until the module is saved."""


def bucket_length(examples: Sequence[Encoded], limit: int) -> int:
    """Padded length of a recipe: its longest example, rounded up to a multiple of 8, at most `limit`.

    Raises:
        InputError: no example, or an example whose answer begins beyond `limit`.
    """
    if not examples:
        raise InputError("no training examples")
    if (
        min(len(example.ids) for example in examples) < 2
        or max(example.answer_start for example in examples) >= limit
    ):
        raise InputError(f"a training example has no answer within the base's context of {limit} tokens")
    return min(limit, -(-max(len(example.ids) for example in examples) // BUCKET) * BUCKET)


class _Data:
    """Padded tensors of one job and its own seeded order of examples."""

    def __init__(self, job: TrainJob, pad_id: int, device: torch.device):
        count = len(job.examples)
        ids_ET = torch.full((count, job.length), pad_id, dtype=torch.long)
        mask_ET = torch.zeros(count, job.length, dtype=torch.long)
        learn_ET = torch.zeros(count, job.length, dtype=torch.bool)
        self.truncated = 0
        for row, example in enumerate(job.examples):
            ids = example.ids[: job.length]
            self.truncated += len(example.ids) - len(ids)
            ids_ET[row, : len(ids)] = torch.tensor(ids)
            mask_ET[row, : len(ids)] = 1
            # masked by position, never by token id: the end of turn is learnt even where it is the pad token
            learn_ET[row, (example.answer_start if job.objective.loss_on == "answer" else 1) : len(ids)] = (
                True
            )
        self.ids_ET, self.mask_ET, self.learn_ET = (
            tensor.to(device) for tensor in (ids_ET, mask_ET, learn_ET)
        )
        self.lengths = mask_ET.sum(1)
        self.supervised = learn_ET.sum(1)
        self.count, self.seed, self.batch = count, job.seed, job.optimizer.batch
        self.order: list[int] = []
        self.epoch = 0

    def next(self) -> Tensor:
        """Indices `[batch]` of the next examples; epochs follow each other, so all are seen equally often."""
        while len(self.order) < self.batch:
            generator = torch.Generator().manual_seed(seed_from("order", self.seed, self.epoch))
            self.order += torch.randperm(self.count, generator=generator).tolist()
            self.epoch += 1
        chosen, self.order = self.order[: self.batch], self.order[self.batch :]
        return torch.tensor(chosen)


class _Log:
    """Loss and gradient norm of one module, reduced to about 50 rows, moved to the CPU only then."""

    def __init__(self, steps: int):
        self.every = max(1, steps // LOGGED)
        self.rows: list[dict] = []
        self.losses: list[Tensor] = []
        self.window: list[Tensor] = []

    def add(self, step: int, last: bool, loss: Tensor, norm: Tensor, lr: float) -> None:
        self.window.append(loss)
        self.losses.append(loss)
        if step == 1 or last or step % self.every == 0:
            mean = float(torch.stack(self.window).mean())
            self.rows.append({"step": step, "loss": mean, "lr": lr, "grad_norm": float(norm)})
            self.window = []

    def final(self) -> float:
        return float(torch.stack(self.losses[-max(1, len(self.losses) // 10) :]).mean())


def module_losses(base: Base, ids_BT: Tensor, learn_BT: Tensor, modules: int) -> tuple[Tensor, Tensor]:
    """Mean next-token cross-entropy (nats) of each module's rows, `[modules]`, and each row's worst token, `[modules * rows]`.

    Args:
        ids_BT: int64 `[modules * rows, T]`, module-major, padded on the right.
        learn_BT: bool; True where the token is learnt (never at the first). Logits are built only before those.
    """
    wanted_BT = torch.nn.functional.pad(learn_BT[:, 1:], (0, 1))
    with only_at(base.model.get_output_embeddings(), wanted_BT):
        # Padding stands on the right, where a causal model never looks back from: no mask is needed, and
        # attention without one is faster.
        logits_1NV = base.model(input_ids=ids_BT, use_cache=False).logits
    logits_NV = logits_1NV[0].to(torch.promote_types(logits_1NV.dtype, torch.float32))
    nats_N = torch.nn.functional.cross_entropy(logits_NV, ids_BT[learn_BT], reduction="none")
    nats_BT = torch.zeros(ids_BT.shape, dtype=nats_N.dtype, device=ids_BT.device).masked_scatter(
        learn_BT, nats_N
    )
    nats_M = nats_BT.view(modules, -1).sum(1)
    return nats_M / learn_BT.view(modules, -1).sum(1), nats_BT.detach().amax(1)


@torch.inference_mode()
def memorised(base: Base, bank: Bank, slot: int, feed: _Data) -> bool:
    """Whether every learnt token of every example of `slot` has p > 0.5 at the weights as they are."""
    rows = max(feed.batch, 64)
    for start in range(0, feed.count, rows):
        part = slice(start, min(start + rows, feed.count))
        with bank.active([slot], rows=part.stop - part.start):
            _, worst_B = module_losses(base, feed.ids_ET[part], feed.learn_ET[part], 1)
        if not bool((worst_B < HALF).all()):
            return False
    return True


def train_pack(
    base: Base,
    jobs: Sequence[TrainJob],
    *,
    on_finish: Callable[[Trained], None],
    on_fail: Callable[[str, Exception], None],
    on_step: Callable[[int, int], None] = lambda rows, tokens: None,
) -> None:
    """Train `jobs` together; each is handed to `on_finish` the moment its steps are done and leaves the pack.

    A module whose loss is not finite is handed to `on_fail` and leaves; the others go on unchanged.

    Args:
        jobs: Of equal length and batch (`packing.plan_packs` sees to that).
        on_step: Called after each step with the rows and real tokens of it.
    """
    assert len({(job.length, job.optimizer.batch) for job in jobs}) == 1, "a pack shares length and batch"
    began = time.perf_counter()
    rows = jobs[0].optimizer.batch
    bank = Bank(base.model, [job.spec for job in jobs], seeds=[job.seed for job in jobs])
    try:
        optimizer = BankedAdamW(bank)
        feeds = {slot: _Data(job, base.prompts.pad_id, base.device) for slot, job in enumerate(jobs)}
        logs = {slot: _Log(job.steps) for slot, job in enumerate(jobs)}
        courses = {
            slot: Course(job.budget, job.optimizer, steps=job.steps, examples=len(job.examples))
            for slot, job in enumerate(jobs)
        }
        wanted = {slot: set(job.budget.snapshots if job.budget else ()) for slot, job in enumerate(jobs)}
        kept: dict[int, dict[int, dict[str, Tensor]]] = {
            slot: {0: bank.tensors(slot)} if 0 in wanted[slot] else {} for slot in feeds
        }
        seen = {slot: [0, 0] for slot in feeds}
        decay = {slot: job.optimizer.weight_decay for slot, job in enumerate(jobs)}
        clip = {slot: job.optimizer.clip or math.inf for slot, job in enumerate(jobs)}
        dropout = {slot: (job.spec.dropout, job.seed) for slot, job in enumerate(jobs) if job.spec.dropout}
        step = 0
        while bank.buckets:
            order = bank.training_order()
            batches = []
            chosen_by = {}
            tokens = 0
            for slot in order:
                feed = feeds[slot]
                chosen = chosen_by[slot] = feed.next()
                batches.append((feed.ids_ET[chosen], feed.learn_ET[chosen]))
                real = int(feed.lengths[chosen].sum())
                seen[slot][0] += real
                seen[slot][1] += int(feed.supervised[chosen].sum())
                tokens += real
            ids_BT, learn_BT = (torch.cat(parts) for parts in zip(*batches, strict=True))
            with bank.active(order, rows=rows, dropout=dropout, step=step):
                losses_M, worst_B = module_losses(base, ids_BT, learn_BT, len(order))
                losses_M.sum().backward()
            finite = losses_M.detach().isfinite()
            if not bool(finite.all()):
                bad = [slot for slot, fine in zip(order, finite.tolist(), strict=True) if not fine]
                for slot in bad:
                    on_fail(
                        jobs[slot].key,
                        RunFailed(
                            f"loss is not finite at step {step + 1}; lower lr ({jobs[slot].optimizer.lr})"
                        ),
                    )
                bank.keep([slot for slot in order if slot not in bad])
                optimizer.keep()
                for slot in order:  # the step is repeated without them, on the same examples
                    feeds[slot].order = chosen_by[slot].tolist() + feeds[slot].order
                for bucket in bank.buckets:
                    bucket.grad_NP.zero_()
                continue
            step += 1
            lr = {slot: courses[slot].lr(step - 1) for slot in order}
            norms = optimizer.step(lr=lr, decay=decay, clip=clip)
            worst_MR = worst_B.view(len(order), rows)
            for place, (slot, loss) in enumerate(zip(order, losses_M.detach(), strict=True)):
                course = courses[slot]
                course.observe(step, loss, chosen_by[slot], worst_MR[place])
                if course.may_be_memorised(step) and memorised(base, bank, slot, feeds[slot]):
                    course.ended = "memorised"
                logs[slot].add(step, course.ended is not None, loss, norms[slot], lr[slot])
                if step in wanted[slot]:
                    kept[slot][step] = bank.tensors(slot)
            on_step(rows * len(order), tokens)
            done = [slot for slot in order if courses[slot].ended is not None]
            for slot in done:
                for later in (at for at in wanted[slot] if at > step):  # training is over: it stays as it is
                    kept[slot][later] = bank.tensors(slot)
                on_finish(
                    Trained(
                        jobs[slot].key, bank.tensors(slot), logs[slot].rows, logs[slot].final(), seen[slot][0],
                        seen[slot][1], feeds[slot].truncated, time.perf_counter() - began, step,
                        str(courses[slot].ended), kept.pop(slot),
                    )
                )  # fmt: skip
            if done:
                bank.keep([slot for slot in order if slot not in done])
                optimizer.keep()
    finally:
        bank.detach()
