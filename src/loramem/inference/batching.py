"""Batches of rows that each use their own module or none: equal blocks per module, similar lengths together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.modules.bank import Bank

CACHED_TOKENS = 32_768
"""Rows x tokens of a batch: keys and values grow with both, and decoding copies them at every step."""


@dataclass(frozen=True)
class RowBatch:
    """Rows that go through the model together.

    Attributes:
        order: Slot of each block (None: the base alone); blocks of one bucket stand side by side.
        rows: Rows per block.
        members: Request index of each row, block by block; None marks a row that only fills its block.
    """

    order: tuple[int | None, ...]
    rows: int
    members: tuple[int | None, ...]


def make_batches(
    slots: Sequence[int | None], lengths: Sequence[int], bank: Bank | None, *, rows: int
) -> Iterator[RowBatch]:
    """Group requests into batches of about `rows` rows.

    Requests without a module form batches of their own. The others are cut into blocks of equal height,
    longest requests first, so that little is padding and the bank multiplies whole blocks.
    """
    by_slot: dict[int | None, list[int]] = defaultdict(list)
    for index in sorted(range(len(slots)), key=lambda i: (-lengths[i], i)):
        by_slot[slots[index]].append(index)
    alone = by_slot.pop(None, [])
    while alone:
        most = _most_rows(lengths[alone[0]], rows)
        chunk, alone = alone[:most], alone[most:]
        yield RowBatch((None,), len(chunk), tuple(chunk))
    if not by_slot:
        return
    assert bank is not None, "requests with a slot need a bank"
    ranked = [slot for slot in bank.training_order() if slot in by_slot]
    rows = _most_rows(max(lengths[by_slot[slot][0]] for slot in ranked), rows)
    height = max(1, min(rows // len(ranked) or 1, max(len(by_slot[slot]) for slot in ranked)))
    while any(by_slot[slot] for slot in ranked):
        order: list[int | None] = []
        members: list[int | None] = []
        for slot in ranked:
            chunk, by_slot[slot] = by_slot[slot][:height], by_slot[slot][height:]
            if chunk and len(order) < rows:
                order.append(slot)
                members += [*chunk, *[None] * (height - len(chunk))]
            elif chunk:
                by_slot[slot] = chunk + by_slot[slot]
        yield RowBatch(tuple(order), height, tuple(members))


def _most_rows(longest: int, rows: int) -> int:
    """Rows of at most `longest` tokens that keep both bounds."""
    return max(1, min(rows, CACHED_TOKENS // max(1, longest)))


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, int64 `[B, T]`, padded on the left so that every row ends at the last column."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids_BT, mask_BT


def positions(mask_BT: Tensor) -> Tensor:
    """Position ids of masked rows: 0 for the first real token, whatever the padding."""
    return (mask_BT.cumsum(1) - 1).clamp(min=0)


def activate(bank: Bank | None, batch: RowBatch) -> AbstractContextManager[None]:
    """The bank with this batch's blocks on; nothing for the base alone."""
    if bank is None or batch.order == (None,):
        return nullcontext()
    return bank.active(batch.order, rows=batch.rows)


def check_length(base: Base, length: int) -> None:
    """Raises `InputError` when a row of `length` tokens does not fit the base."""
    if length > base.context_length:
        raise InputError(
            f"a prompt with its answer takes {length} tokens; this base takes {base.context_length}"
        )
