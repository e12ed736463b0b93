"""The training log of one module."""

from __future__ import annotations

import torch
from torch import Tensor

LOGGED = 50


class Log:
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
