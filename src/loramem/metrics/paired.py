"""Paired differences: two readings of the same facts, compared fact by fact."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from loramem.core.identity import seed_from
from loramem.metrics.intervals import resamples

FLIPS = 10_000


@lru_cache(maxsize=16)
def _signs(facts: int) -> NDArray[np.float32]:
    """Random signs `[flips, facts]`, the same for every comparison of as many facts."""
    rng = np.random.default_rng(seed_from("sign-flips", facts, FLIPS))
    return rng.choice(np.array([-1, 1], dtype=np.float32), size=(FLIPS, facts))


def paired_difference(
    a_C: NDArray[np.float64], b_C: NDArray[np.float64], clusters: Sequence[Hashable] | None = None
) -> tuple[float, float, float, float]:
    """(mean a - b, 95 % low, 95 % high, two-sided p) over facts.

    Args:
        a_C, b_C: Mean score of each fact (over seeds and items), in the same order.
        clusters: What each fact belongs to (its document); whole clusters are drawn and flipped. None: facts.

    The interval is a bootstrap over facts or clusters; p is a sign-flip permutation test with `FLIPS` random flips,
    (1 + number as extreme) / (1 + FLIPS), so it is never 0.
    """
    assert a_C.shape == b_C.shape and a_C.size, (a_C.shape, b_C.shape)
    difference_C = a_C - b_C
    mean = float(difference_C.mean())
    if clusters is None:
        sum_K, count_K = difference_C.astype(np.float32), np.ones(difference_C.size, np.float32)
    else:
        numbers: dict[Hashable, int] = {}
        place_C = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
        sum_K = np.bincount(place_C, difference_C).astype(np.float32)
        count_K = np.bincount(place_C).astype(np.float32)
    draws_DK = resamples(sum_K.size)
    low, high = np.quantile((draws_DK @ sum_K) / (draws_DK @ count_K), [0.025, 0.975])
    extreme = np.abs(_signs(sum_K.size) @ sum_K / count_K.sum()) >= abs(mean) - 1e-6
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
