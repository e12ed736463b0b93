"""The bank: many LoRA modules attached to one frozen model at once, trained and read in one forward pass.

Every target layer of the model is wrapped. A wrapper holds, for each *bucket* (modules of equal rank and
equal targets), contiguous `A[n, in, R]` and `B[n, R, out]`, and adds `scale * x A B` to the layer's own
output. Rows of a batch are module-major in equal blocks, so one `bmm` serves all modules of a bucket.

All parameters of a bucket are views of one flat fp32 buffer `[n, P]`, and their gradients views of another:
clipping and AdamW are then a few operations on one tensor, module by module, and a module never sees its
neighbours. A module that does not target a layer is simply not in a bucket of that layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import features, linears, resolve_targets

PEFT_PREFIX = "base_model.model."


SMALL_RANK = 8


def padded_rank(rank: int) -> int:
    """The inner dimension that a module of `rank` computes with: one bucket for all small ranks, then powers of two.

    Each bucket costs its own matrix products and a copy of its rows at every layer, far more than columns of zeros
    do. Padded columns stay exactly zero: the gradient of either factor is a product with the other's zeros.

    >>> [padded_rank(rank) for rank in (1, 4, 8, 9, 64)]
    [8, 8, 8, 16, 64]
    """
    return max(SMALL_RANK, 1 << (rank - 1).bit_length())


@dataclass
class Bucket:
    """Modules of equal padded rank and equal targets.

    Attributes:
        slots: Bank slots of its modules, in the order of its first axis.
        rank: Their common padded rank R.
        names: Full names of the target layers.
        flat_NP, grad_NP: fp32 `[n, P]`: all parameters of each module, and their gradients.
        a, b: Per target, leaves `[n, in, R]` and `[n, R, out]`: views of `flat_NP`.
        scale_N: alpha / rank of each module.
    """

    slots: list[int]
    rank: int
    names: list[str]
    sizes: dict[str, tuple[int, int]]
    flat_NP: Tensor
    grad_NP: Tensor
    scale_N: Tensor
    a: dict[str, Tensor] = field(default_factory=dict)
    b: dict[str, Tensor] = field(default_factory=dict)

    def bind(self) -> None:
        """Point the leaves (and their .grad) into the flat buffers."""
        count, offset = len(self.slots), 0
        for name in self.names:
            inner, outer = self.sizes[name]
            for leaves, shape in ((self.a, (count, inner, self.rank)), (self.b, (count, self.rank, outer))):
                size = shape[1] * shape[2]
                leaf = self.flat_NP[:, offset : offset + size].view(shape).detach().requires_grad_(True)
                leaf.grad = self.grad_NP[:, offset : offset + size].view(shape)
                leaves[name] = leaf
                offset += size
        assert offset == self.flat_NP.shape[1], (offset, self.flat_NP.shape)


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
        out_BTO = self.layer(x_BTI)
        runs = self.bank.runs
        if not runs:
            return out_BTO
        rows = self.bank.rows
        shape = out_BTO.shape
        x_MNI = x_BTI.reshape(len(self.bank.order), -1, x_BTI.shape[-1])
        pieces: list[Tensor | None] = []
        for run in runs:
            if self.name not in run.bucket.a:
                pieces.append(None)
                continue
            a, b = run.bucket.a[self.name], run.bucket.b[self.name]
            if run.index is not None:
                a, b = a[run.index], b[run.index]
            x = x_MNI[run.start : run.stop].to(a.dtype)
            masks = self.bank.masks(run, self.name, rows, x)
            if masks is not None:
                x = x * masks
            scale = run.scale_M[:, None, None]
            pieces.append(torch.bmm(torch.bmm(x, a) * scale, b))
        if all(piece is None for piece in pieces):
            return out_BTO
        if len(runs) == 1 and runs[0].stop - runs[0].start == len(self.bank.order):
            assert pieces[0] is not None
            return out_BTO + pieces[0].to(out_BTO.dtype).reshape(shape)
        parts = []
        out_MNO = out_BTO.reshape(len(self.bank.order), -1, shape[-1])
        position = 0
        for run, piece in zip(runs, pieces, strict=True):
            if run.start > position:
                parts.append(out_MNO[position : run.start])
            own = out_MNO[run.start : run.stop]
            parts.append(own if piece is None else own + piece.to(own.dtype))
            position = run.stop
        if position < len(self.bank.order):
            parts.append(out_MNO[position:])
        return torch.cat(parts).reshape(shape)


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of a batch whose modules lie in one bucket; `index` None means the whole bucket in order."""

    bucket: Bucket
    start: int
    stop: int
    slots: tuple[int, ...]
    index: Tensor | None
    scale_M: Tensor


class Bank:
    """LoRA modules of any mixture of specs on one model.

    Args:
        model: A frozen Hugging Face causal model; its target layers are wrapped until `detach`.
        specs: One per slot; slot numbers are positions in this sequence.
        seeds: Initialisation seed per slot (A as PEFT does, kaiming uniform with a = sqrt 5; B zero). Without
            seeds the weights are zero, to be filled by `load`.

    Raises:
        InputError: a spec names a target or layer the model does not have.
    """

    def __init__(self, model: Any, specs: Sequence[LoraSpec], seeds: Sequence[int] | None = None):
        self.model, self.specs = model, list(specs)
        self.device = next(model.parameters()).device
        layers = linears(model)
        if any(isinstance(module, BankedLinear) for module in model.modules()):
            raise InputError("this model already carries a bank; detach it first")
        grouped: dict[tuple, list[int]] = {}
        targets = [resolve_targets(model, spec) for spec in self.specs]
        for slot, spec in enumerate(self.specs):
            if not targets[slot]:
                raise InputError(f"spec {spec.identity()} attaches to no layer of this base")
            grouped.setdefault((padded_rank(spec.rank), tuple(targets[slot])), []).append(slot)
        self.buckets = [
            self._bucket(slots, rank, list(names), layers) for (rank, names), slots in grouped.items()
        ]
        self.bucket_of: dict[int | None, Bucket] = {
            slot: bucket for bucket in self.buckets for slot in bucket.slots
        }
        if seeds is not None:
            for slot, seed in enumerate(seeds):
                self.initialise(slot, seed)
        self.wrapped: dict[str, BankedLinear] = {}
        for name in dict.fromkeys(name for bucket in self.buckets for name in bucket.names):
            parent, _, leaf = name.rpartition(".")
            self.wrapped[name] = BankedLinear(layers[name], name, self)
            setattr(model.get_submodule(parent), leaf, self.wrapped[name])
        self.order: list[int | None] = []
        self.runs: list[Run] = []
        self.rows = 0
        self.dropout: dict[int, tuple[float, int]] = {}
        self.step = 0

    def _bucket(self, slots: list[int], rank: int, names: list[str], layers: dict[str, nn.Module]) -> Bucket:
        sizes = {name: features(layers[name]) for name in names}
        width = sum(rank * (inner + outer) for inner, outer in sizes.values())
        flat = torch.zeros(len(slots), width, device=self.device)
        scale = torch.tensor([self.specs[slot].scale for slot in slots], device=self.device)
        bucket = Bucket(slots, rank, names, sizes, flat, torch.zeros_like(flat), scale)
        bucket.bind()
        return bucket

    # -- weights ---------------------------------------------------------------------------------
    @torch.no_grad()
    def initialise(self, slot: int, seed: int) -> None:
        """A drawn from U(-1/sqrt(in), 1/sqrt(in)), B zero: depends on (seed, layer name) alone."""
        bucket = self.bucket_of[slot]
        position = bucket.slots.index(slot)
        for name in bucket.names:
            inner, _ = bucket.sizes[name]
            generator = torch.Generator().manual_seed(seed_from("lora-init", seed, name))
            a_RI = torch.empty(self.specs[slot].rank, inner)
            nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
            bucket.a[name][position].zero_()
            bucket.a[name][position, :, : len(a_RI)].copy_(a_RI.T)
            bucket.b[name][position].zero_()

    @torch.no_grad()
    def load(self, slot: int, tensors: dict[str, Tensor]) -> None:
        """Fill a slot from PEFT-named tensors. Raises `InputError` when names or shapes do not match its spec."""
        bucket = self.bucket_of[slot]
        expected = {f"{PEFT_PREFIX}{name}.lora_{which}.weight" for name in bucket.names for which in "AB"}
        if set(tensors) != expected:
            odd = sorted(set(tensors) ^ expected)
            raise InputError(
                f"the adapter does not match this base: {len(odd)} tensors differ, e.g. {odd[0]}"
            )
        for name in bucket.names:
            for which, own in zip("AB", self._own(slot, name), strict=True):
                tensor = tensors[f"{PEFT_PREFIX}{name}.lora_{which}.weight"]
                if tensor.T.shape != own.shape:
                    raise InputError(
                        f"the adapter does not match this base: {name}.lora_{which} is {tuple(tensor.shape)}, expected {tuple(own.T.shape)}"
                    )
                own.copy_(tensor.T)

    @torch.no_grad()
    def tensors(self, slot: int) -> dict[str, Tensor]:
        """The weights of a slot under PEFT's names: lora_A `[R, in]`, lora_B `[out, R]`, fp32 on the CPU."""
        found = {}
        for name in self.bucket_of[slot].names:
            for which, own in zip("AB", self._own(slot, name), strict=True):
                found[f"{PEFT_PREFIX}{name}.lora_{which}.weight"] = (
                    own.detach().T.cpu().clone(memory_format=torch.contiguous_format)
                )
        return found

    def _own(self, slot: int, name: str) -> tuple[Tensor, Tensor]:
        """Views of a slot's factors in one layer, A `[in, rank]` and B `[rank, out]`, without their padding."""
        bucket = self.bucket_of[slot]
        position, rank = bucket.slots.index(slot), self.specs[slot].rank
        return bucket.a[name][position, :, :rank], bucket.b[name][position, :rank]

    def keep(self, slots: Sequence[int]) -> None:
        """Drop every slot but `slots`; what is kept is untouched."""
        wanted = set(slots)
        remaining = []
        for bucket in self.buckets:
            positions = [position for position, slot in enumerate(bucket.slots) if slot in wanted]
            if not positions:
                continue
            if len(positions) < len(bucket.slots):
                index = torch.tensor(positions, dtype=torch.long, device=self.device)
                bucket.slots = [slot for slot in bucket.slots if slot in wanted]
                bucket.flat_NP = bucket.flat_NP[index].clone()
                bucket.grad_NP = torch.zeros_like(bucket.flat_NP)
                bucket.scale_N = bucket.scale_N[index]
                bucket.bind()
            remaining.append(bucket)
        self.buckets = remaining
        self.bucket_of = {slot: bucket for bucket in remaining for slot in bucket.slots}

    # -- activation ------------------------------------------------------------------------------
    def training_order(self) -> list[int]:
        """Slots bucket by bucket: the order of blocks in which no weight is gathered."""
        return [slot for bucket in self.buckets for slot in bucket.slots]

    @contextmanager
    def active(
        self,
        order: Sequence[int | None],
        *,
        rows: int,
        dropout: dict[int, tuple[float, int]] | None = None,
        step: int = 0,
    ) -> Iterator[None]:
        """Within the block, a batch is `len(order)` blocks of `rows` rows, block i under slot `order[i]` (None: the base).

        Args:
            dropout: Per slot (probability, seed); absent slots drop nothing.
            step: Optimiser step, part of every mask's seed.
        """
        assert not self.runs, "a bank is active once at a time"
        self.order, self.rows, self.dropout, self.step = list(order), rows, dropout or {}, step
        self.runs = list(self._runs())
        try:
            yield
        finally:
            self.order, self.runs, self.dropout = [], [], {}

    def shrink(self, order: Sequence[int | None], *, rows: int) -> None:
        """Within `active`: the batch goes on as other blocks (rows have left it)."""
        self.order, self.rows = list(order), rows
        self.runs = list(self._runs())

    def _runs(self) -> Iterator[Run]:
        start = 0
        while start < len(self.order):
            slot = self.order[start]
            stop = start + 1
            if slot is not None:
                bucket = self.bucket_of[slot]
                while (
                    stop < len(self.order)
                    and self.order[stop] is not None
                    and self.bucket_of[self.order[stop]] is bucket
                ):  # type: ignore[index]
                    stop += 1
                slots = tuple(slot for slot in self.order[start:stop] if slot is not None)
                whole = list(slots) == bucket.slots
                positions = [bucket.slots.index(slot) for slot in slots]
                index = None if whole else torch.tensor(positions, device=self.device)
                scale = bucket.scale_N if whole else bucket.scale_N[index]
                yield Run(bucket, start, stop, slots, index, scale)
            start = stop

    def masks(self, run: Run, name: str, rows: int, x_MNI: Tensor) -> Tensor | None:
        """Inverted dropout masks `[m, rows * T, in]`, or None.

        Each depends on (module seed, step, layer) alone, so no neighbour changes a module.
        """
        if not any(self.dropout.get(slot, (0.0, 0))[0] for slot in run.slots):
            return None
        masks_MNI = torch.ones_like(x_MNI)
        for block, slot in enumerate(run.slots):
            probability, seed = self.dropout.get(slot, (0.0, 0))
            if probability:
                generator = torch.Generator(device=x_MNI.device).manual_seed(
                    seed_from("dropout", seed, self.step, name)
                )
                kept = torch.empty_like(masks_MNI[block]).bernoulli_(1 - probability, generator=generator)
                masks_MNI[block] = kept / (1 - probability)
        return masks_MNI

    def detach(self) -> None:
        """Give the model its own layers back."""
        for name, wrapper in self.wrapped.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, wrapper.layer)
        self.wrapped = {}
