"""The course of one module: its rate at every step, and when it ends (steps done, plateau, memorised)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from loramem.modules.spec import Budget, Optimizer
from loramem.training.objectives import HALF
from loramem.training.schedule import factor

Ended = Literal["steps", "plateau", "limit", "memorised"]


class Course:
    """Steps, rate and end of one module; it sees that module's own losses only.

    Args:
        budget, optimizer: Of the module.
        steps: Optimiser steps at most (`Budget.steps_for`).
        examples: Number of its examples.

    Attributes:
        last: Step at which it ends as things stand.
        ended: Why it ended; None while it runs. `limit`: a plateau was looked for and not found in time.
    """

    def __init__(self, budget: Budget | None, optimizer: Optimizer, *, steps: int, examples: int):
        self.optimizer, self.examples, self.steps = optimizer, examples, steps
        self.plateau = budget.plateau if budget else None
        self.watch = bool(budget and budget.stop_when_memorised)
        self.last = steps
        self.ended: Ended | None = None
        self.worst_E: Tensor | None = None
        self.per_epoch = max(1, -(-examples // optimizer.batch))
        if self.plateau:
            self.cool_from: int | None = None
            self.found = False
            self.search = max(1, -(-int(self.plateau.max_exposures * examples) // optimizer.batch))
            self.window = max(1, round(self.plateau.window * examples / optimizer.batch))
            self.losses: list[Tensor] = []
            self.best = math.inf
            self.flat = 0

    def lr(self, step: int) -> float:
        """Rate of optimiser step `step` (from 0)."""
        peak, schedule, warmup = self.optimizer.lr, self.optimizer.schedule, self.optimizer.warmup
        if self.plateau is None:
            return peak * factor(schedule, step, steps=self.steps, warmup=warmup)
        if self.cool_from is None or step < self.cool_from:
            # warm-up is a share of the shortest search there can be: one window for each of `patience` + 1
            return peak * factor(
                "constant", step, steps=self.window * (self.plateau.patience + 1), warmup=warmup
            )
        return peak * factor(schedule, step - self.cool_from, steps=self.last - self.cool_from, warmup=0.0)

    def observe(self, step: int, loss: Tensor, chosen_B: Tensor, worst_B: Tensor) -> None:
        """Take in step `step` (from 1): its loss, and for each example the largest loss of a token of it."""
        if self.watch:
            if self.worst_E is None:
                self.worst_E = torch.full((self.examples,), math.inf, device=worst_B.device)
            self.worst_E[chosen_B.to(worst_B.device)] = worst_B
        if self.plateau is not None and self.cool_from is None:
            self._look(step, loss)
        if step == self.last and self.ended is None:
            self.ended = "steps" if self.plateau is None else "plateau" if self.found else "limit"

    def _look(self, step: int, loss: Tensor) -> None:
        assert self.plateau is not None
        self.losses.append(loss)
        if len(self.losses) == self.window:
            mean = float(torch.stack(self.losses).mean())
            self.losses = []
            fell = mean < self.best * (1 - self.plateau.min_fall)
            self.flat = 0 if fell else self.flat + 1
            self.best = min(self.best, mean)
            self.found = self.flat >= self.plateau.patience
        if self.found or step >= self.search:
            self.cool_from = step
            self.last = step + int(self.plateau.cooldown * step)

    def may_be_memorised(self, step: int) -> bool:
        """Whether a checking pass is worth its cost: at the end of an epoch, all examples were right when last seen."""
        if not self.watch or self.ended is not None or self.worst_E is None or step % self.per_epoch:
            return False
        return bool((self.worst_E < HALF).all())
