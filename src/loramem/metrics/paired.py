"""Paired differences: two readings of the same facts, compared fact by fact."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from loramem.core.identity import seed_from
from loramem.metrics.intervals import bootstrap_means

FLIPS = 10_000


@lru_cache(maxsize=16)
def _signs(facts: int) -> NDArray[np.float32]:
    """Random signs `[flips, facts]`, the same for every comparison of as many facts."""
    rng = np.random.default_rng(seed_from("sign-flips", facts, FLIPS))
    return rng.choice(np.array([-1, 1], dtype=np.float32), size=(FLIPS, facts))


def paired_difference(
    a_SC: NDArray[np.float64], b_SC: NDArray[np.float64], clusters: Sequence[Hashable] | None = None
) -> tuple[float, float, float, float]:
    """(mean a - b, 95 % low, 95 % high, two-sided p) over seeds and facts.

    Args:
        a_SC, b_SC: Score of each fact (mean over its items) under each training seed, `[seeds, facts]` or `[facts]`, facts in
            the same order; NaN where it failed. One row beside several is held against each of them.
        clusters: What each fact belongs to (its document); whole clusters are drawn and flipped. None: facts.

    The interval is a bootstrap over facts or clusters with seeds nested, as for single cells; p is a sign-flip permutation test
    of facts or clusters with `FLIPS` random flips, (1 + number as extreme) / (1 + FLIPS), so it is never 0.
    """
    difference_SC = np.atleast_2d(a_SC) - np.atleast_2d(b_SC)
    assert np.shape(a_SC)[-1] == np.shape(b_SC)[-1] and difference_SC.size, (np.shape(a_SC), np.shape(b_SC))
    facts = difference_SC.shape[1]
    numbers: dict[Hashable, int] = {}
    place_C = np.array(
        [numbers.setdefault(c, len(numbers)) for c in (range(facts) if clusters is None else clusters)]
    )
    known_SC = np.isfinite(difference_SC)
    sum_SK, count_SK = (
        np.stack([np.bincount(place_C, row, len(numbers)).astype(float) for row in rows])
        for rows in (np.where(known_SC, difference_SC, 0.0), known_SC)
    )
    mean = float(sum_SK.sum() / count_SK.sum())
    low, high = np.nanquantile(bootstrap_means(sum_SK, count_SK), [0.025, 0.975])
    flipped = _signs(len(numbers)) @ sum_SK.sum(0).astype(np.float32) / np.float32(count_SK.sum())
    extreme = np.abs(flipped) >= abs(mean) - 1e-6
    return (mean, float(low), float(high), float((1 + extreme.sum()) / (1 + FLIPS)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the given order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
