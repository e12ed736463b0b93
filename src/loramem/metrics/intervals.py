"""95 % intervals: Wilson for one proportion, a nested bootstrap (facts, then seeds) otherwise; bounds where items failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from loramem.core.identity import seed_from

DRAWS = 2000


def bounds(
    values: Sequence[float | None], low: float = 0.0, high: float = 10.0
) -> tuple[float, float, float]:
    """(mean of what was scored, mean if all that failed were `low`, mean if all were `high`); NaN of nothing.

    Args:
        values: One per item; None (or NaN) where scoring failed.

    >>> bounds([8.0, None, 4.0, None])
    (6.0, 3.0, 8.0)
    """
    scored = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return (math.nan, math.nan, math.nan)
    total, failed = math.fsum(scored), len(values) - len(scored)
    mean = total / len(scored) if scored else math.nan
    return (mean, (total + failed * low) / len(values), (total + failed * high) / len(values))


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
    # at the ends rounding would leave an interval that does not hold its own share
    return (0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half))


@lru_cache(maxsize=64)
def resamples(items: int, draws: int = DRAWS) -> NDArray[np.float32]:
    """How often each of `items` is drawn in each of `draws` bootstrap samples, `[draws, items]`.

    The same for every cell of as many items (common random numbers): a report drawn again says the same, and
    cells that share their facts are compared on the same samples.
    """
    rng = np.random.default_rng(seed_from("resamples", items, draws))
    return rng.multinomial(items, np.full(items, 1 / items), size=draws).astype(np.float32)


def bootstrap_means(values_SC: NDArray[np.float64], weights_SC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over resampled seeds and facts, `[draws]`; a draw that hits no scored item is NaN.

    Args:
        values_SC: Sum of scores of each fact under each seed, `[seeds, facts]`.
        weights_SC: Number of scored items behind each sum (0 where none).

    Facts are drawn with replacement and kept whole over seeds; seeds are drawn with replacement within
    each draw, so both sources of variation enter.
    """
    seeds, facts = values_SC.shape
    fact_DC, seed_DS = resamples(facts), _seed_draws(seeds)
    total_D = ((fact_DC @ values_SC.T.astype(np.float32)) * seed_DS).sum(1).astype(np.float64)
    count_D = ((fact_DC @ weights_SC.T.astype(np.float32)) * seed_DS).sum(1).astype(np.float64)
    return np.divide(total_D, count_D, out=np.full_like(total_D, np.nan), where=count_D > 0)


@lru_cache(maxsize=64)
def _seed_draws(seeds: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed_from("seed-resamples", seeds, DRAWS))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS).astype(np.float32)


def mean_interval(
    values_SC: NDArray[np.float64], weights_SC: NDArray[np.float64], *, binary: bool, level: float = 0.95
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
    if binary and (one_seed or mean in (0.0, 1.0)):
        # several seeds share the facts: the facts are what was sampled, so n is their number
        n = int((weights_SC.sum(0) > 0).sum())
        return (mean, *wilson(mean * n, n, level))
    low, high = np.nanquantile(bootstrap_means(values_SC, weights_SC), [(1 - level) / 2, (1 + level) / 2])
    return (mean, float(low), float(high))
