"""What a family of models can do, found by trying it on a few tokens, once per model: names tell too little."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import pad

from loramem.base.model import Base
from loramem.inference.batching import Ids, Lane, RowBatch, left_pad, positions, window
from loramem.inference.prefix import PrefixCache, after_prefix


def can_share(base: Base, length: int) -> bool:
    """Whether rows of `length` tokens may share their prefixes.

    Not beyond a sliding window, where caches forget them, nor in a model whose attention is not the common one; there
    whole prompts are read, with the same answers.
    """
    return ((most := window(base)) is None or length < most) and _shares(base)


def _shares(base: Base) -> bool:
    """Whether this model's rows read their shared prefix as they should."""

    def shared(ids: Ids) -> tuple[Tensor, Tensor]:
        batch = RowBatch((Lane(None, ids[:3]),), 1, (0,))
        prefix = PrefixCache(base).of(batch, None, module_on=False)
        return after_prefix(base, [ids[3:]], prefix)[0], after_prefix(base, [ids], None)[0, 3:]

    return _tried(base, shared)


def pads_left(base: Base) -> bool:
    """Whether this model's rows may be padded on the left (some layers with a state read the padding)."""

    def one_more(rows: list[Ids]) -> Tensor:
        """Logits of the last row after its prompt and one token that is read from the cache."""
        ids_BT, mask_BT = left_pad(rows, base.prompts.pad_id, base.device)
        cache = base.model(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions(mask_BT), use_cache=True
        ).past_key_values
        mask_BT = pad(mask_BT, (0, 1), value=1)
        return base.model(
            input_ids=ids_BT[:, -1:], attention_mask=mask_BT, position_ids=positions(mask_BT)[:, -1:], past_key_values=cache,
            use_cache=True,
        ).logits[-1]  # fmt: skip

    def padded(ids: Ids) -> tuple[Tensor, Tensor]:
        return one_more([ids, ids[4:]]), one_more([ids[4:]])

    return _tried(base, padded)


def _tried(base: Base, both: Callable[[Ids], tuple[Tensor, Tensor]]) -> bool:
    """Whether two ways of reading six tokens come to the same, once per model; any failure of a family means no."""
    known = _findings.setdefault(base.model, {})
    name = both.__qualname__
    if name not in known:
        known[name] = False
        usable = [
            t for t in range(base.model.config.get_text_config().vocab_size) if t != base.prompts.pad_id
        ]
        ids = tuple(usable[len(usable) // 7 * step] for step in range(1, 7))
        with suppress(Exception), torch.no_grad():
            one, other = both(ids)
            known[name] = bool((one - other).float().norm() < 0.05 * other.float().norm())
    return known[name]


_findings: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()
