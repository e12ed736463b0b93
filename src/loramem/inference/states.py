"""Hidden states of many rows on few contexts: what a teacher of distillation is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.inference.batching import Ids, Lane, make_batches
from loramem.inference.families import can_share
from loramem.inference.prefix import PrefixCache, after_prefix


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
        prefix = prefixes.of(batch, None, module_on=False) if batch.lanes[0].prefix else None
        states_BTH = after_prefix(base, [own[i] for i in batch.filled], prefix)
        for row, index in enumerate(batch.members):
            if index is not None:
                count = asked[index][2]
                found[index] = states_BTH[row, -count - 1 : -1].clone()
                tokens += len(own[index])
    return found, tokens + prefixes.tokens
