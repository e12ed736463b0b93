"""Greedy decoding in batches; every row with its own module or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.inference.batching import activate, check_length, left_pad, make_batches, positions
from loramem.modules.bank import Bank


@dataclass(frozen=True)
class Request:
    """A prompt to be continued under the module in `slot` (None: the base)."""

    prompt: tuple[int, ...]
    slot: int | None = None
    max_new_tokens: int = 50


@dataclass(frozen=True)
class Generation:
    """What came out.

    Attributes:
        ids: New tokens, the stop token not included.
        text: Their text, stripped.
        truncated: It reached its limit without a stop.
        prompt_tokens: Length of its prompt.
    """

    ids: tuple[int, ...]
    text: str
    truncated: bool
    prompt_tokens: int


@torch.inference_mode()
def generate(
    base: Base, requests: Sequence[Request], *, bank: Bank | None = None, rows: int = 64
) -> list[Generation]:
    """Greedy continuations, in the order asked. Deterministic: arg max, fp32 or the base's dtype.

    Raises:
        InputError: a prompt that leaves no room for an answer.
    """
    results: list[Generation | None] = [None] * len(requests)
    for request in requests:
        check_length(base, len(request.prompt) + 1)
    for batch in make_batches([r.slot for r in requests], [len(r.prompt) for r in requests], bank, rows=rows):
        filled = [
            next(i for i in batch.members if i is not None) if index is None else index
            for index in batch.members
        ]
        ids_BT, mask_BT = left_pad(
            [requests[index].prompt for index in filled], base.prompts.pad_id, base.device
        )
        limits = [
            min(requests[i].max_new_tokens, base.context_length - len(requests[i].prompt)) for i in filled
        ]
        with activate(bank, batch):
            new = decode(
                base,
                ids_BT,
                mask_BT,
                limits=limits,
                ignore=[index is None for index in batch.members],
                bank=bank,
            )
        for row, index in enumerate(batch.members):
            if index is not None:
                results[index] = as_generation(base, new[row], limits[row], len(requests[index].prompt))
    return [result for result in results if result is not None]


def as_generation(base: Base, ids: list[int], limit: int, prompt_tokens: int) -> Generation:
    stops = base.prompts.stop_ids
    ended = next((position for position, token in enumerate(ids) if token in stops), None)
    kept = ids[:ended] if ended is not None else ids[:limit]
    return Generation(tuple(kept), base.prompts.decode(kept), ended is None, prompt_tokens)


def decode(
    base: Base,
    ids_BT: Tensor,
    mask_BT: Tensor,
    *,
    limits: Sequence[int],
    ignore: Sequence[bool] | None = None,
    cache: Any = None,
    mask_before_BT: Tensor | None = None,
    bank: Bank | None = None,
) -> list[list[int]]:
    """The visible decoding loop: prefill, then one token per step until every row has stopped.

    Rows that have stopped leave the batch as soon as half of it would be saved, so one long answer does not keep
    hundreds of finished ones going.

    Args:
        ids_BT, mask_BT: int64 `[B, T]`, padded on the left.
        limits: New tokens allowed, per row.
        ignore: Rows that need not end (they only fill a block).
        cache: Keys and values of tokens before `ids_BT`; `mask_before_BT` is their mask `[B, C]`.
        bank: The bank that is active for these rows, if one is.

    Returns:
        Per row the new token ids, up to and including its stop token.
    """
    model = base.model
    mask = mask_BT if mask_before_BT is None else torch.cat([mask_before_BT, mask_BT], dim=1)
    place = positions(mask)[:, -ids_BT.shape[1] :]
    output = model(
        input_ids=ids_BT, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True, logits_to_keep=1
    )  # fmt: skip
    cache = output.past_key_values
    stops = torch.tensor(sorted(base.prompts.stop_ids), device=ids_BT.device)
    limit_B = torch.tensor(list(limits), device=ids_BT.device)
    done_B = torch.zeros_like(limit_B, dtype=torch.bool)
    if ignore is not None:
        done_B = torch.tensor(list(ignore), device=ids_BT.device)
    place_B = place[:, -1]
    steps = max(limits, default=0)
    told_BS = torch.zeros(len(limits), steps, dtype=torch.long, device=ids_BT.device)
    row_B = torch.arange(len(limits), device=ids_BT.device)  # which row of the answer a row of the batch is
    for count in range(1, steps + 1):
        next_B = output.logits[:, -1].argmax(-1)
        told_BS[row_B, count - 1] = next_B
        done_B = done_B | torch.isin(next_B, stops) | (limit_B <= count)
        if bool(done_B.all()):
            break
        kept = _survivors(done_B.tolist(), bank)
        if kept is not None:
            keep_B = torch.tensor(kept, device=ids_BT.device)
            cache.batch_select_indices(keep_B)
            mask, place_B, limit_B, done_B, row_B, next_B = (
                tensor[keep_B] for tensor in (mask, place_B, limit_B, done_B, row_B, next_B)
            )
        place_B = place_B + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        output = model(
            input_ids=next_B[:, None], attention_mask=mask, position_ids=place_B.clamp(max=base.context_length - 1)[:, None],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
    return [row[:limit] for row, limit in zip(told_BS.tolist(), limits, strict=True)]


def _survivors(done: list[bool], bank: Bank | None) -> list[int] | None:
    """Rows to go on with, once that halves the batch; None to go on with all.

    Under a bank rows lie in equal blocks, one per module: blocks without a live row go, the others shrink to the
    height of the fullest, and a block that has fewer live rows repeats one of them.
    """
    if bank is None or not bank.order:
        live = [row for row, ended in enumerate(done) if not ended]
        return live if len(live) <= len(done) // 2 else None
    height = bank.rows
    blocks = [
        [row for row in range(start, start + height) if not done[row]]
        for start in range(0, len(done), height)
    ]
    kept = [(slot, live) for slot, live in zip(bank.order, blocks, strict=True) if live]
    tallest = max(len(live) for _, live in kept)
    if len(kept) * tallest > len(done) // 2:
        return None
    bank.shrink([slot for slot, _ in kept], rows=tallest)
    return [row for _, live in kept for row in (*live, *[live[0]] * (tallest - len(live)))]
