"""How good routes are: the right module's rank, and knowing that no module fits.

All are shares of 1 and per question, so that callers can take intervals by fact. `gold` holds the positions of the right modules of
each question: empty where it is a stranger's (nothing in the pool is right), None where it is unknown. Neither has a rank to
score: they are NaN there and counted apart, never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from loramem.core.errors import InputError
from loramem.core.identity import digest

if TYPE_CHECKING:
    from loramem.answering.routers import Route

Gold = frozenset[int] | None
Values = NDArray[np.float64]


def _scored(rankings: Sequence[Sequence[int]], gold: Sequence[Gold], score) -> Values:
    return np.array(
        [score(ranking, right) if right else np.nan for ranking, right in zip(rankings, gold, strict=True)],
        dtype=float,
    )


def accuracy_at(rankings: Sequence[Sequence[int]], gold: Sequence[Gold], k: int) -> Values:
    """1 where a right module is among the first k, else 0, `[Q]`; NaN without a right module.

    >>> accuracy_at([[2, 0, 1], [1, 2, 0]], [frozenset({0}), None], 2).tolist()
    [1.0, nan]
    """
    assert k >= 1, k
    return _scored(rankings, gold, lambda ranking, right: float(not right.isdisjoint(ranking[:k])))


def mrr(rankings: Sequence[Sequence[int]], gold: Sequence[Gold]) -> Values:
    """1 / rank of the first right module, `[Q]`; its mean is the MRR. NaN without a right module.

    >>> mrr([[2, 0, 1]], [frozenset({0, 1})]).tolist()
    [0.5]
    """
    return _scored(
        rankings,
        gold,
        lambda ranking, right: 1 / (1 + next(place for place, one in enumerate(ranking) if one in right)),
    )


def chance_at(pool_size: int, right: int, k: int) -> float:
    """Probability that k modules drawn without replacement hold one of `right`.

    >>> chance_at(4, 1, 3), chance_at(4, 2, 3)
    (0.75, 1.0)
    """
    return 1 - math.comb(pool_size - right, k) / math.comb(pool_size, k) if k < pool_size else 1.0


def routing_quality(
    routes: Sequence[Route], gold: Sequence[Gold], pool_size: int, *, at: Sequence[int] = (1, 3, 5)
) -> dict[str, Values]:
    """Per-question values, `[Q]` each, by name.

    `acc@K` and `chance@K` for each K of `at` below the pool's size (at or above it every router is right); `mrr`; `found`: a right module is
    among those used (0 where none is used); `precision`: share of right ones among those used (NaN where none is used);
    `used`: number of modules used; `none`: no module was used; `confidence`; `unknown`: 1 where gold is None; `stranger`: 1 where no
    module is right.

    Raises:
        InputError: routes and gold of other numbers of questions, or routes over another pool.
    """
    if len(routes) != len(gold):
        raise InputError(f"{len(routes)} routes, but gold of {len(gold)} questions")
    for number, route in enumerate(routes):
        if sorted(route.ranking) != list(range(pool_size)):
            raise InputError(
                f"route {number} ranks {len(route.ranking)} modules; expected each of a pool of {pool_size} once"
            )
    rankings = [route.ranking for route in routes]
    used = [len(route.modules) for route in routes]
    inside = [ranking[:count] for ranking, count in zip(rankings, used, strict=True)]
    found: dict[str, Values] = {}
    for k in [k for k in at if k == 1 or k < pool_size]:
        found[f"acc@{k}"] = accuracy_at(rankings, gold, k)
        found[f"chance@{k}"] = _scored(
            rankings, gold, lambda _, right, k=k: chance_at(pool_size, len(right), k)
        )
    return found | {
        "mrr": mrr(rankings, gold),
        "found": _scored(inside, gold, lambda own, right: float(not right.isdisjoint(own))),
        "precision": _scored(
            inside, gold, lambda own, right: sum(one in right for one in own) / len(own) if own else np.nan
        ),
        "used": np.array(used, dtype=float),
        "none": np.array([count == 0 for count in used], dtype=float),
        "confidence": np.array([route.confidence for route in routes], dtype=float),
        "unknown": np.array([right is None for right in gold], dtype=float),
        "stranger": np.array([right is not None and not right for right in gold], dtype=float),
    }


# -- knowing that no module fits -------------------------------------------------------------------------------
def none_auroc(own: Sequence[float], strangers: Sequence[float]) -> float:
    """Probability that an own question has more confidence than a stranger's, ties one half; NaN where either is empty.

    From ranks (Mann and Whitney 1947): no pair is looked at.

    >>> none_auroc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    if not len(own) or not len(strangers):
        return math.nan
    ranks = rankdata([*own, *strangers])
    above = ranks[: len(own)].sum() - len(own) * (len(own) + 1) / 2
    return float(above / (len(own) * len(strangers)))


def threshold_for(strangers: Sequence[float], share: float) -> float:
    """The lowest `none_below` that sends at least `share` of these strangers away.

    What has less confidence than it goes to no module, so it lies just above the confidence it must reach.

    >>> sum(c < threshold_for([0.1, 0.2, 0.3, 0.4], 0.5) for c in [0.1, 0.2, 0.3, 0.4])
    2

    Raises:
        InputError: no strangers, or a share outside 0 to 1.
    """
    if not len(strangers):
        raise InputError("a threshold needs the confidence of at least one stranger's question")
    if not 0 <= share <= 1:
        raise InputError(f"share {share} of strangers to be sent away: expected 0 to 1")
    ordered = np.sort(np.asarray(strangers, dtype=float))
    count = math.ceil(share * len(ordered) - 1e-9)
    return float(np.nextafter(ordered[count - 1], np.inf) if count else ordered[0])


@dataclass(frozen=True)
class NoneDetection:
    """How well strangers are told from own questions at one threshold.

    Attributes:
        threshold: Calibrated on the strangers in `calibrated`.
        calibrated, held_out: Positions of the strangers in either half.
        sent_away: 1 where a held-out stranger goes to no module, in the order of `held_out`.
        kept: 1 where an own question goes to a module, in order.
    """

    threshold: float
    calibrated: tuple[int, ...]
    held_out: tuple[int, ...]
    sent_away: Values
    kept: Values

    @property
    def strangers_away(self) -> float:
        """Share of held-out strangers sent away."""
        return float(self.sent_away.mean())

    @property
    def own_kept(self) -> float:
        """Share of own questions kept; NaN without any."""
        return float(self.kept.mean()) if len(self.kept) else math.nan


def none_detection(
    own: Sequence[float],
    strangers: Sequence[float],
    *,
    share: float = 0.9,
    groups: Sequence[Hashable] | None = None,
) -> NoneDetection:
    """Calibrate `none_below` on one half of the strangers and measure it on the other; own questions calibrate nothing.

    Args:
        own, strangers: Confidence of each question.
        share: Of the calibrating strangers to be sent away, at least.
        groups: What each stranger belongs to (its fact or document): a group falls into one half whole. None: each alone.

    The halves are drawn by the groups' names (of strangers alone: by position); of an odd number the larger half calibrates.

    Raises:
        InputError: fewer than two groups of strangers.
    """
    groups = list(range(len(strangers))) if groups is None else list(groups)
    assert len(groups) == len(strangers), (len(groups), len(strangers))
    names = sorted(set(groups), key=lambda group: digest(["strangers", str(group)]))
    if len(names) < 2:
        raise InputError(f"{len(names)} group of strangers cannot be halved; give questions of at least two")
    calibrating = set(names[: (len(names) + 1) // 2])
    calibrated = tuple(i for i, group in enumerate(groups) if group in calibrating)
    held_out = tuple(i for i, group in enumerate(groups) if group not in calibrating)
    threshold = threshold_for([strangers[i] for i in calibrated], share)
    return NoneDetection(
        threshold,
        calibrated,
        held_out,
        np.array([strangers[i] < threshold for i in held_out], dtype=float),
        np.array([confidence >= threshold for confidence in own], dtype=float),
    )
