"""What a merge did to its parents, in numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from loramem.modules import merging as maths


class Measuring:
    """Sums over layers, for a pool of P parents and any merges of them; `measures` turns them into numbers.

    All norms are Frobenius norms of whole updates: the root of the sum over layers of squares.
    """

    def __init__(self, parents: int):
        self._inner_PP = torch.zeros(parents, parents, dtype=torch.float64)
        self._differ_PP, self._both_PP = torch.zeros_like(self._inner_PP), torch.zeros_like(self._inner_PP)
        self._overlap_PP, self._spaces_PP = torch.zeros_like(self._inner_PP), torch.zeros_like(self._inner_PP)
        self._own: dict[str, float] = defaultdict(float)
        self._away: dict[str, float] = defaultdict(float)
        self._lost: dict[str, float] = defaultdict(float)

    def add_parents(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """One layer of all parents: A `[R_i, I]` with the scale in it, B `[O, R_i]`."""
        self._inner_PP += maths.inner_products(a, b).cpu()
        differ, both = maths.sign_counts(a, b)
        self._differ_PP += differ
        self._both_PP += both
        overlap, spaces = maths.overlaps(maths.row_spaces(a, b))
        self._overlap_PP += overlap.cpu()
        self._spaces_PP += spaces.cpu()

    def add_merges(
        self,
        keys: Sequence[str],
        index_SN: Tensor,
        weights_SN: Tensor,
        a_SRI: Tensor,
        b_SOR: Tensor,
        lost_S: Tensor,
        a: Sequence[Tensor],
        b: Sequence[Tensor],
    ) -> None:
        """One layer of some merges, beside the same layer of all parents."""
        shares_SN = weights_SN / weights_SN.sum(1, keepdim=True)
        columns = list(enumerate(index_SN.T.tolist()))
        mean_a = torch.cat(
            [torch.stack([a[i] for i in own]).double() * shares_SN[:, n, None, None] for n, own in columns],
            dim=1,
        )
        mean_b = torch.cat([torch.stack([b[i] for i in own]) for _, own in columns], dim=2)
        own_S = maths.product(a_SRI, b_SOR, a_SRI, b_SOR)
        mean_S = maths.product(mean_a, mean_b, mean_a, mean_b)
        away_S = own_S - 2 * maths.product(a_SRI, b_SOR, mean_a, mean_b) + mean_S
        for key, own, away, lost in zip(keys, own_S.tolist(), away_S.tolist(), lost_S.tolist(), strict=True):
            self._own[key] += max(own, 0.0)
            self._away[key] += max(away, 0.0)
            self._lost[key] += max(lost, 0.0)

    def measures(self, key: str, index_N: Tensor, weights_N: Tensor) -> dict:
        """The measures of a merge, all finite; what has no denominator (an update of zero, a single parent) is 0.

        Returns:
            `norm`: of the merged update M. `parent_norms`: of each parent's update U_i, in the order of the recipe. `norm_ratio`:
            norm over the mean of the parents' norms. `distance_to_mean`: |M - U| / |U| with U = sum w_i U_i / sum w_i.
            `sign_conflicts`: elements where the signs of two updates differ over those where neither is 0, summed over layers
            (`merging.sign_counts`), mean over pairs of parents. `subspace_overlap`: `merging.overlaps`, mean over layers where both
            updates are not zero, then over pairs. `rank_residual`: norm of what the cut to the rank took away over the norm of
            what was cut.
        """
        index = index_N.tolist()
        norms = self._inner_PP.diagonal()[index_N].clamp(min=0).sqrt()
        shares_N = weights_N / weights_N.sum()
        mean = math.sqrt(max(float(shares_N @ self._inner_PP[index_N][:, index_N] @ shares_N), 0.0))
        pairs = list(combinations(index, 2))
        conflicts = [_ratio(self._differ_PP[i, j], self._both_PP[i, j]) for i, j in pairs]
        shared = [_ratio(self._overlap_PP[i, j], self._spaces_PP[i, j]) for i, j in pairs]
        norm = math.sqrt(self._own[key])
        return {
            "norm": norm,
            "parent_norms": norms.tolist(),
            "norm_ratio": _ratio(norm, norms.mean()),
            "distance_to_mean": _ratio(math.sqrt(self._away[key]), mean),
            "sign_conflicts": sum(conflicts) / len(conflicts) if conflicts else 0.0,
            "subspace_overlap": sum(shared) / len(shared) if shared else 0.0,
            "rank_residual": _ratio(math.sqrt(self._lost[key]), math.sqrt(self._own[key] + self._lost[key])),
        }


def _ratio(part: float | Tensor, whole: float | Tensor) -> float:
    return float(part) / float(whole) if float(whole) > 0 else 0.0
