"""Dropout masks belong to a module, a step and a layer; what is dropped is what was asked for; a part of a batch is the same rows of the whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.base import Base
from loramem.modules.bank import Bank
from loramem.modules.masks import LEVELS, dropped_share, kept_mask
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec
from training.hand import in_double

CPU = torch.device("cpu")


def mask(probability=0.5, *, seed=1, step=2, name="layers.0.q_proj", rows=20, columns=30) -> torch.Tensor:
    return kept_mask(probability, seed=seed, step=step, name=name, rows=rows, columns=columns, device=CPU)


def test_a_mask_depends_on_seed_step_and_name_alone():
    first = mask()
    torch.manual_seed(5)  # the global generator plays no part
    torch.rand(7)
    assert torch.equal(mask(), first)
    others = [mask(seed=2), mask(step=3), mask(name="layers.1.q_proj"), mask(seed=2, step=1)]
    for other in others:  # unlike it, and unlike its opposite
        assert 0.35 < (other == first).float().mean() < 0.65
    assert not any(torch.equal(a, b) for n, a in enumerate(others) for b in others[:n])


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_the_share_kept_is_the_share_asked_for(probability):
    """Within five standard deviations of the binomial, over all elements, and over the worst column."""
    kept = mask(probability, rows=2000, columns=101).double()
    expected = 1 - dropped_share(probability)
    for found, count in ((kept.mean(), kept.numel()), *((column, 2000) for column in kept.mean(0))):
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / count) + 1e-12


@given(st.floats(0, 0.999))
def test_probabilities_are_multiples_of_one_level(probability):
    share = dropped_share(probability)
    assert abs(share - probability) <= 0.5 / LEVELS and (share * LEVELS).is_integer()


def test_the_share_that_scales_is_the_share_that_is_dropped():
    """At 1 / 65,536 elements are dropped as rarely as that, below half of it never: what is kept is scaled by the same."""
    count = 4_000_000
    dropped = count - int(mask(1 / LEVELS, rows=count, columns=1).sum())
    assert abs(dropped - count / LEVELS) < 5 * math.sqrt(count / LEVELS)
    assert dropped_share(0.4 / LEVELS) == 0.0 and mask(0.4 / LEVELS, rows=count, columns=1).all()


NAME = "model.layers.1.mlp.down_proj"


@contextmanager
def filled(base: Base, count: int, seed: int) -> Iterator[Bank]:
    """A bank of modules that say something, in double precision."""
    with in_double(base) as double:
        bank = Bank(double.model, [LoraSpec(rank=3, alpha=6)] * count)
        generator = torch.Generator().manual_seed(seed)
        for slot in range(count):
            tensors = {n: torch.randn(t.shape, generator=generator) for n, t in bank.tensors(slot).items()}
            bank.load(slot, tensors)
        yield bank


def added(bank: Bank, blocks: list[Block], x_BTI: torch.Tensor) -> torch.Tensor:
    """What the bank adds to one layer's output."""
    layer = bank.wrapped[NAME]
    with torch.no_grad(), bank.active(blocks):
        return layer(x_BTI) - layer.layer(x_BTI)


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 5)), probability=st.sampled_from([0.1, 0.5]), seed=st.integers(0, 99), step=st.integers(0, 9)
)  # fmt: skip
def test_a_part_of_a_batch_sees_the_same_rows_of_the_mask(bases, cuts, probability, seed, step):
    bounds = [0, *sorted(cuts), 6]
    drop = {"dropout": probability, "seed": seed, "step": step}
    blocks = [
        Block(0, stop - start, first=start, total=6, **drop) for start, stop in itertools.pairwise(bounds)
    ]
    with filled(bases["llama"], 1, seed) as bank:
        x = torch.randn(6, 4, 48, generator=torch.Generator().manual_seed(seed))
        whole = added(bank, [Block(0, 6, **drop)], x)
        parts = [added(bank, [one], x[one.first : one.first + one.rows]) for one in blocks]
        together = added(bank, blocks, x)
        dry = added(bank, [Block(0, 6)], x)
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(together, whole, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole, dry, rtol=1e-3)


def test_modules_of_one_pass_drop_by_their_own_masks(bases):
    """By hand: scale * (x * mask / (1 - p)) A B for each, p and mask its own; some drop nothing."""
    blocks = [
        Block(0, 2, dropout=0.5, seed=4, step=1),
        Block(1, 2),
        Block(2, 2, dropout=0.3, seed=5, step=7),
        Block(2, 2),
        Block(2, 2, dropout=0.3, seed=5, step=8),
    ]
    with filled(bases["llama"], 3, 0) as bank:
        x = torch.randn(10, 5, 48, generator=torch.Generator().manual_seed(3))
        found = added(bank, blocks, x)
        for number, block in enumerate(blocks):
            own = x[2 * number : 2 * number + 2]
            if block.dropout:
                kept = kept_mask(
                    block.dropout,
                    seed=block.seed,
                    step=block.step,
                    name=NAME,
                    rows=10,
                    columns=48,
                    device=CPU,
                )
                own = own * kept.view(own.shape) / (1 - dropped_share(block.dropout))
            tensors = bank.tensors(block.slot)
            a, b = (tensors[f"base_model.model.{NAME}.lora_{which}.weight"] for which in "AB")
            assert torch.allclose(
                found[2 * number : 2 * number + 2], 2.0 * own @ a.T @ b.T, rtol=1e-10, atol=1e-12
            )
