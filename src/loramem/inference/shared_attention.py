"""Attention of many rows to one context that is kept once.

It is one matrix product for all rows that share a context: their queries stand side by side, as if they were one long
row (as in Hydragen, arXiv 2402.05099). Each row keeps keys and values of its own tokens only, and both parts meet in
one softmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ATTENTION = "loramem_shared_prefix"
SCORES_BYTES = 256 * 2**20
"""Attention scores to a prefix that exist at once, fp32."""
_active: ContextVar[SharedPrefix | None] = ContextVar("shared prefix", default=None)


Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, `[E, heads, C, D]`."""


class SharedPrefix:
    """The prefixes of a batch's rows: row r begins with prefix `entries[r // height]`.

    Where all rows begin with the same one it counts as a single lane of all rows.

    Args:
        read: Keys and values of each prefix, unpadded (E = 1).
        entries: Prefix of each lane.
        height: Rows per lane.
    """

    def __init__(self, model: Any, read: Sequence[Layers], entries: Sequence[int], height: int):
        self.model, self._read = model, list(read)
        self._configs = list(
            {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
        )
        self.select(entries, height)

    def select(self, entries: Sequence[int], height: int) -> None:
        """The batch goes on with other rows."""
        self.entries = list(entries)
        chosen = self.entries[:1] if len(set(self.entries)) == 1 else self.entries
        self.lanes = len(chosen)
        lengths = [self._read[entry][0][0].shape[2] for entry in chosen]
        longest = max(lengths)

        def joined(layer: int, part: int) -> Tensor:
            parts = [self._read[entry][layer][part] for entry in chosen]
            if len(parts) == 1:
                return parts[0]
            return torch.cat([pad(one, (0, 0, longest - one.shape[2], 0)) for one in parts])

        self.layers = [(joined(layer, 0), joined(layer, 1)) for layer in range(len(self._read[chosen[0]]))]
        device = self.layers[0][0].device
        lengths_L = torch.tensor(lengths, device=device)
        self.hidden_LC = torch.arange(longest, device=device) < longest - lengths_L[:, None]
        self.lengths_B = lengths_L.repeat_interleave(len(self.entries) * height // self.lanes)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the block, the model's rows attend to their prefix as well as to their own tokens."""
        kept = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = ATTENTION
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)
            for config, own in zip(self._configs, kept, strict=True):
                config._attn_implementation = own


def attend(
    module: Any,
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each row to its shared prefix and to its own S tokens, in one softmax; scores in fp32 or better.

    Registered with the library as an attention implementation; H query heads share K heads of keys and values.
    """
    prefix = _active.get()
    assert prefix is not None, "only within SharedPrefix.on()"
    rows, heads, length, size = query_BHTD.shape
    shared = key_BKSD.shape[1]
    group, lanes = heads // shared, prefix.lanes
    scale = size**-0.5 if scaling is None else scaling
    dtype = torch.promote_types(query_BHTD.dtype, torch.float32)

    def scores(q: Tensor, k: Tensor) -> Tensor:
        found = (q @ k.transpose(-1, -2)).to(dtype) * scale
        return found if softcap is None else softcap * torch.tanh(found / softcap)

    own_q = query_BHTD.reshape(rows, shared, group * length, size)
    own = scores(own_q, key_BKSD)
    if attention_mask is not None:
        own = own + attention_mask[..., : key_BKSD.shape[2]].to(dtype).repeat(1, 1, group, 1)
    own_top = own.amax(-1, keepdim=True)
    own_part = (own - own_top).exp()

    # [lane, kv head, (row, group, position), D]: all queries of a lane stand in one matrix
    keys_LKCD, values_LKCD = prefix.layers[module.layer_idx]
    folded = own_q.view(lanes, rows // lanes, shared, group * length, size).transpose(1, 2)
    folded = folded.reshape(lanes, shared, -1, size)
    hidden = prefix.hidden_LC[:, None, None]
    part = max(1, SCORES_BYTES // (4 * lanes * shared * keys_LKCD.shape[2]))
    outs, tops, sums = [], [], []
    for some in folded.split(part, dim=2):
        told = scores(some, keys_LKCD).masked_fill(hidden, -torch.inf)
        top = told.amax(-1, keepdim=True)
        weights = (told - top).exp()
        outs.append(weights.to(values_LKCD.dtype) @ values_LKCD)
        tops.append(top)
        sums.append(weights.sum(-1, keepdim=True))

    def unfold(parts: list[Tensor]) -> Tensor:
        joined = torch.cat(parts, dim=2)
        split = joined.view(lanes, shared, rows // lanes, group * length, joined.shape[-1])
        return split.transpose(1, 2).reshape(rows, shared, group * length, -1).to(dtype)

    told_out, told_top, told_sum = unfold(outs), unfold(tops), unfold(sums)
    top = torch.maximum(own_top, told_top)
    own_share, told_share = (own_top - top).exp(), (told_top - top).exp()
    out = own_share * (own_part.to(value_BKSD.dtype) @ value_BKSD).to(dtype) + told_share * told_out
    out = out / (own_share * own_part.sum(-1, keepdim=True) + told_share * told_sum)
    out = out.to(query_BHTD.dtype).view(rows, heads, length, size)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, eager_mask)
