"""How much a module holds: the largest load that passes, why a larger one fails, and a law of rank and load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Cause = Literal["capacity", "budget"]
PLATEAU_FALL = 0.05
"""A loss that falls by less than this share over the last quarter of training counts as being at a plateau."""


@dataclass(frozen=True)
class Limit:
    """The largest load that passes.

    Attributes:
        load: T_max, in the unit of the loads given; None where the smallest load fails already.
        censored: Every load of the grid passes, so the limit is at least `load`.
        crossing: Load at which the score crosses the threshold, interpolated in log load between the last load that
            passes and the first that fails; None where the grid does not hold both.
    """

    load: float | None
    censored: bool
    crossing: float | None

    @property
    def shown(self) -> str:
        """`4,000`, `>= 16,000` or `below the grid`.

        >>> Limit(16000, True, None).shown
        '>= 16,000'
        """
        if self.load is None:
            return "below the grid"
        return f"{'>= ' if self.censored else ''}{self.load:,.0f}"


def limit(loads: Sequence[float], scores: Sequence[float], threshold: float) -> Limit:
    """The largest load all of whose smaller loads pass too (a later recovery does not count).

    Args:
        loads: Strictly rising.
        scores: Score at each load; NaN (no result) fails.

    >>> limit([1, 2, 4, 8], [1.0, 0.95, 0.5, 0.9], 0.9)
    Limit(load=2, censored=False, crossing=2.160119477784612)
    """
    assert len(loads) == len(scores) and all(a < b for a, b in zip(loads, loads[1:], strict=False)), loads
    passed = 0
    while passed < len(loads) and scores[passed] >= threshold:
        passed += 1
    if passed == 0:
        return Limit(None, False, None)
    if passed == len(loads):
        return Limit(loads[-1], True, None)
    low, high = scores[passed - 1], scores[passed]
    crossing = None
    if not math.isnan(high):
        share = (low - threshold) / (low - high)
        crossing = math.exp(
            math.log(loads[passed - 1]) + share * (math.log(loads[passed]) - math.log(loads[passed - 1]))
        )
    return Limit(loads[passed - 1], False, crossing)


def cause(ended: str, log: Sequence[dict]) -> Cause:
    """Why a module that fails failed: `capacity` (its loss stood at a plateau) or `budget` (it still fell).

    Args:
        ended: How its training ended: `plateau` was found, `limit` was not found in time; a fixed number of `steps`
            is judged by the log.
        log: Rows of step and loss (mean since the row before), as in training.jsonl.

    For fixed steps the mean loss of the last quarter is compared with that of the quarter before. A rate that decays
    makes the last quarter fall further, so this errs towards `budget`: a cell called `capacity` stood still.
    """
    if ended != "steps":
        return "budget" if ended == "limit" else "capacity"
    last = log[-1]["step"]
    before = _mean_loss(log, last / 2, 3 * last / 4)
    after = _mean_loss(log, 3 * last / 4, last)
    if before is None or after is None:
        return "budget"  # too short to tell
    return "capacity" if after > before * (1 - PLATEAU_FALL) else "budget"


def _mean_loss(log: Sequence[dict], start: float, stop: float) -> float | None:
    """Mean loss over the steps in (start, stop], from rows that each hold the mean since the row before."""
    total = weight = 0.0
    previous = 0
    for row in log:
        if start < row["step"] <= stop:
            total += row["loss"] * (row["step"] - previous)
            weight += row["step"] - previous
        previous = row["step"]
    return total / weight if weight else None


@dataclass(frozen=True)
class MemoryLaw:
    """dL = C r^a l^-b + c (arXiv 2605.30260) with no constant below 0, fitted to cells and tested on cells it did not see.

    Attributes:
        scale, a, b, c: The law's constants.
        r2: Share of variance explained on the fitted cells.
        r2_held_out: The same on the held-out cells, about their own mean; negative where their mean predicts better.
        rmse_held_out: Root mean square error there, in the unit of dL.
        fitted, held_out: Numbers of cells.
    """

    scale: float
    a: float
    b: float
    c: float
    r2: float
    r2_held_out: float
    rmse_held_out: float
    fitted: int
    held_out: int

    def predict(self, rank: NDArray[np.float64], load: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.scale * rank**self.a * load**-self.b + self.c


def fit_memory_law(
    rank: NDArray[np.float64],
    load: NDArray[np.float64],
    gain: NDArray[np.float64],
    held_out: NDArray[np.bool_],
) -> MemoryLaw | None:
    """Least squares in `gain`; None with fewer than six cells to fit or two to test.

    Args:
        rank, load: Of each cell, `[cells]`, positive.
        gain: Fall of the answers' loss against the base alone, nats per token, `[cells]`.
        held_out: True for cells that only test the law.
    """
    seen = ~held_out
    if seen.sum() < 6 or held_out.sum() < 2:
        return None
    middle_r, middle_l = np.exp(np.log(rank).mean()), np.exp(np.log(load).mean())

    def law(p: NDArray[np.float64], which: NDArray[np.bool_]) -> NDArray[np.float64]:
        return p[0] * (rank[which] / middle_r) ** p[1] * (load[which] / middle_l) ** -p[2] + p[3]

    best = None
    for a in (0.1, 0.5, 1.0):
        for c in (0.0, max(0.0, float(gain[seen].min()))):
            start = np.array([max(1e-3, float(gain[seen].mean()) - c), a, a, c])
            found = least_squares(
                lambda p: law(p, seen) - gain[seen], start, bounds=([0, 0, 0, 0], [np.inf, 5, 5, np.inf]),
            )  # fmt: skip
            if best is None or found.cost < best.cost:
                best = found
    assert best is not None
    residual = gain - law(best.x, np.ones_like(seen))
    scale = float(best.x[0] * middle_r ** -best.x[1] * middle_l ** best.x[2])
    return MemoryLaw(
        scale, float(best.x[1]), float(best.x[2]), float(best.x[3]), _r2(gain[seen], residual[seen]),
        _r2(gain[held_out], residual[held_out]), float(np.sqrt((residual[held_out] ** 2).mean())), int(seen.sum()),
        int(held_out.sum()),
    )  # fmt: skip


def _r2(values: NDArray[np.float64], residuals: NDArray[np.float64]) -> float:
    spread = float(((values - values.mean()) ** 2).sum())
    return 1 - float((residuals**2).sum()) / spread if spread else math.nan


@dataclass(frozen=True)
class Holding:
    """One way to hold a number of facts: `modules` modules of one rank, each within its measured limit.

    Attributes:
        facts_each: Facts given to each module, at most.
        facts_at_most: The largest number of facts at which a module of this rank was seen to pass.
        parameters: Of all modules together.
        below_limit: The limit itself was not reached in the grid, so a module may hold more.
    """

    rank: int
    modules: int
    facts_each: int
    facts_at_most: int
    parameters: int
    below_limit: bool


def plan_holding(facts: int, measured: Sequence[tuple[int, int, int, bool]]) -> list[Holding]:
    """Ways to hold `facts`, fewest parameters first; nothing beyond what was measured is assumed of one module.

    Args:
        measured: Per rank (rank, parameters of one module, facts at its limit, whether the limit is censored).

    >>> [(h.modules, h.rank, h.parameters) for h in plan_holding(100, [(1, 10, 40, False), (4, 40, 120, True)])]
    [(3, 1, 30), (1, 4, 40)]
    """
    found = []
    for rank, parameters, most, censored in measured:
        if most > 0:
            modules = -(-facts // most)
            found.append(Holding(rank, modules, -(-facts // modules), most, modules * parameters, censored))
    return sorted(found, key=lambda holding: (holding.parameters, holding.modules))
