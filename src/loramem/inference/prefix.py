"""A context goes through the model once; its keys and values serve all rows that begin with it, without being copied.

Attention to a shared context is one matrix product for all rows that share it: their queries stand side by side, as if
they were one long row (as in Hydragen, arXiv 2402.05099). Each row keeps keys and values of its own tokens only, and
both parts meet in one softmax. With a module on while the context is read, each module has its own encoding of it; with
the module on only after it, all modules share the base's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from loramem.base.forward import head_inputs
from loramem.base.model import Base
from loramem.inference.batching import (
    Ids,
    Lane,
    RowBatch,
    cache_holds,
    left_pad,
    make_batches,
    positions,
    window,
)
from loramem.modules.bank import Bank
from loramem.modules.layer import Block

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


class PrefixCache:
    """Keys and values of prefixes, the least recently used ones forgotten first. One cache serves one bank.

    Attributes:
        encoded: Prefixes that went through the model so far: one for each, however many rows begin with it.
        tokens: Their tokens.
    """

    def __init__(self, base: Base):
        self.base = base
        self.encoded = self.tokens = 0
        self._held: OrderedDict[Lane, Layers] = OrderedDict()

    def of(self, batch: RowBatch, bank: Bank | None, *, module_on: bool) -> SharedPrefix:
        """The prefixes of a batch.

        Args:
            module_on: The lanes' modules are on while the prefixes are read; else the base reads them.
        """
        lanes = [lane if module_on else Lane(None, lane.prefix) for lane in batch.lanes]
        distinct = list(dict.fromkeys(lanes))
        self._read([lane for lane in distinct if lane not in self._held], bank)
        for lane in distinct:
            self._held.move_to_end(lane)
        read = [self._held[lane] for lane in distinct]
        while len(self._held) > len(distinct) and not cache_holds(
            1, sum(len(lane.prefix) for lane in self._held)
        ):
            self._held.popitem(last=False)
        return SharedPrefix(self.base.model, read, [distinct.index(lane) for lane in lanes], batch.height)

    def _read(self, lanes: Sequence[Lane], bank: Bank | None) -> None:
        if not lanes:
            return
        ids_EC, mask_EC = left_pad(
            [lane.prefix for lane in lanes], self.base.prompts.pad_id, self.base.device
        )
        if bank is not None:
            bank.change([Block(lane.slot, 1) for lane in lanes])
        cache = self.base.model(
            input_ids=ids_EC, attention_mask=mask_EC, position_ids=positions(mask_EC), use_cache=True, logits_to_keep=1
        ).past_key_values  # fmt: skip
        for row, lane in enumerate(lanes):
            own = slice(-len(lane.prefix), None)
            self._held[lane] = [
                (layer.keys[row : row + 1, :, own].clone(), layer.values[row : row + 1, :, own].clone())
                for layer in cache.layers
            ]
        self.encoded += len(lanes)
        self.tokens += int(mask_EC.sum())


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


def after_prefix(base: Base, rows: Sequence[Ids], prefix: SharedPrefix | None) -> Tensor:
    """What the head reads at every token of `rows` (padded on the left), after their prefixes: `[B, T, H]`."""
    ids_BT, mask_BT = left_pad(rows, base.prompts.pad_id, base.device)
    place_BT = positions(mask_BT)
    if prefix is not None:
        place_BT = place_BT + prefix.lengths_B[:, None]
    with nullcontext() if prefix is None else prefix.on():
        return head_inputs(
            base.model, input_ids=ids_BT, attention_mask=mask_BT, position_ids=place_BT, use_cache=False
        )[0]
