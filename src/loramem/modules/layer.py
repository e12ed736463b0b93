"""A frozen linear layer with the bank's modules beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from loramem.modules.masks import dropped_share, kept_mask
from loramem.modules.runs import Run
from loramem.modules.variants import dora_norms, weight_of

if TYPE_CHECKING:
    from loramem.modules.bank import Bank


class BankedLinear(nn.Module):
    """A frozen linear layer and the buckets attached to it; computes as the layer alone when the bank is off."""

    bank: Bank

    def __init__(self, layer: nn.Module, name: str, bank: Bank):
        super().__init__()
        self.layer = layer
        self.name = name
        object.__setattr__(self, "bank", bank)  # not a submodule: the bank holds the model

    @property
    def weight(self) -> Any:
        return self.layer.weight

    def forward(self, x_BTI: Tensor) -> Tensor:
        base_BTO = self.layer(x_BTI)
        out_BTO = base_BTO
        for runs in self.bank.stacks:
            out_BTO = self._add(out_BTO, base_BTO, x_BTI, runs)
        return out_BTO

    def _add(self, out_BTO: Tensor, base_BTO: Tensor, x_BTI: Tensor, runs: list[Run]) -> Tensor:
        rows = self.bank.rows
        x_RTI = x_BTI.reshape(rows, -1, x_BTI.shape[-1])
        shape = (rows, x_RTI.shape[1], out_BTO.shape[-1])
        pieces = [self._update(run, x_RTI, base_BTO.view(shape)) for run in runs]
        if all(piece is None for piece in pieces):
            return out_BTO
        dtype = out_BTO.dtype
        if len(runs) == 1 and runs[0].stop - runs[0].start == rows:
            assert pieces[0] is not None
            return (out_BTO + pieces[0].view(out_BTO.shape)).to(dtype)
        parts = []
        out_RTO = out_BTO.view(shape)
        position = 0
        for run, piece in zip(runs, pieces, strict=True):
            if run.start > position:
                parts.append(out_RTO[position : run.start])
            own = out_RTO[run.start : run.stop]
            parts.append(own if piece is None else (own + piece.view(own.shape)).to(dtype))
            position = run.stop
        if position < rows:
            parts.append(out_RTO[position:])
        return torch.cat(parts).view(out_BTO.shape)

    def _update(self, run: Run, x_RTI: Tensor, base_RTO: Tensor) -> Tensor | None:
        """What the run's modules add to the layer's output: `[m, rows * T, out]`, or None where they have no part."""
        bucket = run.bucket
        if self.name not in bucket.a:
            return None
        count, compute = len(run.blocks), bucket.key.compute
        a_MIR, b_MRO = run.of(bucket.a[self.name]).to(compute), run.of(bucket.b[self.name]).to(compute)
        x_MNI = x_RTI[run.start : run.stop].reshape(count, -1, x_RTI.shape[-1]).to(compute)
        kept = self._masks(run, x_MNI, x_RTI.shape[1])
        scale = run.scale_M[:, None, None]
        if kept is not None:
            mask_MNI, inverse = kept
            x_MNI = x_MNI * mask_MNI
            scale = scale * inverse
        update_MNO = torch.bmm(torch.bmm(x_MNI, a_MIR) * scale.to(compute), b_MRO)
        if not bucket.key.dora:
            return update_MNO
        gain = self._gain(run)[:, None].to(compute)
        if kept is None:
            alone = base_RTO[run.start : run.stop].reshape(count, -1, base_RTO.shape[-1])
            bias: Any = self.layer.bias
            alone = alone if bias is None else alone - bias
        else:  # PEFT's rule: what is scaled is the layer's output on the inputs that dropout left
            alone = linear(
                x_MNI * inverse.to(compute), weight_of(self.layer, self.name).to(x_MNI.dtype)
            )  # inverse: [m, 1, 1]
        return (gain - 1) * alone + gain * update_MNO

    def _gain(self, run: Run) -> Tensor:
        """DoRA's magnitude over norm, `[m, out]`; the norm is a constant of the backward pass."""
        bucket = run.bucket
        if self.name in bucket.gains:
            return run.of(bucket.gains[self.name])
        a, b, m = bucket.a[self.name], bucket.b[self.name], bucket.m[self.name]
        weight = weight_of(self.layer, self.name)
        if bucket.key.frozen:  # once for all rows that will ever be read
            bucket.gains[self.name] = m / dora_norms(weight, a, b, bucket.scale_C[: len(bucket.slots)])
            return run.of(bucket.gains[self.name])
        return run.of(m) / dora_norms(weight, run.of(a), run.of(b), run.scale_M)

    def _masks(self, run: Run, x_MNI: Tensor, length: int) -> tuple[Tensor, Tensor] | None:
        """(bool `[m, rows * T, in]`, inverse of the kept share `[m, 1, 1]`), or None where nothing is dropped."""
        if not any(block.dropout for block in run.blocks):
            return None
        masks_MNI = torch.ones(x_MNI.shape, dtype=torch.bool, device=x_MNI.device)
        for number, block in enumerate(run.blocks):
            if block.dropout:
                whole = kept_mask(
                    block.dropout, seed=block.seed, step=block.step, name=self.name,
                    rows=(block.total or block.rows) * length, columns=x_MNI.shape[-1], device=x_MNI.device,
                )  # fmt: skip
                masks_MNI[number] = whole[block.first * length : (block.first + block.rows) * length]
        inverse = [1 / (1 - dropped_share(block.dropout)) for block in run.blocks]
        return masks_MNI, torch.tensor(inverse, device=x_MNI.device)[:, None, None]
