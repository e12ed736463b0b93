"""Decoding in batches; every row with its own module or none, after a context of its own or none.

Rows that have ended leave, others that wait take their room: one long answer does not keep hundreds of finished ones
going, and the batch stays full until the last requests. Which token a row goes on with is decided in `sampling`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.batching import (
    Ids,
    Lane,
    RowBatch,
    cache_holds,
    check_length,
    left_pad,
    make_batches,
    positions,
)
from loramem.inference.constrained import Grammar
from loramem.inference.families import can_share, pads_left
from loramem.inference.prefix import PrefixCache
from loramem.inference.sampling import Chooser, Draw
from loramem.inference.shared_attention import SharedPrefix
from loramem.modules.bank import Bank
from loramem.modules.runs import Block

ModuleOn = Literal["all", "after-prefix", "answer"]


@dataclass(frozen=True)
class Request:
    """A prompt to be continued under the module in `slot` (None: the base).

    Attributes:
        prefix: Context before the prompt; equal ones are encoded once.
        module_on: Where the module works: on everything; on what follows the prefix (all modules then share the base's
            encoding of it); or from the last token of the prompt on, so that it shapes each token of the answer and
            nothing that is read.
        grammar: Holds the answer to a JSON schema; made for the same base.
        draw: Draws the answer's tokens; None: the likeliest.
    """

    prompt: Ids
    slot: int | None = None
    max_new_tokens: int = 50
    prefix: Ids = ()
    module_on: ModuleOn = "all"
    grammar: Grammar | None = None
    draw: Draw | None = None


@dataclass(frozen=True)
class Generation:
    """What came out.

    Attributes:
        ids: New tokens, the stop token not included.
        text: Their text, stripped; under a grammar the JSON.
        truncated: It reached its limit without a stop; under a grammar, before its JSON was closed.
        prompt_tokens: Length of its prompt, prefix included.
        seconds: Its share of the time: that of every step, divided among the rows that were live in it.
    """

    ids: Ids
    text: str
    truncated: bool
    prompt_tokens: int
    seconds: float = field(default=0.0, compare=False)


OnDone = Callable[[int, Generation], None]


@torch.inference_mode()
def generate(
    base: Base,
    requests: Sequence[Request],
    *,
    bank: Bank | None = None,
    rows: int = 64,
    prefixes: PrefixCache | None = None,
    on_done: OnDone | None = None,
) -> list[Generation]:
    """Continuations, in the order asked. Deterministic: arg max, or drawn by the request's own seed; fp32 or the base's
    dtype.

    Args:
        rows: Rows that are decoded at once.
        prefixes: Keeps the contexts read last for the next call (with the same bank).
        on_done: Told the number of each request and what came out, as soon as it has ended.

    Raises:
        InputError: a prompt that leaves no room for an answer; `after-prefix` beyond a base's sliding window.
    """
    longest = 0  # of the rows with a prefix
    for one in requests:
        length = len(one.prefix) + len(one.prompt)
        check_length(base, length + 1)
        if not one.prompt:
            raise InputError("a request needs a prompt of at least one token")
        if one.prefix:
            longest = max(longest, length + one.max_new_tokens)
    if longest and not can_share(base, longest):
        if any(one.prefix and one.module_on == "after-prefix" and one.slot is not None for one in requests):
            raise InputError(
                f"module_on after-prefix: this base cannot share contexts in rows of {longest} tokens (its attention is of another kind, or its window shorter)"
            )
        requests = [replace(one, prompt=(*one.prefix, *one.prompt), prefix=()) for one in requests]
    rows = rows if len(requests) < 2 or pads_left(base) else 1
    decoder = _Decoder(base, requests, bank, prefixes or PrefixCache(base), rows, on_done)
    by_mode: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(requests):
        by_mode["all" if one.slot is None else one.module_on].append(index)
    with nullcontext() if bank is None else bank.active([]):
        for mode, own in by_mode.items():
            decoder.run(mode, own)
    return [decoder.result(index) for index in range(len(requests))]


@dataclass
class _Rows:
    """Rows that are being decoded, lane by lane; lanes of one batch have equal height.

    Attributes:
        cache: Keys and values of what was read after the prefix; `mask_BC` tells tokens from padding.
        place_B: Position of the last token read.
        next_B: The token that was chosen, not yet read (before the first choice: the prompt's last).
        index: Request of each row; None for a row that only fills its lane.
        done: It has ended (or only fills).
        lanes: (slot, entry of the shared prefix, rows) of each lane.
        prefix: What the rows begin with, if they share anything.
    """

    cache: Any
    mask_BC: Tensor
    place_B: Tensor
    next_B: Tensor
    index: list[int | None]
    done: list[bool]
    lanes: list[tuple[int | None, int, int]]
    prefix: SharedPrefix | None

    @property
    def blocks(self) -> list[Block]:
        return [Block(slot, rows) for slot, _, rows in self.lanes]


class _Decoder:
    """The visible decoding loop, over batches of rows that come and go."""

    def __init__(
        self, base: Base, requests: Sequence[Request], bank: Bank | None, prefixes: PrefixCache, rows: int,
        on_done: OnDone | None,
    ):  # fmt: skip
        self.base, self.requests, self.bank, self.prefixes = base, requests, bank, prefixes
        self.capacity, self.on_done = rows, on_done
        self.choose = Chooser(requests)
        self.told: list[list[int]] = [[] for _ in requests]
        self.seconds, self.last = [0.0] * len(requests), time.perf_counter()
        self.stops = base.prompts.stop_ids
        self.limits = [
            min(one.max_new_tokens, base.context_length - len(one.prefix) - len(one.prompt))
            for one in requests
        ]
        kinds = {type(layer) for layer in DynamicCache(config=base.model.config).layers}
        self.refills = kinds == {DynamicLayer}  # caches that forget, or keep a state, cannot be joined
        self.shrinks = kinds <= {DynamicLayer, DynamicSlidingWindowLayer}

    def result(self, index: int) -> Generation:
        ids, one = self.told[index], self.requests[index]
        ended = bool(ids) and ids[-1] in self.stops
        kept = ids[:-1] if ended else ids
        text = self.base.prompts.decode(kept) if one.grammar is None else one.grammar.decode(kept)
        truncated = not ended and index not in self.choose.closed
        return Generation(
            tuple(kept), text, truncated, len(one.prefix) + len(one.prompt), self.seconds[index]
        )

    def run(self, mode: str, own: Sequence[int]) -> None:
        """Answer the requests `own`, whose modules are all on in the way of `mode`."""
        refills = self.refills and not any(self.requests[index].prefix for index in own)
        height = self.capacity if len(own) <= self.capacity or not refills else max(1, self.capacity // 2)
        lanes = [Lane(self.requests[i].slot, self.requests[i].prefix) for i in own]
        lengths = [len(self.requests[i].prompt) for i in own]
        batches: Iterator[RowBatch] = (
            replace(batch, members=tuple(None if i is None else own[i] for i in batch.members))
            for batch in make_batches(lanes, lengths, self.bank, rows=height)
        )
        waiting = next(batches, None)
        rows: _Rows | None = None
        while rows is not None or waiting is not None:
            while waiting is not None and (
                rows is None or (refills and self._room(len(rows.index), rows, waiting))
            ):
                rows = self._join(rows, self._read(waiting, mode))
                waiting = next(batches, None)
            assert rows is not None
            if all(rows.done):
                rows = None
            elif not self._leave(rows, waiting if refills else None):
                self._step(rows)

    def _forward(self, prefix: SharedPrefix | None, blocks: list[Block], **inputs: Any) -> Any:
        if self.bank is not None and tuple(blocks) != self.bank.blocks:
            self.bank.change(blocks)
        with nullcontext() if prefix is None else prefix.on():
            return self.base.model(use_cache=True, logits_to_keep=1, **inputs)

    def _read(self, batch: RowBatch, mode: str) -> _Rows:
        """Prefill: prefixes, then prompts; the first token of each answer is chosen."""
        asked = [self.requests[index] for index in batch.filled]
        prefix, entries = None, [0] * len(batch.lanes)
        if batch.lanes[0].prefix:
            prefix = self.prefixes.of(batch, self.bank, module_on=mode == "all")
            entries = prefix.entries
        ids_BT, mask_BT = left_pad([one.prompt for one in asked], self.base.prompts.pad_id, self.base.device)
        place_BT = positions(mask_BT)
        if prefix is not None:
            place_BT = place_BT + prefix.lengths_B[:, None]
        cache, start = None, 0
        if mode == "answer" and ids_BT.shape[1] > 1:  # the last token is read with the module on
            start = ids_BT.shape[1] - 1
            cache = self._forward(
                prefix, [Block(None, len(asked))], input_ids=ids_BT[:, :start], attention_mask=mask_BT[:, :start],
                position_ids=place_BT[:, :start],
            ).past_key_values  # fmt: skip
        output = self._forward(
            prefix, batch.blocks, input_ids=ids_BT[:, start:], attention_mask=mask_BT, position_ids=place_BT[:, start:],
            past_key_values=cache,
        )  # fmt: skip
        rows = _Rows(
            output.past_key_values, mask_BT, place_BT[:, -1], ids_BT[:, -1], list(batch.members),
            [index is None for index in batch.members],
            [(lane.slot, entry, batch.height) for lane, entry in zip(batch.lanes, entries, strict=True)], prefix,
        )  # fmt: skip
        self._tell(rows, output.logits[:, -1])
        return rows

    def _step(self, rows: _Rows) -> None:
        """Read the chosen tokens, choose the next ones."""
        rows.place_B = rows.place_B + 1
        rows.mask_BC = pad(rows.mask_BC, (0, 1), value=1)
        output = self._forward(
            rows.prefix, rows.blocks, input_ids=rows.next_B[:, None], attention_mask=rows.mask_BC,
            past_key_values=rows.cache, position_ids=rows.place_B.clamp(max=self.base.context_length - 1)[:, None],
        )  # fmt: skip
        rows.cache = output.past_key_values
        self._tell(rows, output.logits[:, -1])

    def _tell(self, rows: _Rows, logits_BV: Tensor) -> None:
        """Choose the next tokens and note them; rows that have ended are told."""
        live = {row: i for row, i in enumerate(rows.index) if i is not None and not rows.done[row]}
        rows.next_B = self.choose(logits_BV, live)
        tokens = rows.next_B.tolist()
        now = time.perf_counter()
        share, self.last = (now - self.last) / len(live), now
        for row, index in live.items():
            self.told[index].append(tokens[row])
            self.seconds[index] += share
            closed = self.choose.tell(index, tokens[row])
            rows.done[row] = (
                closed or tokens[row] in self.stops or len(self.told[index]) >= self.limits[index]
            )
            if rows.done[row]:
                self.choose.forget(index)
                if self.on_done:
                    self.on_done(index, self.result(index))

    def _room(self, live: int, rows: _Rows, waiting: RowBatch) -> bool:
        """Whether a batch that waits may join `live` rows: by rows, and by the tokens cached for all of them."""
        count = live + len(waiting.members)
        longest = max(len(self.requests[index].prompt) for index in waiting.filled)
        return count <= self.capacity and cache_holds(count, max(rows.mask_BC.shape[1], longest))

    def _leave(self, rows: _Rows, waiting: RowBatch | None) -> bool:
        """Let finished rows go, once that halves the batch or makes room for those that wait and may join.

        All lanes get the height of the fullest, and one with fewer live rows repeats one of them. Without prefixes the
        lanes of a module become one.
        """
        if not self.shrinks:
            return False
        live: dict[tuple[int | None, int], list[int]] = defaultdict(list)
        row = 0
        for slot, entry, height in rows.lanes:
            live[slot, entry] += [r for r in range(row, row + height) if not rows.done[r]]
            row += height
        live = {lane: own for lane, own in live.items() if own}
        tallest = max(map(len, live.values()))
        count, room = tallest * len(live), len(rows.index)
        joins = waiting is not None and count < room and self._room(count, rows, waiting)
        if count > room // 2 and not joins:
            return False
        order: dict[int | None, int] = {None: -1}
        if self.bank is not None:
            order |= {slot: place for place, slot in enumerate(self.bank.in_order())}
        placed = sorted(live.items(), key=lambda item: order[item[0][0]])
        kept = [r for _, own in placed for r in (*own, *[own[0]] * (tallest - len(own)))]
        real = [number < len(own) for _, own in placed for number in range(tallest)]
        keep_B = torch.tensor(kept, device=rows.mask_BC.device)
        rows.cache.batch_select_indices(keep_B)
        rows.mask_BC, rows.place_B, rows.next_B = (
            tensor[keep_B] for tensor in (rows.mask_BC, rows.place_B, rows.next_B)
        )
        rows.index = [rows.index[r] if fine else None for r, fine in zip(kept, real, strict=True)]
        rows.done = [index is None for index in rows.index]
        rows.lanes = [(slot, entry, tallest) for (slot, entry), _ in placed]
        if rows.prefix is not None:
            rows.prefix.select([entry for _, entry, _ in rows.lanes], tallest)
        if self.refills:  # columns that were padding for all who stay
            empty = int(rows.mask_BC.any(0).int().argmax())
            rows.mask_BC = rows.mask_BC[:, empty:]
            for layer in rows.cache.layers if empty else ():
                layer.keys, layer.values = layer.keys[:, :, empty:], layer.values[:, :, empty:]
        return True

    def _join(self, old: _Rows | None, new: _Rows) -> _Rows:
        """Both sets of rows as one; the shorter caches are padded on the left."""
        if old is None:
            return new
        length = max(old.mask_BC.shape[1], new.mask_BC.shape[1])
        for part in (old, new):
            missing = length - part.mask_BC.shape[1]
            part.mask_BC = pad(part.mask_BC, (missing, 0))
            for layer in part.cache.layers if missing else ():
                layer.keys, layer.values = (
                    pad(kept, (0, 0, missing, 0)) for kept in (layer.keys, layer.values)
                )
        for mine, other in zip(old.cache.layers, new.cache.layers, strict=True):
            mine.keys = torch.cat([mine.keys, other.keys])
            mine.values = torch.cat([mine.values, other.values])
        return _Rows(
            old.cache, torch.cat([old.mask_BC, new.mask_BC]), torch.cat([old.place_B, new.place_B]),
            torch.cat([old.next_B, new.next_B]), old.index + new.index, old.done + new.done, old.lanes + new.lanes, None,
        )  # fmt: skip
