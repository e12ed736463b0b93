"""Buckets: modules of equal shape share contiguous buffers, so that one matrix product serves them all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL_RANK = 8


def padded_rank(rank: int) -> int:
    """The inner dimension that a module of `rank` computes with: one bucket for all small ranks, then powers of two.

    Each bucket costs its own matrix products and a copy of its rows at every layer, far more than columns of zeros
    do. Padded columns stay exactly zero: the gradient of either factor is a product with the other's zeros.

    >>> [padded_rank(rank) for rank in (1, 4, 8, 9, 64)]
    [8, 8, 8, 16, 64]
    """
    return max(SMALL_RANK, 1 << (rank - 1).bit_length())


@dataclass(frozen=True)
class BucketKey:
    """What modules of one bucket have in common.

    Attributes:
        rank: Padded rank R.
        names: Full names of the target layers.
        dora: They have a magnitude per output.
        frozen: They do not learn: no gradient is kept.
        compute: Precision of their products.
        group: Whatever else must not be mixed (while training: modules that go through different passes).
    """

    rank: int
    names: tuple[str, ...]
    dora: bool = False
    frozen: bool = False
    compute: torch.dtype = torch.float32
    group: Hashable = None


class Bucket:
    """Modules of one shape in one flat buffer.

    Positions 0..n-1 of the buffers hold the live modules; a module that leaves is replaced by the last one, and its
    place is used again, zeroed, by the next that comes.

    Attributes:
        slots: Bank slots of its modules, by position.
        flat_CP, grad_CP: `[capacity, P]` in the masters' dtype (fp32): all parameters of each module, and their
            gradients (None if frozen).
        a, b, m: Per target, leaves `[n, in, R]`, `[n, R, out]` and (DoRA) `[n, out]`: views of the live part.
        scale_C: Scale of each module.
        gains: DoRA of frozen modules: magnitude over norm, per target `[n, out]`, once it has been computed.
    """

    def __init__(self, key: BucketKey, sizes: dict[str, tuple[int, int]], device: torch.device):
        self.key, self.sizes, self.device = key, sizes, device
        width = sum(key.rank * (inner + outer) + outer * key.dora for inner, outer in sizes.values())
        self.slots: list[int] = []
        self.flat_CP = torch.zeros(0, width, device=device)
        self.grad_CP = None if key.frozen else torch.zeros(0, width, device=device)
        self.scale_C = torch.zeros(0, device=device)
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        self.m: dict[str, Tensor] = {}
        self.gains: dict[str, Tensor] = {}

    @property
    def flat_NP(self) -> Tensor:
        return self.flat_CP[: len(self.slots)]

    @property
    def grad_NP(self) -> Tensor:
        assert self.grad_CP is not None, "frozen modules have no gradient"
        return self.grad_CP[: len(self.slots)]

    @property
    def capacity(self) -> int:
        return len(self.flat_CP)

    def resize(self, capacity: int) -> None:
        """Give the buffers `capacity` positions (at least the live ones); contents stay."""
        assert capacity >= len(self.slots)
        for name in ("flat_CP", "grad_CP", "scale_C"):
            old = getattr(self, name)
            if old is not None:
                new = torch.zeros(capacity, *old.shape[1:], device=self.device, dtype=old.dtype)
                new[: len(self.slots)] = old[: len(self.slots)]
                setattr(self, name, new)
                del old
        self._bind()

    def append(self, slot: int, scale: float) -> None:
        """A new module at the next position: all its parameters, and its gradient, zero."""
        if len(self.slots) == self.capacity:
            self.resize(self.capacity + 1)
        position = len(self.slots)
        self.slots.append(slot)
        self.flat_CP[position].zero_()
        if self.grad_CP is not None:
            self.grad_CP[position].zero_()
        self.scale_C[position] = scale
        self._bind()

    def remove(self, gone: Sequence[int]) -> None:
        """Take modules out; the others keep their values, not always their positions."""
        for slot in gone:
            hole, last = self.slots.index(slot), len(self.slots) - 1
            if hole != last:
                for buffer in (self.flat_CP, self.grad_CP, self.scale_C):
                    if buffer is not None:
                        buffer[hole] = buffer[last].clone()
                self.slots[hole] = self.slots[last]
            self.slots.pop()
        self._bind()

    def _bind(self) -> None:
        """Point the leaves (and their .grad) into the live part of the buffers."""
        count, rank, offset = len(self.slots), self.key.rank, 0
        self.gains = {}
        for name, (inner, outer) in self.sizes.items():
            parts = [(self.a, (count, inner, rank)), (self.b, (count, rank, outer))]
            for leaves, shape in [*parts, *([(self.m, (count, outer))] if self.key.dora else [])]:
                size = 1
                for axis in shape[1:]:
                    size *= axis
                leaf = self.flat_NP[:, offset : offset + size].view(shape).detach()
                if not self.key.frozen:
                    leaf.requires_grad_(True)
                    leaf.grad = self.grad_NP[:, offset : offset + size].view(shape)
                leaves[name] = leaf
                offset += size
        assert offset == self.flat_CP.shape[1], (offset, self.flat_CP.shape)
