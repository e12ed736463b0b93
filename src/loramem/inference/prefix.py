"""A context goes through the model once; its keys and values serve all rows that begin with it.

With a module on while the context is read, each module has its own encoding of it; with the module on only after it,
all modules share the base's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext

from torch import Tensor

from loramem.base.forward import head_inputs
from loramem.base.model import Base
from loramem.inference.batching import Ids, Lane, RowBatch, cache_holds, left_pad, positions
from loramem.inference.shared_attention import Layers, SharedPrefix
from loramem.modules.bank import Bank
from loramem.modules.runs import Block


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
