"""Many questions on one context: the context goes through the model once, its cache serves all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.inference.batching import check_length, left_pad, positions
from loramem.inference.generate import Generation, Request, as_generation, decode, generate
from loramem.inference.loglik import Score, ScoreRequest, loglikelihood, target_score


def can_share(base: Base, length: int) -> bool:
    """Whether a prefix of `length` tokens may be shared: not beyond a sliding window, where caches forget it."""
    config = base.model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return not window or length < window


@torch.inference_mode()
def _prefill(base: Base, prefix: Sequence[int]) -> Any:
    ids_1C = torch.tensor([list(prefix)], device=base.device)
    return base.model(
        input_ids=ids_1C, attention_mask=torch.ones_like(ids_1C), use_cache=True, logits_to_keep=1
    ).past_key_values


def _repeated(cache: Any, rows: int) -> Any:
    """A copy of a one-row cache for `rows` rows; the original stays as it was."""
    again = copy.deepcopy(cache)
    again.batch_repeat_interleave(rows)
    return again


CACHED_TOKENS = 32_768  # rows * prefix: a repeated cache grows with both, and is copied at every step


def _chunks(lengths: Sequence[int], rows: int, prefix: int) -> list[list[int]]:
    rows = max(1, min(rows, CACHED_TOKENS // max(1, prefix)))
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


@torch.inference_mode()
def generate_shared(
    base: Base,
    prefix: Sequence[int],
    suffixes: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    rows: int = 64,
) -> tuple[list[Generation], int]:
    """Continue prefix + suffix for every suffix. Equal to `generate` on the whole prompts.

    Returns:
        (generations in order, how often the prefix was encoded: 1 where it was shared, else once per suffix).
    """
    for suffix in suffixes:
        check_length(base, len(prefix) + len(suffix) + 1)
    longest = max(map(len, suffixes), default=0)
    if not prefix or not can_share(base, len(prefix) + longest + max_new_tokens):
        return generate(
            base, [Request((*prefix, *s), None, max_new_tokens) for s in suffixes], rows=rows
        ), len(suffixes)
    cache = _prefill(base, prefix)
    results: list[Generation | None] = [None] * len(suffixes)
    for chunk in _chunks([len(s) for s in suffixes], rows, len(prefix)):
        ids_BT, mask_BT = left_pad([suffixes[i] for i in chunk], base.prompts.pad_id, base.device)
        before_BC = torch.ones(len(chunk), len(prefix), dtype=torch.long, device=base.device)
        limits = [min(max_new_tokens, base.context_length - len(prefix) - len(suffixes[i])) for i in chunk]
        new = decode(
            base, ids_BT, mask_BT, limits=limits, cache=_repeated(cache, len(chunk)), mask_before_BT=before_BC
        )
        for row, index in enumerate(chunk):
            results[index] = as_generation(base, new[row], limits[row], len(suffixes[index]))
    return [result for result in results if result is not None], 1


@torch.inference_mode()
def loglikelihood_shared(
    base: Base, prefix: Sequence[int], pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, rows: int = 64
) -> tuple[list[Score], int]:
    """Score target after prefix + prompt for every (prompt, target). Equal to `loglikelihood` on the whole.

    Returns:
        (scores in order, how often the prefix was encoded).
    """
    longest = max((len(prompt) + len(target) for prompt, target in pairs), default=0)
    check_length(base, len(prefix) + longest)
    if not prefix or not can_share(base, len(prefix) + longest):
        requests = [ScoreRequest((*prefix, *prompt), tuple(target)) for prompt, target in pairs]
        return loglikelihood(base, requests, rows=rows), len(pairs)
    cache = _prefill(base, prefix)
    results: list[Score | None] = [None] * len(pairs)
    for chunk in _chunks([len(p) + len(t) for p, t in pairs], rows, len(prefix)):
        ids_BT, mask_BT = left_pad(
            [(*pairs[i][0], *pairs[i][1]) for i in chunk], base.prompts.pad_id, base.device
        )
        before_BC = torch.ones(len(chunk), len(prefix), dtype=torch.long, device=base.device)
        mask: Tensor = torch.cat([before_BC, mask_BT], dim=1)
        keep = max(len(pairs[i][1]) for i in chunk) + 1
        output = base.model(
            input_ids=ids_BT, attention_mask=mask, position_ids=positions(mask)[:, -ids_BT.shape[1] :],
            past_key_values=_repeated(cache, len(chunk)), use_cache=True, logits_to_keep=keep,
        )  # fmt: skip
        for row, index in enumerate(chunk):
            results[index] = target_score(output.logits[row], pairs[index][1])
    return [result for result in results if result is not None], 1
