"""Objectives as functions of hidden states and targets; each learnt token has its own value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from loramem.base.forward import logits_of, row_wise
from loramem.modules.spec import Objective

HALF = math.log(2.0)
"""-ln 0.5 in nats: a token with a smaller loss has p > 0.5 and is therefore the arg max."""


def kl_divergence(teacher_NV: Tensor, student_NV: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of each row over the whole vocabulary, `[N]` nats, both at `temperature`."""
    told_NV = torch.log_softmax(teacher_NV / temperature, -1)
    own_NV = torch.log_softmax(student_NV / temperature, -1)
    return (told_NV.exp() * (told_NV - own_NV)).sum(-1)


def relative_l1(student_NH: Tensor, teacher_NH: Tensor, whole_MH: Tensor) -> Tensor:
    """L1 distance of hidden states over the L1 norm of the teacher's in the module's whole batch (0-dim, fp32 or better).

    With all of the batch in one pass this is the mean distance over the teacher's mean magnitude (arXiv 2503.08727).
    """
    dtype = torch.promote_types(student_NH.dtype, torch.float32)
    return (student_NH.to(dtype) - teacher_NH.to(dtype)).abs().sum() / whole_MH.abs().sum(dtype=dtype)


def token_losses(
    model: Any,
    objective: Objective,
    hidden_NH: Tensor,
    wanted_N: Tensor,
    teacher_NH: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per learnt token: what the objective takes from logits, and its cross-entropy in nats (no gradient).

    Args:
        hidden_NH: What the head reads before each token.
        wanted_N: int64, the tokens.
        teacher_NH: The teacher's, for `dcd`.

    Returns:
        Two `[N]` tensors; the first carries the gradient to `hidden_NH`. Without a `kl_weight` it is zero.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    nats: dict[int, Tensor] = {}

    def ntp(own_nH: Tensor, start: int) -> Tensor:
        nats_n = cross_entropy(
            logits_of(model, own_nH), wanted_N[start : start + len(own_nH)], reduction="none"
        )
        nats[start] = nats_n.detach()
        if not objective.skip_known:
            return nats_n
        return torch.where(nats_n < HALF, nats_n.detach(), nats_n)

    def dcd(own_nH: Tensor, start: int) -> Tensor:
        assert teacher_NH is not None
        own_nV = logits_of(model, own_nH)
        wanted_n = wanted_N[start : start + len(own_nH)]
        nats[start] = cross_entropy(own_nV.detach(), wanted_n, reduction="none")
        if not objective.kl_weight:
            return own_nV[:, 0] * 0.0
        with torch.no_grad():
            told_nV = logits_of(model, teacher_NH[start : start + len(own_nH)])
        kl_n = kl_divergence(told_nV, own_nV, objective.temperature)
        return objective.kl_weight * objective.temperature**2 * kl_n

    values_N = row_wise(ntp if objective.name == "ntp" else dcd, hidden_NH, vocabulary=vocabulary)
    return values_N, torch.cat([nats[start] for start in sorted(nats)])
