"""AdamW over a bank: every module has its own rate, decay, step count and clipping, in a few tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from loramem.modules.bank import Bank, Bucket


def clip_by_module(grad_NP: Tensor, limit_N: Tensor) -> Tensor:
    """Scale each row of `grad_NP` to an L2 norm of at most `limit_N` (inf: never), in place; returns the norms `[n]`.

    The same rule as `torch.nn.utils.clip_grad_norm_` (which adds 1e-6 to the norm), row by row.
    """
    norm_N = torch.linalg.vector_norm(grad_NP, dim=1)
    grad_NP.mul_((limit_N / (norm_N + 1e-6)).clamp(max=1.0)[:, None])
    return norm_N


def adamw_(
    weight_NP: Tensor, grad_NP: Tensor, mean_NP: Tensor, square_NP: Tensor, *, step: int, lr_N: Tensor, decay_N: Tensor,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
) -> None:  # fmt: skip
    """One step of AdamW (Loshchilov & Hutter 2019; as torch.optim.AdamW) in place, row i with rate `lr_N[i]`.

    Args:
        weight_NP, grad_NP, mean_NP, square_NP: fp32 `[n, P]`.
        step: From 1; all rows of a pack start together.
        lr_N, decay_N: fp32 `[n]`.
    """
    weight_NP.mul_((1 - lr_N * decay_N)[:, None])
    mean_NP.lerp_(grad_NP, 1 - betas[0])
    square_NP.mul_(betas[1]).addcmul_(grad_NP, grad_NP, value=1 - betas[1])
    root_NP = (square_NP.sqrt() / (1 - betas[1] ** step) ** 0.5).add_(eps)
    weight_NP.sub_((mean_NP / root_NP).mul_((lr_N / (1 - betas[0] ** step))[:, None]))


class BankedAdamW:
    """The moments of a bank's modules, kept bucket by bucket."""

    def __init__(self, bank: Bank):
        self.bank = bank
        self.moments = [
            (torch.zeros_like(bucket.flat_NP), torch.zeros_like(bucket.flat_NP)) for bucket in bank.buckets
        ]

    def keep(self, positions: list[Tensor]) -> None:
        """Follow `Bank.keep`: slice the moments of the remaining modules, drop the others."""
        kept = []
        for (mean, square), index in zip(self.moments, positions, strict=True):
            if len(index):
                kept.append(
                    (mean, square)
                    if len(index) == len(mean)
                    else (mean[index].clone(), square[index].clone())
                )
        self.moments = kept

    @torch.no_grad()
    def step(
        self, number: int, *, lr: dict[int, float], decay: dict[int, float], clip: dict[int, float]
    ) -> dict[int, Tensor]:
        """Clip and update every module; gradients are zeroed.

        Args:
            number: Step from 1.
            lr, decay, clip: Per slot; `clip` inf for none.

        Returns:
            Per slot the gradient norm before clipping (0-dim tensors, not yet moved to the CPU).
        """
        norms: dict[int, Tensor] = {}
        for bucket, (mean, square) in zip(self.bank.buckets, self.moments, strict=True):
            norm_N = clip_by_module(bucket.grad_NP, self._vector(bucket, clip))
            adamw_(
                bucket.flat_NP,
                bucket.grad_NP,
                mean,
                square,
                step=number,
                lr_N=self._vector(bucket, lr),
                decay_N=self._vector(bucket, decay),
            )
            bucket.grad_NP.zero_()
            norms.update(zip(bucket.slots, norm_N, strict=True))
        return norms

    def _vector(self, bucket: Bucket, values: dict[int, float]) -> Tensor:
        return torch.tensor([values[slot] for slot in bucket.slots], device=bucket.flat_NP.device)
