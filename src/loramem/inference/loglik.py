"""Log-likelihoods of targets after prompts, in batches; every row with its own module or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.batching import RowBatch, activate, check_length, make_batches
from loramem.inference.head import only_at
from loramem.modules.bank import Bank


@dataclass(frozen=True)
class ScoreRequest:
    """How likely is `target` after `prompt` under the module in `slot` (None: the base)?"""

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    slot: int | None = None


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
    base: Base, requests: Sequence[ScoreRequest], *, bank: Bank | None = None, rows: int = 64
) -> list[Score]:
    """Score every target, in the order asked; logits are built only at target positions.

    Raises:
        InputError: an empty prompt or target, or one that does not fit the base.
    """
    results: list[Score | None] = [None] * len(requests)
    for request in requests:
        if not request.prompt or not request.target:
            raise InputError("a log-likelihood needs a prompt and a target of at least one token each")
        check_length(base, len(request.prompt) + len(request.target))
    lengths = [len(r.prompt) + len(r.target) for r in requests]
    for batch in make_batches([r.slot for r in requests], lengths, bank, rows=rows):
        filled = [
            next(i for i in batch.members if i is not None) if index is None else index
            for index in batch.members
        ]
        for index, score in zip(
            batch.members, _scores(base, [requests[i] for i in filled], bank, batch), strict=True
        ):
            if index is not None:
                results[index] = score
    return [result for result in results if result is not None]


def _scores(base: Base, asked: Sequence[ScoreRequest], bank: Bank | None, batch: RowBatch) -> list[Score]:
    """Scores of one batch. Padding stands on the right, where a causal model never looks back from: no mask is needed."""
    longest = max(len(one.prompt) + len(one.target) for one in asked)
    ids_BT = torch.full((len(asked), longest), base.prompts.pad_id)
    before_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)  # the positions that predict a target token
    for row, one in enumerate(asked):
        ids_BT[row, : len(one.prompt) + len(one.target)] = torch.tensor([*one.prompt, *one.target])
        before_BT[row, len(one.prompt) - 1 : len(one.prompt) + len(one.target) - 1] = True
    head = base.model.get_output_embeddings()
    with activate(bank, batch), only_at(head, before_BT.to(base.device)):
        logits_NV = base.model(input_ids=ids_BT.to(base.device), use_cache=False).logits[0].float()
    wanted_N = torch.tensor([token for one in asked for token in one.target], device=base.device)
    nats_N = logits_NV.log_softmax(-1).gather(1, wanted_N[:, None]).squeeze(1).double().tolist()
    greedy_N = (logits_NV.argmax(-1) == wanted_N).tolist()
    scores, start = [], 0
    for one in asked:
        stop = start + len(one.target)
        scores.append(Score(tuple(nats_N[start:stop]), all(greedy_N[start:stop])))
        start = stop
    return scores


def target_score(logits_TV: Tensor, target: Sequence[int]) -> Score:
    """Score of a target that ends at the last row of `logits_TV` (float `[T, V]`, T > len(target))."""
    count = len(target)
    logits_NV = logits_TV[-count - 1 : -1].float()
    ids_N = torch.tensor(list(target), device=logits_TV.device)
    nats_N = logits_NV.log_softmax(-1).gather(1, ids_N[:, None]).squeeze(1)
    return Score(tuple(nats_N.double().tolist()), bool((logits_NV.argmax(-1) == ids_N).all()))
