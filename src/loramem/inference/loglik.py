"""Log-likelihoods of targets after prompts, in batches; every row with its own module or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loramem.base.forward import hidden_states, logits_of
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.batching import Ids, Lane, RowBatch, check_length, make_batches
from loramem.inference.families import can_share
from loramem.inference.prefix import PrefixCache, after_prefix
from loramem.modules.bank import Bank


@dataclass(frozen=True)
class ScoreRequest:
    """How likely is `target` after `prefix` + `prompt` under the module in `slot` (None: the base)?

    Equal prefixes are encoded once for all requests on one module.
    """

    prompt: Ids
    target: Ids
    slot: int | None = None
    prefix: Ids = ()


@dataclass(frozen=True)
class Score:
    """Log-likelihood of a target.

    Attributes:
        nats: Log-probability of each target token.
        greedy: Every target token is the arg max: greedy decoding would give the target.
    """

    nats: tuple[float, ...]
    greedy: bool

    @property
    def sum_nats(self) -> float:
        return sum(self.nats)

    @property
    def tokens(self) -> int:
        return len(self.nats)


@torch.inference_mode()
def loglikelihood(
    base: Base,
    requests: Sequence[ScoreRequest],
    *,
    bank: Bank | None = None,
    rows: int = 64,
    prefixes: PrefixCache | None = None,
) -> list[Score]:
    """Score every target, in the order asked; logits are built only at target positions.

    Raises:
        InputError: an empty prompt or target, or one that does not fit the base.
    """
    results: list[Score | None] = [None] * len(requests)
    longest = 0
    for request in requests:
        if not request.prompt or not request.target:
            raise InputError("a log-likelihood needs a prompt and a target of at least one token each")
        longest = max(longest, len(request.prefix) + len(request.prompt) + len(request.target))
    check_length(base, longest)
    if any(one.prefix for one in requests) and not can_share(base, longest):
        requests = [replace(one, prompt=(*one.prefix, *one.prompt), prefix=()) for one in requests]
    prefixes = prefixes or PrefixCache(base)
    lanes = [Lane(one.slot, one.prefix) for one in requests]
    lengths = [len(one.prompt) + len(one.target) for one in requests]
    for batch in make_batches(lanes, lengths, bank, rows=rows):
        own = [requests[index] for index in batch.filled]
        with nullcontext() if bank is None else bank.active(batch.blocks):
            states_NH = (
                _after_prefix(base, own, bank, batch, prefixes)
                if batch.lanes[0].prefix
                else _alone(base, own)
            )
            scores = _scores(base, own, states_NH)
        for index, score in zip(batch.members, scores, strict=True):
            if index is not None:
                results[index] = score
    return [result for result in results if result is not None]


def _alone(base: Base, asked: Sequence[ScoreRequest]) -> Tensor:
    """What the head reads before each target token, `[N, H]`, row after row; padded on the right, so without a mask."""
    longest = max(len(one.prompt) + len(one.target) for one in asked)
    ids_BT = torch.full((len(asked), longest), base.prompts.pad_id)
    before_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for row, one in enumerate(asked):
        ids_BT[row, : len(one.prompt) + len(one.target)] = torch.tensor([*one.prompt, *one.target])
        before_BT[row, len(one.prompt) - 1 : len(one.prompt) + len(one.target) - 1] = True
    return hidden_states(base.model, ids_BT.to(base.device), before_BT.to(base.device))[0]


def _after_prefix(
    base: Base, asked: Sequence[ScoreRequest], bank: Bank | None, batch: RowBatch, prefixes: PrefixCache
) -> Tensor:
    """The same after the cached prefixes of a batch."""
    prefix = prefixes.of(batch, bank, module_on=True)
    if bank is not None:
        bank.change(batch.blocks)
    states_BTH = after_prefix(base, [(*one.prompt, *one.target) for one in asked], prefix)
    return torch.cat([states_BTH[row, -len(one.target) - 1 : -1] for row, one in enumerate(asked)])


def _scores(base: Base, asked: Sequence[ScoreRequest], states_NH: Tensor) -> list[Score]:
    logits_NV = logits_of(base.model, states_NH)
    wanted_N = torch.tensor([token for one in asked for token in one.target], device=base.device)
    nats_N = logits_NV.log_softmax(-1).gather(1, wanted_N[:, None]).squeeze(1).double().tolist()
    greedy_N = (logits_NV.argmax(-1) == wanted_N).tolist()
    scores, start = [], 0
    for one in asked:
        stop = start + len(one.target)
        scores.append(Score(tuple(nats_N[start:stop]), all(greedy_N[start:stop])))
        start = stop
    return scores
