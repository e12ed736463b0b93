"""A context goes through the model once; its keys and values serve all rows that begin with it.

With a module on while the context is read, each module has its own encoding of it; with the module on only after it,
all modules share the base's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.inference.batching import Ids, Lane, RowBatch, left_pad, make_batches, positions, window
from loramem.modules.bank import Bank
from loramem.modules.layer import Block


class PrefixCache:
    """Keys and values of the prefixes read last.

    Attributes:
        encoded: Prefixes that went through the model so far: one for each, however many rows begin with it.
        tokens: Their tokens.
    """

    def __init__(self, base: Base):
        self.base = base
        self.lanes: tuple[Lane, ...] = ()
        self.cache: Any = None
        self.mask_GC = torch.zeros(0, 0)
        self.encoded = self.tokens = 0

    def rows(self, batch: RowBatch, bank: Bank | None, *, module_on: bool) -> tuple[Any, Tensor]:
        """(cache, mask `[rows, C]`) of a batch's prefixes, each repeated for the rows of its lane.

        Args:
            module_on: The lanes' modules are on while the prefixes are read; else the base reads them.
        """
        lanes = batch.lanes if module_on else tuple(Lane(None, lane.prefix) for lane in batch.lanes)
        if not set(lanes) <= set(self.lanes):
            self._read(tuple(dict.fromkeys(lanes)), bank)
        again = copy.deepcopy(self.cache)
        places = [self.lanes.index(lane) for lane in lanes for _ in range(batch.height)]
        chosen = torch.tensor(places, device=self.base.device)
        again.batch_select_indices(chosen)
        return again, self.mask_GC[chosen]

    def _read(self, lanes: tuple[Lane, ...], bank: Bank | None) -> None:
        ids_GC, mask_GC = left_pad(
            [lane.prefix for lane in lanes], self.base.prompts.pad_id, self.base.device
        )
        if bank is not None:
            bank.change([Block(lane.slot, 1) for lane in lanes])
        self.cache = self.base.model(
            input_ids=ids_GC, attention_mask=mask_GC, position_ids=positions(mask_GC), use_cache=True, logits_to_keep=1
        ).past_key_values  # fmt: skip
        self.lanes, self.mask_GC = lanes, mask_GC
        self.encoded += len(lanes)
        self.tokens += int(mask_GC.sum())


def can_share(base: Base, length: int) -> bool:
    """Whether a prefix may be shared in rows of `length` tokens: not beyond a sliding window, where caches forget it."""
    return (most := window(base)) is None or length < most


@torch.no_grad()
def hidden_shared(
    base: Base, asked: Sequence[tuple[Ids, Ids, int]], *, rows: int = 64
) -> tuple[list[Tensor], int]:
    """What the head would read before the last `count` tokens of prefix + rest, for every (prefix, rest, count).

    Equal prefixes are encoded once; `rest` holds at least one token more than `count`.

    Returns:
        (states `[count, H]` in order, in the base's dtype; tokens that went through the model).
    """
    assert all(count < len(rest) for _, rest, count in asked)
    longest = max((len(prefix) + len(rest) for prefix, rest, _ in asked), default=0)
    shared = can_share(base, longest)
    lanes = [Lane(None, tuple(prefix) if shared else ()) for prefix, _, _ in asked]
    own = [tuple(rest) if shared else (*prefix, *rest) for prefix, rest, _ in asked]
    prefixes, found, tokens = PrefixCache(base), [torch.empty(0)] * len(asked), 0
    for batch in make_batches(lanes, [len(rest) for rest in own], None, rows=rows):
        ids_BT, mask_BT = left_pad([own[i] for i in batch.filled], base.prompts.pad_id, base.device)
        cache, mask = None, mask_BT
        if batch.lanes[0].prefix:
            cache, before_BC = prefixes.rows(batch, None, module_on=False)
            mask = torch.cat([before_BC, mask_BT], dim=1)
        states_BTH = base.model.base_model(
            input_ids=ids_BT, attention_mask=mask, position_ids=positions(mask)[:, -ids_BT.shape[1] :],
            past_key_values=cache, use_cache=cache is not None,
        ).last_hidden_state  # fmt: skip
        for row, index in enumerate(batch.members):
            if index is not None:
                count = asked[index][2]
                found[index] = states_BTH[row, -count - 1 : -1].clone()
                tokens += len(own[index])
    return found, tokens + prefixes.tokens
