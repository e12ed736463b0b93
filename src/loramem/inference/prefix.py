"""Many questions on few contexts: a context goes through the model once, its cache serves all its questions.

Rows that begin with the same prefix form a group. Several groups are encoded together (left-padded), then every
group's cache is repeated for its rows: 1,000 questions on one long document and 1,000 questions with passages of
their own are the same thing here.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.inference.batching import CACHED_TOKENS, check_length, left_pad, positions
from loramem.inference.generate import Generation, Request, as_generation, decode, generate
from loramem.inference.loglik import Score, ScoreRequest, loglikelihood, target_score

Ids = Sequence[int]


def can_share(base: Base, length: int) -> bool:
    """Whether a prefix may be shared in rows of `length` tokens: not beyond a sliding window, where caches forget it."""
    config = base.model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return not window or length < window


@dataclass(frozen=True)
class _Batch:
    """Groups that go through the model together.

    Attributes:
        prefixes: One per group.
        members: Row indices of each group, all of equal number; None fills a group up.
    """

    prefixes: tuple[tuple[int, ...], ...]
    members: tuple[tuple[int | None, ...], ...]

    @property
    def flat(self) -> list[int | None]:
        return [index for group in self.members for index in group]

    @property
    def filled(self) -> list[int]:
        """Row indices with a real one in place of every None."""
        return [
            next(i for i in group if i is not None) if index is None else index
            for group in self.members
            for index in group
        ]


def _batches(prefixes: Sequence[Ids], rest: Sequence[int], rows: int) -> Iterator[_Batch]:
    """Batches of at most `rows` rows and about `CACHED_TOKENS` cached tokens, groups of similar size together.

    Args:
        prefixes: Of each row.
        rest: Tokens of each row after its prefix.
    """
    by_prefix: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prefix in enumerate(prefixes):
        by_prefix[tuple(prefix)].append(index)
    parts: list[tuple[tuple[int, ...], list[int]]] = []
    for prefix, indices in by_prefix.items():
        indices.sort(key=lambda i: (-rest[i], i))
        most = max(1, min(rows, CACHED_TOKENS // max(1, len(prefix))))
        parts += [(prefix, indices[start : start + most]) for start in range(0, len(indices), most)]
    parts.sort(key=lambda part: (-len(part[1]), -len(part[0])))
    held: list[tuple[tuple[int, ...], list[int]]] = []
    for part in parts:
        height = len((held or [part])[0][1])
        longest = max(len(prefix) for prefix, _ in [*held, part])
        count = (len(held) + 1) * height
        if held and (count > rows or count * longest > CACHED_TOKENS or len(part[1]) < height / 2):
            yield _batch(held)
            held = []
        held.append(part)
    if held:
        yield _batch(held)


def _batch(parts: Sequence[tuple[tuple[int, ...], list[int]]]) -> _Batch:
    height = max(len(indices) for _, indices in parts)
    members = tuple((*indices, *[None] * (height - len(indices))) for _, indices in parts)
    return _Batch(tuple(prefix for prefix, _ in parts), members)


class _Prefill:
    """The caches of a batch's prefixes; the last ones stay, so that a long group that needs several batches encodes once."""

    def __init__(self, base: Base):
        self.base = base
        self.prefixes: tuple[tuple[int, ...], ...] = ()
        self.cache: Any = None
        self.encoded = 0

    def rows(self, batch: _Batch) -> tuple[Any, Tensor]:
        """(cache, mask `[rows, C]`) with each prefix repeated for the rows of its group; the kept cache stays as it was."""
        if batch.prefixes != self.prefixes:
            ids_GC, self.mask_GC = left_pad(batch.prefixes, self.base.prompts.pad_id, self.base.device)
            self.cache = self.base.model(
                input_ids=ids_GC, attention_mask=self.mask_GC, position_ids=positions(self.mask_GC), use_cache=True,
                logits_to_keep=1,
            ).past_key_values  # fmt: skip
            self.prefixes = batch.prefixes
            self.encoded += len(batch.prefixes)
        again = copy.deepcopy(self.cache)
        height = len(batch.members[0])
        again.batch_repeat_interleave(height)
        return again, self.mask_GC.repeat_interleave(height, dim=0)


@torch.inference_mode()
def generate_shared(
    base: Base, pairs: Sequence[tuple[Ids, Ids]], *, max_new_tokens: int, rows: int = 64
) -> tuple[list[Generation], int]:
    """Continue prefix + suffix for every (prefix, suffix). Equal to `generate` on the whole prompts.

    Returns:
        (generations in order, how many prefixes were encoded: one per group where they were shared).
    """
    longest = 0
    for prefix, suffix in pairs:
        check_length(base, len(prefix) + len(suffix) + 1)
        longest = max(longest, len(prefix) + len(suffix))
    if not all(prefix for prefix, _ in pairs) or not can_share(base, longest + max_new_tokens):
        requests = [Request((*prefix, *suffix), None, max_new_tokens) for prefix, suffix in pairs]
        return generate(base, requests, rows=rows), len(pairs)
    prefill = _Prefill(base)
    results: list[Generation | None] = [None] * len(pairs)
    for batch in _batches([prefix for prefix, _ in pairs], [len(suffix) for _, suffix in pairs], rows):
        cache, before_BC = prefill.rows(batch)
        ids_BT, mask_BT = left_pad([pairs[i][1] for i in batch.filled], base.prompts.pad_id, base.device)
        limits = [min(max_new_tokens, base.context_length - sum(map(len, pairs[i]))) for i in batch.filled]
        new = decode(
            base, ids_BT, mask_BT, limits=limits, ignore=[i is None for i in batch.flat], cache=cache, mask_before_BT=before_BC
        )  # fmt: skip
        for row, index in enumerate(batch.flat):
            if index is not None:
                results[index] = as_generation(base, new[row], limits[row], sum(map(len, pairs[index])))
    return [result for result in results if result is not None], prefill.encoded


@torch.inference_mode()
def loglikelihood_shared(
    base: Base, asked: Sequence[tuple[Ids, Ids, Ids]], *, rows: int = 64
) -> tuple[list[Score], int]:
    """Score target after prefix + prompt for every (prefix, prompt, target). Equal to `loglikelihood` on the whole.

    Returns:
        (scores in order, how many prefixes were encoded).
    """
    longest = max((sum(map(len, one)) for one in asked), default=0)
    check_length(base, longest)
    if not all(prefix for prefix, _, _ in asked) or not can_share(base, longest):
        requests = [ScoreRequest((*prefix, *prompt), tuple(target)) for prefix, prompt, target in asked]
        return loglikelihood(base, requests, rows=rows), len(asked)
    prefill = _Prefill(base)
    results: list[Score | None] = [None] * len(asked)
    for batch in _batches([one[0] for one in asked], [len(one[1]) + len(one[2]) for one in asked], rows):
        cache, before_BC = prefill.rows(batch)
        own = [asked[i] for i in batch.filled]
        ids_BT, mask_BT = left_pad(
            [(*prompt, *target) for _, prompt, target in own], base.prompts.pad_id, base.device
        )
        mask: Tensor = torch.cat([before_BC, mask_BT], dim=1)
        output = base.model(
            input_ids=ids_BT, attention_mask=mask, position_ids=positions(mask)[:, -ids_BT.shape[1] :], past_key_values=cache,
            use_cache=True, logits_to_keep=max(len(target) for _, _, target in own) + 1,
        )  # fmt: skip
        for row, index in enumerate(batch.flat):
            if index is not None:
                results[index] = target_score(output.logits[row], asked[index][2])
    return [result for result in results if result is not None], prefill.encoded
