"""95 % intervals: Wilson for one proportion, a nested bootstrap (facts, then seeds) otherwise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

DRAWS = 2000


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (nan, nan) for n = 0. Halves (ties) are allowed.

    >>> tuple(round(x, 3) for x in wilson(9, 10))
    (0.596, 0.982)
    """
    if n == 0:
        return (math.nan, math.nan)
    z = float(norm.ppf(0.5 + level / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_means(
    values_SC: NDArray[np.float64],
    weights_SC: NDArray[np.float64],
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> NDArray[np.float64]:
    """Means over resampled seeds and facts; draws that hit no scored item are left out.

    Args:
        values_SC: Sum of scores of each fact under each seed, `[seeds, facts]`.
        weights_SC: Number of scored items behind each sum (0 where none).
        rng: Generator; nothing global is drawn from.

    Facts are drawn with replacement and kept whole over seeds; seeds are drawn with replacement within
    each draw, so both sources of variation enter.
    """
    seeds, facts = values_SC.shape
    fact_DC = rng.multinomial(facts, np.full(facts, 1 / facts), size=draws).astype(np.float64)
    seed_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).astype(np.float64)
    total_D = np.einsum("ds,sc,dc->d", seed_DS, values_SC, fact_DC, optimize=True)
    count_D = np.einsum("ds,sc,dc->d", seed_DS, weights_SC, fact_DC, optimize=True)
    drawn = count_D > 0
    return total_D[drawn] / count_D[drawn]


def mean_interval(
    values_SC: NDArray[np.float64],
    weights_SC: NDArray[np.float64],
    *,
    binary: bool,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """(mean, low, high) over seeds and facts.

    Wilson where there is one seed and every item is one fact's 0 or 1; Wilson over all items as well where
    every item has the same score, since a bootstrap of identical values has no width and would claim
    certainty; the bootstrap otherwise.
    """
    count = float(weights_SC.sum())
    if count == 0:
        return (math.nan, math.nan, math.nan)
    mean = float(values_SC.sum() / count)
    one_seed = values_SC.shape[0] == 1 and bool((weights_SC <= 1).all())
    if (one_seed and binary) or mean in (0.0, 1.0):
        # several seeds share the facts: the facts are what was sampled, so n is their number
        n = int((weights_SC.sum(0) > 0).sum())
        return (mean, *wilson(mean * n, n, level))
    means_D = bootstrap_means(values_SC, weights_SC, rng)
    low, high = np.quantile(means_D, [(1 - level) / 2, (1 + level) / 2])
    return (mean, float(low), float(high))
