"""The mathematics of merging, against loops over elements and dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.modules import merging as maths

quick = settings(deadline=None, max_examples=30)
sizes = st.integers(1, 7)
seeds = st.integers(0, 10**6)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pools(count: int, seed: int, *, inputs: int = 6, outputs: int = 9):
    ranks = torch.randint(1, 4, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    a = [drawn(rank, inputs, seed=seed + 2 * i) for i, rank in enumerate(ranks)]
    b = [drawn(outputs, rank, seed=seed + 2 * i + 1) for i, rank in enumerate(ranks)]
    return a, b


@quick
@given(sizes, st.integers(1, 30), st.floats(0.05, 1.0), seeds)
def test_trim_keeps_the_largest_entries_of_each_row(rows, width, density, seed):
    x_NE = drawn(rows, width, seed=seed)
    trimmed = maths.trim(x_NE, density)
    for row, kept in zip(x_NE.tolist(), trimmed.tolist(), strict=True):
        largest = sorted(row, key=abs, reverse=True)[: int(density * width)]
        assert kept == [value if value in largest else 0.0 for value in row]


def test_drop_keeps_the_expectation_and_the_share_and_needs_no_mask_at_density_1():
    x = torch.linspace(0.5, 2, 40_000)
    dropped = maths.drop(x, 0.3, torch.Generator().manual_seed(1))
    kept = dropped != 0
    assert kept.double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.allclose(dropped[kept], x[kept] / 0.3)
    assert dropped.mean().item() == pytest.approx(x.mean().item(), rel=0.02)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert torch.equal(maths.drop(x, 1.0, generator), x) and torch.equal(generator.get_state(), before)


@quick
@given(st.integers(1, 4), st.integers(1, 12), seeds)
def test_ties_element_by_element(modules, width, seed):
    x_NE = maths.trim(drawn(modules, width, seed=seed), 0.6)
    weights = (drawn(modules, seed=seed + 1).abs() + 0.1).double()
    ours, peft = (
        maths.disjoint_mean(x_NE[None], weights[None])[0],
        maths.disjoint_count(x_NE[None], weights[None])[0],
    )
    for element in range(width):
        column = x_NE[:, element].double().tolist()
        sign = 1 if sum(w * x for w, x in zip(weights.tolist(), column, strict=True)) >= 0 else -1
        agreeing = [(w, x) for w, x in zip(weights.tolist(), column, strict=True) if x * sign > 0]
        share = sum(w for w, _ in agreeing)
        wanted = sum(w * x for w, x in agreeing) / share * weights.sum().item() if agreeing else 0.0
        assert ours[element].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [(w, x) for w, x in zip(weights.tolist(), column, strict=True) if x * sign > 0]
        wanted = sum(w * x for w, x in agreeing) / max(1, len(agreeing))
        assert peft[element].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_ties_by_hand():
    x_NE = torch.tensor([[2.0, -1.0, 0.0, 4.0], [1.0, 3.0, 0.0, -4.0], [-9.0, 0.0, 0.0, 2.0]])
    third = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    assert torch.allclose(maths.disjoint_mean(x_NE[None], third), torch.tensor([[-9.0, 3.0, 0.0, 3.0]]))
    # as PEFT does it, weights 1/3 give a third of that, because it divides by the number that agree (PITFALLS 27)
    assert torch.allclose(maths.disjoint_count(x_NE[None], third), torch.tensor([[-3.0, 1.0, 0.0, 1.0]]))
    # a module that alone has the elected sign keeps its own size, however its weight compares to the others'
    weights = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    assert torch.allclose(
        maths.disjoint_mean(torch.tensor([[[5.0], [-1.0]]]), weights), torch.tensor([[5.0]])
    )
    # and a module of weight 0 has no vote
    weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(
        maths.disjoint_mean(torch.tensor([[[1.0], [-7.0]]]), weights), torch.tensor([[1.0]])
    )


def svd_cut(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, float]:
    u, s, vh = torch.linalg.svd(dense.double(), full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank], s[rank:].square().sum().item()


@quick
@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9), st.integers(1, 10), seeds)
def test_cuts_are_the_best_of_their_rank(inner, inputs, outputs, rank, seed):
    a, b = drawn(2, inner, inputs, seed=seed), drawn(2, outputs, inner, seed=seed + 1)
    for cut in (maths.cut_factors(a, b, rank), maths.cut_dense(b @ a, rank)):
        new_a, new_b, lost = cut
        assert new_a.shape == (2, rank, inputs) and new_b.shape == (2, outputs, rank) and lost.shape == (2,)
        for i in range(2):
            wanted, left = svd_cut(b[i] @ a[i], rank)
            assert torch.allclose((new_b[i] @ new_a[i]).double(), wanted, atol=1e-4)
            assert lost[i].item() == pytest.approx(left, rel=1e-3, abs=1e-4)


@quick
@given(st.integers(1, 3), st.integers(1, 8), seeds)
def test_shared_rows_project_on_the_leading_rows_of_the_stacked_factors(count, rank, seed):
    a_list, b_list = pools(count, seed)
    a, b = torch.cat(a_list)[None], torch.cat(b_list, dim=1)[None]
    times = drawn(1, a.shape[1], seed=seed).abs() + 0.2
    new_a, new_b, lost = maths.shared_rows(a, b, times, rank)
    rows = torch.linalg.svd((a[0] * times[0, :, None]).double()).Vh[: min(rank, a.shape[1])]
    dense = (b[0] @ a[0]).double()
    assert torch.allclose((new_b[0] @ new_a[0]).double(), dense @ rows.T @ rows, atol=1e-4)
    assert lost.item() == pytest.approx(
        (dense - dense @ rows.T @ rows).square().sum().item(), rel=1e-3, abs=1e-4
    )


@quick
@given(st.integers(1, 4), seeds)
def test_knots_blocks_are_the_joint_svd(count, seed):
    a, b = pools(count, seed)
    us_OK, v_NKI = maths.knots_blocks(a, b)
    for i in range(count):
        assert torch.allclose(us_OK @ v_NKI[i], (b[i] @ a[i]).double(), atol=1e-4)
    joined = torch.cat([(y @ x).double() for x, y in zip(a, b, strict=True)], dim=1)
    singular = torch.linalg.svdvals(joined)
    assert torch.allclose(us_OK.norm(dim=0), singular[: us_OK.shape[1]], atol=1e-4)
    together = v_NKI.transpose(0, 1).flatten(1)
    assert torch.allclose(together @ together.T, torch.eye(len(together)).double(), atol=1e-5)


def test_knots_leaves_out_directions_that_are_none():
    a, b = drawn(2, 6, seed=1), drawn(9, 2, seed=2)
    us_OK, v_NKI = maths.knots_blocks([a, a], [b, b])
    assert us_OK.shape == (9, 2) and torch.allclose(v_NKI[0], v_NKI[1])
    us_OK, v_NKI = maths.knots_blocks([a, a], [0 * b, 0 * b])
    assert us_OK.shape == (9, 0) and v_NKI.shape == (2, 0, 6)


@quick
@given(st.integers(1, 4), seeds)
def test_measures_of_pairs_against_dense_updates(count, seed):
    a, b = pools(count, seed)
    dense = [(y.double() @ x.double()) for x, y in zip(a, b, strict=True)]
    inner = maths.inner_products(a, b)
    differ, both = maths.sign_counts(a, b)
    overlap, spaces = maths.overlaps(maths.row_spaces(a, b))
    assert inner.shape == differ.shape == both.shape == overlap.shape == spaces.shape == (count, count)
    assert spaces.all()
    for i in range(count):
        for j in range(count):
            assert inner[i, j].item() == pytest.approx((dense[i] * dense[j]).sum().item(), rel=1e-4, abs=1e-4)
            assert (
                differ[i, j] == (dense[i] * dense[j] < 0).sum()
                and both[i, j] == (dense[i] * dense[j] != 0).sum()
            )
            bases = [
                torch.linalg.svd(one).Vh[: torch.linalg.matrix_rank(one)] for one in (dense[i], dense[j])
            ]
            cosines = torch.linalg.svdvals(bases[0] @ bases[1].T)
            assert overlap[i, j].item() == pytest.approx(cosines.square().mean().item(), abs=1e-5)


def test_measures_of_an_update_of_zero():
    a, b = [drawn(2, 5, seed=1), drawn(3, 5, seed=2)], [torch.zeros(4, 2), drawn(4, 3, seed=3)]
    overlap, spaces = maths.overlaps(maths.row_spaces(a, b))
    assert spaces.tolist() == [[False, False], [False, True]] and overlap[0].tolist() == [0.0, 0.0]
    assert maths.sign_counts(a, b)[1].tolist() == [[0.0, 0.0], [0.0, 20.0]]


def test_signs_of_a_tall_layer_are_counted_on_evenly_spaced_rows():
    a, b = [drawn(2, 3, seed=1), drawn(2, 3, seed=2)], [drawn(1200, 2, seed=3), drawn(1200, 2, seed=4)]
    differ, both = maths.sign_counts(a, b)
    dense = [(y @ x)[::3] for x, y in zip(a, b, strict=True)]
    assert both[0, 1] == 400 * 3 and differ[0, 1] == (dense[0] * dense[1] < 0).sum()
