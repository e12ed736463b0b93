"""Small ranks share a bucket by padding: the padding stays zero, and what is saved has the module's own rank."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loramem.base import Encoded
from loramem.modules import peft_format
from loramem.modules.bank import Bank
from loramem.modules.bucket import SMALL_RANK, padded_rank
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.training import TrainJob, train_modules
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.log import Log
from loramem.training.optimizer import BankedAdamW
from loramem.training.passes import Learner, Part, part_losses

RANKS = (1, 3, 8, 5, 16, 3)


@given(st.integers(1, 65536))
def test_a_padded_rank_is_a_power_of_two_and_less_than_twice_a_large_rank(rank):
    padded = padded_rank(rank)
    assert padded >= max(rank, SMALL_RANK) and padded & (padded - 1) == 0
    assert padded == SMALL_RANK or padded < 2 * rank
    assert padded_rank(padded) == padded


def module(base, spec: LoraSpec, seed: int) -> dict[str, torch.Tensor]:
    bank = Bank(base.model, [spec], seeds=[seed])
    try:
        shapes = {name: tensor.shape for name, tensor in bank.tensors(0).items()}
    finally:
        bank.detach()
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def padding(bank: Bank) -> list[torch.Tensor]:
    """Every value of the bank's buffers that belongs to no module."""
    return [
        part
        for bucket in bank.buckets
        for position, slot in enumerate(bucket.slots)
        for leaf_a, leaf_b in zip(bucket.a.values(), bucket.b.values(), strict=True)
        for part in (
            leaf_a[position, :, bank.specs[slot].rank :], leaf_b[position, bank.specs[slot].rank :],
            leaf_a.grad[position, :, bank.specs[slot].rank :], leaf_b.grad[position, bank.specs[slot].rank :],
        )
    ]  # fmt: skip


def test_small_ranks_share_a_bucket_and_come_back_as_they_were_loaded(base):
    specs = [LoraSpec(rank=rank) for rank in RANKS]
    weights = [module(base, spec, seed) for seed, spec in enumerate(specs)]
    bank = Bank(base.model, specs)
    try:
        assert sorted((bucket.key.rank, bucket.slots) for bucket in bank.buckets) == [
            (8, [0, 1, 2, 3, 5]),
            (16, [4]),
        ]
        for slot, tensors in enumerate(weights):
            bank.load(slot, tensors)
        for slot, tensors in enumerate(weights):
            own = bank.tensors(slot)
            assert own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in own)
            assert {t.shape[0] for name, t in own.items() if "lora_A" in name} == {RANKS[slot]}
        assert not any(part.any() for part in padding(bank))
    finally:
        bank.detach()


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_padded_module_says_what_it_says_without_padding(bases, rank):
    """B A by hand, merged into the layers, against the bank's own pass."""
    base, spec = bases["llama"], LoraSpec(rank=rank, alpha=2.0)
    tensors = module(base, spec, 9)
    ids = torch.randint(6, len(base.tokenizer), (2, 8), generator=torch.Generator().manual_seed(0))
    bank = Bank(base.model, [LoraSpec(rank=16), spec])
    try:
        bank.load(1, tensors)
        with torch.no_grad(), bank.active([Block(1, 2)]):
            mine = base.model(input_ids=ids).logits
    finally:
        bank.detach()
    names = [
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        for name in tensors
        if "lora_A" in name
    ]
    layers = {name: base.model.get_submodule(name) for name in names}
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    try:
        with torch.no_grad():
            for name, layer in layers.items():
                a, b = (tensors[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
                layer.weight += spec.scale * b @ a
            merged = base.model(input_ids=ids).logits
    finally:
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.copy_(before[name])
    assert torch.allclose(mine, merged, atol=2e-5)


def examples(base, seed: int) -> tuple[Encoded, ...]:
    rng = random.Random(seed)
    ids = [tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(rng.randint(6, 14))) for _ in range(4)]
    return tuple(Encoded(one, 3) for one in ids)


def learner(base, bank: Bank, slot: int) -> Learner:
    """The module of a slot, about to learn from its own examples."""
    job = TrainJob(
        str(slot), bank.specs[slot], Objective(loss_on="all"), Optimizer(lr=0.05, batch=2), 6, slot, examples(base, slot),
        16,
    )  # fmt: skip
    feed = Feed(job, base.prompts.pad_id, base.device)
    course = Course(None, job.optimizer, steps=job.steps, examples=len(job.examples))
    return Learner(job, slot, feed, course, Log(job.steps), set(), None, 0, 0.0)


def test_padding_stays_exactly_zero_while_modules_learn(base):
    """Under weight decay and clipping, and after neighbours have left."""
    specs = [LoraSpec(rank=rank) for rank in RANKS]
    bank = Bank(base.model, specs, seeds=range(len(RANKS)))
    try:
        optimizer = BankedAdamW(bank)
        learners = {slot: learner(base, bank, slot) for slot in bank.specs}
        for step in range(6):
            order = bank.in_order()
            for slot in order:
                learners[slot].chosen = learners[slot].feed.next()
            part_losses(base, bank, [Part(learners[slot], 0, 2) for slot in order])
            assert all(bucket.grad_NP.any(1).all() for bucket in bank.buckets), "every module learns"
            assert not any(part.any() for part in padding(bank))
            optimizer.step(
                lr=dict.fromkeys(order, 0.05), decay=dict.fromkeys(order, 0.1), clip=dict.fromkeys(order, 0.5)
            )
            assert not any(part.any() for part in padding(bank))
            if step == 2:
                bank.drop([0, 2, 5])
        assert all(tensor.any() for slot in (1, 3, 4) for tensor in bank.tensors(slot).values())
    finally:
        bank.detach()


def test_modules_of_mixed_ranks_train_together_and_save_their_own_rank(base, tmp_path):
    specs = [LoraSpec(rank=rank) for rank in RANKS]
    jobs = [
        TrainJob(str(slot), spec, Objective(), Optimizer(lr=0.02, batch=2), 2, slot, examples(base, slot), 16)
        for slot, spec in enumerate(specs)
    ]
    done: dict = {}

    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(base, jobs, on_finish=lambda found: done.update({found.key: found}), on_fail=fail)
    for slot, spec in enumerate(specs):
        tensors = done[str(slot)].tensors
        start = Bank(base.model, [spec], seeds=[slot])
        start.detach()
        assert not any(torch.equal(t, tensors[n]) for n, t in start.tensors(0).items()), "both factors moved"
        peft_format.save(tmp_path / str(slot), spec, tensors, model=base.model, base_name="x")
        loaded, again = peft_format.load(tmp_path / str(slot))
        assert loaded.rank == RANKS[slot] and all(torch.equal(again[n], tensors[n]) for n in tensors)
        for name, tensor in again.items():
            assert tensor.shape[0 if "lora_A" in name else 1] == RANKS[slot]
