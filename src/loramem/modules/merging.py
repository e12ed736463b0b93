"""The mathematics of merging LoRA modules: functions of tensors, one layer at a time.

A module adds `s B A` to a layer's weight. Its *factors* are A and B, its *update* is the product. What is elementwise on the factors
is something else on the update, because B1 A2 is nobody's knowledge: rules on the factors and on the update are told apart by name
(`merged.RULES`). Where an update has few ranks it is never built: QR of the stacked factors and one small SVD do (`cut_factors`).

Leading axes: `_S` sets of modules that are merged at once, `_N` modules of a set, `_P` modules of a pool. `_R` rank (of a stack: the sum
of ranks), `_K` singular directions, `_I` and `_O` inputs and outputs of the layer, `_E` elements of a flattened tensor.

Sources: TIES arXiv 2306.01708, DARE 2311.03099, KnOTS 2410.19735; the forms on factors are those of PEFT's `add_weighted_adapter`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIGN_ROWS = 512
"""Rows of a layer's updates whose signs are compared, evenly spaced; a layer of no more outputs is compared whole."""
NOISE = 1e-6
"""Singular values below this part of the largest are rounding of fp32 weights, not directions."""


# -- elementwise -------------------------------------------------------------------------------------
def trim(x_NE: Tensor, density: float) -> Tensor:
    """Each row with its floor(density E) entries of largest magnitude; the rest is 0.

    TIES' first step. The paper ranks all weights of a module together; PEFT, and we, each tensor by itself.
    """
    if density >= 1:
        return x_NE
    kept = x_NE.abs().topk(int(density * x_NE.shape[-1]), dim=-1).indices
    return torch.zeros_like(x_NE).scatter(-1, kept, x_NE.gather(-1, kept))


def drop(x_E: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """DARE: every entry is kept with probability `density` and divided by it, so that the expectation stays."""
    if density >= 1:
        return x_E
    kept = torch.rand(x_E.shape, generator=generator) < density
    return x_E * kept.to(x_E.device) / density


def weighted_sum(x_SNE: Tensor, weights_SN: Tensor) -> Tensor:
    """sum_i w_i x_i, `[S, E]`."""
    return (weights_SN[:, None, :].to(x_SNE.dtype) @ x_SNE)[:, 0]


def disjoint_mean(x_SNE: Tensor, weights_SN: Tensor) -> Tensor:
    """TIES' second and third step: elect a sign for every element, average over the modules that have it. `[S, E]`.

    The sign is that of sum_i w_i x_i. The result is (sum of weights) times the weighted mean over the modules that agree, so
    weights that sum to 1 give a mean, N equal modules give that module, and no element outgrows all of its parents. PEFT
    divides the weighted sum by the *number* that agree: with weights 1/N that is a mean of N, divided by N once more.
    """
    w_SN1 = weights_SN.to(x_SNE.dtype)[..., None]
    weighted = x_SNE * w_SN1
    positive_SE = weighted.sum(1) >= 0
    agrees = (x_SNE != 0) & ((x_SNE > 0) == positive_SE[:, None])
    share_SE = (agrees * w_SN1).sum(1)
    total_SE = (weighted * agrees).sum(1)
    return torch.where(share_SE > 0, total_SE / share_SE, 0) * w_SN1.sum(1)


def disjoint_count(x_SNE: Tensor, weights_SN: Tensor) -> Tensor:
    """TIES' second and third step as PEFT does them: the sign of sum_i x_i, and sum_i w_i x_i over those that agree, divided by how
    many agree. `[S, E]`."""
    positive_SE = x_SNE.sum(1) >= 0
    agrees = (x_SNE != 0) & ((x_SNE > 0) == positive_SE[:, None])
    weighted = x_SNE * weights_SN.to(x_SNE.dtype)[..., None]
    return (weighted * agrees).sum(1) / agrees.sum(1).clamp(min=1)


# -- cuts --------------------------------------------------------------------------------------------
def pad(a_SRI: Tensor, b_SOR: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors with zeros up to a rank: the update stays."""
    more = rank - a_SRI.shape[-2]
    if more <= 0:
        return a_SRI, b_SOR
    return torch.nn.functional.pad(a_SRI, (0, 0, 0, more)), torch.nn.functional.pad(b_SOR, (0, more))


def cut_factors(a_SRI: Tensor, b_SOR: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best approximation of B A of a rank, without building B A: QR of both factors, SVD of the `[R, R]` core.

    Returns:
        A `[S, rank, I]` with orthonormal rows, B `[S, O, rank]` that carries the singular values, both of the given dtype and
        padded with zeros where the update has fewer directions; squared Frobenius norm `[S]` of what was cut away.
    """
    left_SOK, b_SKR = torch.linalg.qr(b_SOR.double())
    right_SIK, a_SKR = torch.linalg.qr(a_SRI.double().mT)
    u, s, vh = torch.linalg.svd(b_SKR @ a_SKR.mT, full_matrices=False)
    b = left_SOK @ (u[..., :rank] * s[..., None, :rank])
    a = vh[..., :rank, :] @ right_SIK.mT
    return (*pad(a.to(a_SRI.dtype), b.to(b_SOR.dtype), rank), s[..., rank:].square().sum(-1))


def cut_dense(update_SOI: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best approximation of a dense update of a rank, from the eigenvectors of its smaller Gram matrix in double precision.

    Up to twice as fast as an SVD in fp32. Singular values are right to 1e-8 of the largest, which is below fp32's own rounding.

    Returns:
        As `cut_factors`.
    """
    m = update_SOI.double()
    wide = m.shape[-2] <= m.shape[-1]
    values, vectors = torch.linalg.eigh(m @ m.mT if wide else m.mT @ m)  # ascending
    kept = vectors[..., -rank:]
    lost_S = values[..., :-rank].clamp(min=0).sum(-1)
    a, b = (kept.mT @ m, kept) if wide else (kept.mT, m @ kept)
    return (*pad(a.to(update_SOI.dtype), b.to(update_SOI.dtype), rank), lost_S)


def shared_rows(a_SRI: Tensor, b_SOR: Tensor, row_SR: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """B A projected on a row space that the A factors alone choose: their `rank` largest right singular vectors.

    It depends on how each product is split between A and B, as everything on factors does. (Ours; PEFT has no such rule.)

    Args:
        row_SR: What each row of A is multiplied by before the space is chosen.

    Returns:
        As `cut_factors`; what is lost is the part of B A outside the space.
    """
    a, b = a_SRI.double(), b_SOR.double()
    vh = torch.linalg.svd(a * row_SR.double()[..., None], full_matrices=False).Vh[..., :rank, :]
    held = b @ (a @ vh.mT)
    lost_S = (_squared(a, b) - held.square().sum((-2, -1))).clamp(min=0)
    return (*pad(vh.to(a_SRI.dtype), held.to(b_SOR.dtype), rank), lost_S)


def knots_blocks(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """KnOTS' joint SVD of the updates side by side, [B1 A1 | ... | BN AN] = U S [V1 | ... | VN], in factor space.

    The N updates then share U S and differ in V alone, where elementwise rules compare like with like (arXiv 2410.19735,
    section 4). Directions without a singular value are left out: their V is arbitrary.

    Args:
        a, b: N factors `[R_i, I]`, `[O, R_i]` with the scale in one of them.

    Returns:
        U S `[O, K]` and V `[N, K, I]`, in double precision; U S V_i is module i's update.
    """
    ranks = [len(one) for one in a]
    left_OK, core_KR = torch.linalg.qr(torch.cat([one.double() for one in b], dim=1))
    pieces = [torch.linalg.qr(one.double().mT) for one in a]
    mixed = [core @ r.mT for core, (_, r) in zip(core_KR.split(ranks, dim=1), pieces, strict=True)]
    u, s, vh = torch.linalg.svd(torch.cat(mixed, dim=1), full_matrices=False)
    kept = int((s > NOISE * s.max()).sum()) if len(s) else 0
    widths = [one.shape[1] for one in mixed]
    blocks = [v @ q.mT for v, (q, _) in zip(vh[:kept].split(widths, dim=1), pieces, strict=True)]
    return left_OK @ (u[:, :kept] * s[:kept]), torch.stack(blocks)


# -- measures ----------------------------------------------------------------------------------------
def _squared(a_SRI: Tensor, b_SOR: Tensor) -> Tensor:
    """Squared Frobenius norm of B A, `[S]`."""
    return product(a_SRI, b_SOR, a_SRI, b_SOR)


def product(a_SRI: Tensor, b_SOR: Tensor, c_SQI: Tensor, d_SOQ: Tensor) -> Tensor:
    """Inner product <B A, D C> of two updates, `[S]` in double precision, from Gram matrices: no update is built."""
    a, b, c, d = (one.double() for one in (a_SRI, b_SOR, c_SQI, d_SOQ))
    return ((a @ c.mT) * (b.mT @ d)).sum((-2, -1))


def inner_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """<B_i A_i, B_j A_j> of every pair of a pool, `[P, P]` in double precision.

    Args:
        a, b: P factors `[R_i, I]`, `[O, R_i]` with the scale in one of them.
    """
    stacked_RI, stacked_OR = torch.cat([*a]).double(), torch.cat([*b], dim=1).double()
    return _block_sums((stacked_RI @ stacked_RI.T) * (stacked_OR.T @ stacked_OR), [len(one) for one in a])


def row_spaces(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Orthonormal basis `[K_i, I]` of the row space of each update, in double precision; K_i is its rank, 0 for no update."""
    found = []
    for a_RI, b_OR in zip(a, b, strict=True):
        q, r = torch.linalg.qr(a_RI.double().mT)
        _, s, vh = torch.linalg.svd(torch.linalg.qr(b_OR.double()).R @ r.mT, full_matrices=False)
        found.append(vh[(s > NOISE * s.max()) & (s > 0)] @ q.mT)
    return found


def overlaps(bases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Overlap of every pair of row spaces: the mean squared cosine of their principal angles, 0 (orthogonal) to 1 (one holds the other).

    |Q_i Q_j^T|_F^2 / min(K_i, K_j) for orthonormal bases Q. Two random spaces of K of I dimensions have K / I on average.

    Returns:
        Overlaps `[P, P]`, 0 where one of a pair is no space; whether both are, `[P, P]`.
    """
    sizes = [len(one) for one in bases]
    stacked = torch.cat([*bases])
    sums_PP = _block_sums((stacked @ stacked.T).square(), sizes)
    k_P = torch.tensor(sizes, device=stacked.device)
    least_PP = torch.minimum(k_P[:, None], k_P[None])
    return sums_PP / least_PP.clamp(min=1), least_PP > 0


def sign_counts(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """For every pair of a pool: elements of the updates whose signs differ, and elements where neither is 0; both `[P, P]`.

    Counted on at most `SIGN_ROWS` outputs, evenly spaced.
    """
    outputs, inputs, count = len(b[0]), a[0].shape[1], len(a)
    step = max(1, -(-outputs // SIGN_ROWS))
    rows = torch.arange(0, outputs, step)
    differ = torch.zeros(count, count, dtype=torch.float64)
    both = torch.zeros_like(differ)
    # sums of +-1 are exact in fp32 up to 2^24 of them
    height = max(1, 2**24 // (inputs * max(1, count)))
    for chosen in rows.split(height):
        signs_PE = torch.stack([(y[chosen] @ x).sign().flatten() for x, y in zip(a, b, strict=True)]).float()
        net, seen = signs_PE @ signs_PE.T, signs_PE.abs() @ signs_PE.abs().T
        differ += ((seen - net) / 2).double().cpu()
        both += seen.double().cpu()
    return differ, both


def _block_sums(x_RR: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums over the blocks of a square matrix, `[P, P]`."""
    owner_R = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(x_RR.device)
    member_RP = torch.nn.functional.one_hot(owner_R, len(sizes)).to(x_RR.dtype)
    return member_RP.T @ x_RR @ member_RP
