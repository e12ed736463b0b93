"""Paired differences: two readings of the same facts, compared fact by fact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000


def paired_difference(
    a_C: NDArray[np.float64], b_C: NDArray[np.float64], rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, float, float, float]:
    """(mean a - b, 95 % low, 95 % high, two-sided p) over facts.

    Args:
        a_C, b_C: Mean score of each fact (over seeds and items), in the same order.

    The interval is a bootstrap over facts; p is a sign-flip permutation test with `draws` random flips,
    (1 + number as extreme) / (1 + draws), so it is never 0.
    """
    assert a_C.shape == b_C.shape and a_C.size, (a_C.shape, b_C.shape)
    difference_C = a_C - b_C
    mean = float(difference_C.mean())
    picks_DC = rng.integers(0, difference_C.size, size=(draws, difference_C.size))
    low, high = np.quantile(difference_C[picks_DC].mean(1), [0.025, 0.975])
    signs_DC = rng.choice((-1.0, 1.0), size=(draws, difference_C.size))
    extreme = np.abs((signs_DC * difference_C).mean(1)) >= abs(mean) - 1e-12
    return (mean, float(low), float(high), float((1 + extreme.sum()) / (1 + draws)))


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
