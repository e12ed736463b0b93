"""What PiSSA and DoRA need beyond plain LoRA, as functions of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loramem.core.errors import InputError


def weight_of(layer: nn.Module, name: str = "") -> Tensor:
    """The weight of a linear layer as `[out, in]`.

    Raises:
        InputError: a quantised layer, whose weight is not at hand as a matrix.
    """
    weight: Any = layer.weight
    if not weight.is_floating_point():
        raise InputError(
            f"layer {name}: its weight is quantised; PiSSA and DoRA need the weights themselves, so load the base in float32 or bfloat16"
        )
    return weight.T if isinstance(layer, Conv1D) else weight


def pissa_factors(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A `[in, rank]` and B `[rank, out]` whose scaled product is the best approximation of the weight of that rank.

    Meng et al. 2024, arXiv 2404.02948, equations 2 and 3; the singular values are shared by both factors.

    Raises:
        InputError: `rank` exceeds the weight's.
    """
    if rank > min(weight_OI.shape):
        raise InputError(
            f"variant pissa at rank {rank}: a weight of {tuple(weight_OI.shape)} has {min(weight_OI.shape)} singular directions"
        )
    dtype = torch.promote_types(weight_OI.dtype, torch.float32)
    u, s, vh = torch.linalg.svd(weight_OI.detach().to(dtype), full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return vh[:rank].T * root, root[:, None] * u[:, :rank].T


@torch.no_grad()
def dora_norms(weight_OI: Tensor, a_MIR: Tensor, b_MRO: Tensor, scale_M: Tensor) -> Tensor:
    """Row norms of W + scale B A for each of M modules, `[M, out]`, from Gram matrices: no `[out, in]` sum is built.

    Liu et al. 2024, arXiv 2402.09353, equation 5; held constant in the backward pass (their section 4.3).
    """
    dtype = torch.promote_types(a_MIR.dtype, torch.float32)
    w, a, b = weight_OI.detach().to(dtype), a_MIR.detach().to(dtype), b_MRO.detach().to(dtype)
    scale = scale_M.to(dtype)[:, None]
    crossed_MO = ((w @ a).transpose(1, 2) * b).sum(1)
    squared_MO = ((a.transpose(1, 2) @ a) @ b).mul_(b).sum(1)
    total_MO = w.square().sum(1) + 2 * scale * crossed_MO + scale.square() * squared_MO
    return total_MO.clamp(min=0).sqrt()
