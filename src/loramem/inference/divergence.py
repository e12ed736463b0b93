"""How far modules move the base's next-token distributions on whole passages, in batches; every row with its own module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from loramem.base.forward import CHUNK_BYTES, hidden_states, logits_of
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.batching import CACHED_TOKENS, Ids, Lane, check_length, make_batches
from loramem.metrics.harm import kl_nats
from loramem.modules.bank import Bank


@torch.inference_mode()
def divergence(
    base: Base, requests: Sequence[tuple[Ids, int | None]], *, bank: Bank | None = None, rows: int = 64
) -> list[float]:
    """Mean KL(base || base with the module) per token of each (passage, slot), in nats, in the order asked.

    The mean is over all tokens of the passage: the distribution after each of them, the last included. A request without a
    slot is the base beside itself and gives exactly 0. The base reads every distinct passage once, whatever number of modules
    is compared on it, and its logits are made once; logits exist for a part of one passage at a time (`CHUNK_BYTES`).
    They are compared in double precision, where the device has it: a divergence is a small difference of large sums.

    In half precision the batch a passage is read in changes its logits by rounding, so that a module that changes nothing
    may be some 1e-5 nats away from its base; in single precision it is below 1e-10.

    Raises:
        InputError: an empty passage, or one that does not fit the base.
    """
    for ids, _ in requests:
        if not ids:
            raise InputError("a divergence needs a passage of at least one token")
    check_length(base, max((len(ids) for ids, _ in requests), default=0))
    found = [0.0] * len(requests)
    asked: dict[Ids, list[int]] = defaultdict(list)
    for index, (ids, slot) in enumerate(requests):
        if slot is not None:
            asked[tuple(ids)].append(index)
    for passages in _windows(asked):
        indices = [index for ids in passages for index in asked[ids]]
        moved = _states(base, [requests[index] for index in indices], bank, rows)
        plain = _states(base, [(ids, None) for ids in passages], bank, rows)
        own = dict(zip(indices, moved, strict=True))
        for ids, states_TH in zip(passages, plain, strict=True):
            means = _compared(base, states_TH, [own[index] for index in asked[ids]])
            for index, mean in zip(asked[ids], means, strict=True):
                found[index] = mean
    return found


def _windows(asked: dict[Ids, list[int]]) -> Iterator[list[Ids]]:
    """Passages whose states are kept at once, longest first, all requests of one together: so the base's logits are made
    once. At most `CACHED_TOKENS` tokens of states, or one passage."""
    held: list[Ids] = []
    tokens = 0
    for ids in sorted(asked, key=lambda ids: (-len(ids), ids)):
        own = len(ids) * (len(asked[ids]) + 1)
        if held and tokens + own > CACHED_TOKENS:
            yield held
            held, tokens = [], 0
        held.append(ids)
        tokens += own
    if held:
        yield held


def _states(
    base: Base, requests: Sequence[tuple[Ids, int | None]], bank: Bank | None, rows: int
) -> list[Tensor]:
    """What the head reads at every token of each passage, `[T, H]` each; rows are padded on the right, so without a mask."""
    found: dict[int, Tensor] = {}
    lanes = [Lane(slot) for _, slot in requests]
    lengths = [len(ids) for ids, _ in requests]
    for batch in make_batches(lanes, lengths, bank, rows=rows):
        own = [requests[index][0] for index in batch.filled]
        ids_BT = torch.full((len(own), max(map(len, own))), base.prompts.pad_id)
        real_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
        for row, ids in enumerate(own):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            real_BT[row, : len(ids)] = True
        with nullcontext() if bank is None else bank.active(batch.blocks):
            states_NH = hidden_states(base.model, ids_BT.to(base.device), real_BT.to(base.device))[0]
        parts = states_NH.split([len(ids) for ids in own])
        found |= {i: part for i, part in zip(batch.members, parts, strict=True) if i is not None}
    return [found[index] for index in range(len(requests))]


def _compared(base: Base, base_states_TH: Tensor, module_states: Sequence[Tensor]) -> list[float]:
    """Mean divergence of each module on one passage: the base's logits are made once per part, then every module's."""
    wide = torch.float32 if base.device.type == "mps" else torch.float64
    vocabulary = base.model.get_output_embeddings().weight.shape[0]
    part = max(16, CHUNK_BYTES // (8 * vocabulary))  # rows of one table of logits in double precision
    sums = [0.0] * len(module_states)
    for start in range(0, len(base_states_TH), part):
        base_TV = logits_of(base.model, base_states_TH[start : start + part]).to(wide)
        for number, states_TH in enumerate(module_states):
            module_TV = logits_of(base.model, states_TH[start : start + part]).to(wide)
            sums[number] += kl_nats(base_TV, module_TV).sum().item()
    # equal distributions can come out a rounding below zero; no divergence is
    return [max(0.0, total / len(base_states_TH)) for total in sums]
