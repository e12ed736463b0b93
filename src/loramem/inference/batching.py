"""Batches of rows that each use their own module or none, and begin with a context of their own or none.

Rows of one module and one context form a lane. Lanes of a batch have equal height, similar lengths stand together, so
that little is padding and the bank multiplies whole blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.modules.bank import Bank
from loramem.modules.runs import Block

CACHED_TOKENS = 32_768
"""Rows x tokens of a batch: keys and values grow with both, and decoding copies them at every step."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Lane:
    """What the rows of a lane share: the module's slot (None: the base alone), and the context they begin with."""

    slot: int | None
    prefix: Ids = ()


@dataclass(frozen=True)
class RowBatch:
    """Rows that go through the model together.

    Attributes:
        lanes: Those of one bucket stand side by side.
        height: Rows per lane.
        members: Request index of each row, lane by lane; None marks a row that only fills its lane.
    """

    lanes: tuple[Lane, ...]
    height: int
    members: tuple[int | None, ...]

    @property
    def blocks(self) -> list[Block]:
        return [Block(lane.slot, self.height) for lane in self.lanes]

    @property
    def filled(self) -> list[int]:
        """Request index of each row, with a real one of its lane in place of every None."""
        found: list[int] = []
        for start in range(0, len(self.members), self.height):
            lane = self.members[start : start + self.height]
            real = next(index for index in lane if index is not None)
            found += [real if index is None else index for index in lane]
        return found


def make_batches(
    lanes: Sequence[Lane], lengths: Sequence[int], bank: Bank | None, *, rows: int
) -> Iterator[RowBatch]:
    """Group requests into batches of about `rows` rows and `CACHED_TOKENS` cached tokens, longest first.

    Args:
        lanes: Of each request.
        lengths: Tokens of each request after its prefix.
        bank: Where a request has a slot.
    """
    by_lane: dict[Lane, list[int]] = defaultdict(list)
    for index in sorted(range(len(lanes)), key=lambda i: (-lengths[i], i)):
        by_lane[lanes[index]].append(index)
    order: dict[int | None, int] = {None: -1}
    if bank is not None:
        order |= {slot: place for place, slot in enumerate(bank.in_order())}
    assert all(lane.slot in order for lane in by_lane), "a slot needs its bank"
    alone = by_lane.pop(Lane(None), [])
    while alone:
        most = _most_rows(lengths[alone[0]], rows)
        chunk, alone = alone[:most], alone[most:]
        yield RowBatch((Lane(None),), len(chunk), tuple(chunk))
    shared = {lane: by_lane.pop(lane) for lane in list(by_lane) if lane.prefix}
    by_slot = sorted(by_lane.items(), key=lambda item: order[item[0].slot])
    yield from _by_slot(by_slot, lengths, rows)
    yield from _by_prefix(shared, lengths, rows, order)


def _by_slot(
    queues: Sequence[tuple[Lane, list[int]]], lengths: Sequence[int], rows: int
) -> Iterator[RowBatch]:
    """Every module with rows left takes part in every batch: what is longest comes first everywhere."""
    waiting = dict(queues)
    if not waiting:
        return
    rows = _most_rows(max(lengths[queue[0]] for queue in waiting.values()), rows)
    height = max(1, min(rows // len(waiting) or 1, max(map(len, waiting.values()))))
    while any(waiting.values()):
        chosen: list[Lane] = []
        members: list[int | None] = []
        for lane, queue in waiting.items():
            if queue and len(members) < rows:
                chunk, waiting[lane] = queue[:height], queue[height:]
                chosen.append(lane)
                members += [*chunk, *[None] * (height - len(chunk))]
        yield RowBatch(tuple(chosen), height, tuple(members))


def _by_prefix(
    shared: dict[Lane, list[int]], lengths: Sequence[int], rows: int, order: dict[int | None, int]
) -> Iterator[RowBatch]:
    """Lanes with contexts of their own, those of similar size together."""
    parts: list[tuple[Lane, list[int]]] = []
    for lane, indices in shared.items():
        most = max(1, min(rows, CACHED_TOKENS // max(1, len(lane.prefix) + lengths[indices[0]])))
        parts += [(lane, indices[start : start + most]) for start in range(0, len(indices), most)]
    parts.sort(key=lambda part: (-len(part[1]), -len(part[0].prefix)))
    held: list[tuple[Lane, list[int]]] = []

    def batch() -> RowBatch:
        height = max(len(indices) for _, indices in held)
        placed = sorted(held, key=lambda part: order[part[0].slot])
        members = [i for _, indices in placed for i in (*indices, *[None] * (height - len(indices)))]
        return RowBatch(tuple(lane for lane, _ in placed), height, tuple(members))

    for part in parts:
        height = len((held or [part])[0][1])
        longest = max(len(lane.prefix) for lane, _ in [*held, part])
        count = (len(held) + 1) * height
        if held and (count > rows or not cache_holds(count, longest) or len(part[1]) < height / 2):
            yield batch()
            held = []
        held.append(part)
    if held:
        yield batch()


def cache_holds(rows: int, tokens: int) -> bool:
    """Whether `rows` rows of `tokens` tokens keep the bound on cached tokens."""
    return rows * tokens <= CACHED_TOKENS


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


def check_length(base: Base, length: int) -> None:
    """Raises `InputError` when a row of `length` tokens does not fit the base."""
    if length > base.context_length:
        raise InputError(
            f"a prompt with its answer takes {length} tokens; this base takes {base.context_length}"
        )


def window(base: Base) -> int | None:
    """The base's sliding window in tokens, if it has one: its caches forget what lies further back."""
    return getattr(base.model.config.get_text_config(), "sliding_window", None) or None
