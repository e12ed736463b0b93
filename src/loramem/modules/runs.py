"""How the rows of a batch fall to modules: blocks of rows, and runs of blocks that are one matrix product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramem.modules.bucket import Bucket

GATHERED_RANK = 64
"""Modules below this rank are gathered where a run needs only some of a bucket; larger ones are never copied."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a batch that use one module.

    Attributes:
        slot: Its slot in the bank; None: the base alone.
        rows: Number of rows.
        beside: Frozen slots that are on as well.
        dropout, seed, step: Probability of an input to be dropped; seed and optimiser step of the masks.
        first, total: These rows are `first : first + rows` of the `total` rows of the module's batch (0: all of it).
    """

    slot: int | None
    rows: int
    beside: tuple[int, ...] = ()
    dropout: float = 0.0
    seed: int = 0
    step: int = 0
    first: int = 0
    total: int = 0


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of equal height whose modules lie in one bucket.

    Attributes:
        start, stop: Rows of the batch.
        select: The modules' positions in the bucket: None for all in order, a slice, or an index tensor.
        scale_M: Their scales.
    """

    bucket: Bucket
    start: int
    stop: int
    blocks: tuple[Block, ...]
    select: slice | Tensor | None
    scale_M: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The rows of a bucket's tensor that belong to this run's modules."""
        return values if self.select is None else values[self.select]


def runs_of(
    blocks: Sequence[Block],
    slots: Sequence[int | None],
    bucket_of: Mapping[int, Bucket],
    *,
    learnt: bool = True,
) -> Iterator[Run]:
    """The runs of a batch in which block i uses module `slots[i]` (None: none).

    Args:
        learnt: The slots are the blocks' own; else those that are on beside them, without dropout.
    """
    pieces: list[tuple[int, int, Block]] = []  # start, slot, block
    row = 0
    for slot, block in zip(slots, blocks, strict=True):
        if slot is not None:
            plain = not learnt or not block.dropout
            last = pieces[-1] if pieces else None
            if last and plain and last[1] == slot and last[0] + last[2].rows == row and not last[2].dropout:
                pieces[-1] = (last[0], slot, Block(slot, last[2].rows + block.rows))
            else:
                pieces.append((row, slot, block if learnt else Block(slot, block.rows)))
        row += block.rows
    while pieces:
        start, slot, block = pieces[0]
        bucket, height = bucket_of[slot], block.rows
        places = [bucket.slots.index(slot)]
        for next_start, next_slot, next_block in pieces[1:]:
            follows = next_start == start + len(places) * height and next_block.rows == height
            if not follows or bucket_of[next_slot] is not bucket:
                break
            place = bucket.slots.index(next_slot)
            if bucket.key.rank >= GATHERED_RANK and place != places[-1] + 1:
                break
            places.append(place)
        count = len(places)
        select: slice | Tensor | None
        if places == list(range(places[0], places[0] + count)):
            select = None if count == len(bucket.slots) else slice(places[0], places[0] + count)
        else:
            select = torch.tensor(places, device=bucket.device)
        scale = bucket.scale_C[: len(bucket.slots)]
        yield Run(
            bucket, start, start + count * height, tuple(piece[2] for piece in pieces[:count]), select,
            scale if select is None else scale[select],
        )  # fmt: skip
        pieces = pieces[count:]
