"""AdamW over a bank: torch's own fused kernel, one call per module, so that each has its rate, decay and clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from loramem.modules.bank import Bank

BETAS = (0.9, 0.999)
EPS = 1e-8


def clip_by_module(grad_NP: Tensor, limit_N: Tensor) -> Tensor:
    """Scale each row of `grad_NP` to an L2 norm of at most `limit_N` (inf: never), in place; returns the norms `[n]`.

    The same rule as `torch.nn.utils.clip_grad_norm_` (which adds 1e-6 to the norm), row by row.
    """
    norm_N = torch.linalg.vector_norm(grad_NP, dim=1)
    grad_NP.mul_((limit_N / (norm_N + 1e-6)).clamp(max=1.0)[:, None])
    return norm_N


class _Moments:
    """First and second moment and step count of one module, flat over all its parameters."""

    def __init__(self, weight_P: Tensor):
        self.mean_P = torch.zeros_like(weight_P)
        self.square_P = torch.zeros_like(weight_P)
        self.steps = torch.zeros((), dtype=torch.float32, device=weight_P.device)


class BankedAdamW:
    """AdamW (Loshchilov & Hutter 2019) for every learning module of a bank.

    A module's moments are its own tensors, made at its first step and gone when it leaves, so that a place of the bank
    that is used again begins clean.
    """

    def __init__(self, bank: Bank):
        self.bank = bank
        self.moments: dict[int, _Moments] = {}

    @torch.no_grad()
    def step(
        self, *, lr: dict[int, float], decay: dict[int, float], clip: dict[int, float]
    ) -> dict[int, Tensor]:
        """Clip and update every module that is given a rate; gradients of all are zeroed.

        Args:
            lr, decay, clip: Per slot; `clip` inf for none.

        Returns:
            Per slot the gradient norm before clipping (0-dim tensors, not yet moved to the CPU).
        """
        self.moments = {slot: own for slot, own in self.moments.items() if slot in self.bank.bucket_of}
        norms: dict[int, Tensor] = {}
        for bucket in self.bank.learning:
            limit_N = torch.tensor([clip.get(slot, math.inf) for slot in bucket.slots], device=bucket.device)
            norm_N = clip_by_module(bucket.grad_NP, limit_N)
            for position, slot in enumerate(bucket.slots):
                if slot not in lr:
                    continue
                own = self.moments.get(slot)
                if own is None:
                    own = self.moments[slot] = _Moments(bucket.flat_NP[position])
                adamw(
                    [bucket.flat_NP[position]], [bucket.grad_NP[position]], [own.mean_P], [own.square_P], [], [own.steps],
                    fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=lr[slot], weight_decay=decay[slot], eps=EPS,
                    maximize=False,
                )  # fmt: skip
                norms[slot] = norm_N[position]
            bucket.grad_NP.zero_()
        return norms
