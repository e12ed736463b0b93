"""The bank's slots and runs: modules come and go without touching each other, and a batch of any blocks is what its merged weights say."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.core.errors import InputError
from loramem.modules.bank import MAGNITUDE, PEFT_PREFIX, Bank
from loramem.modules.layer import BankedLinear
from loramem.modules.runs import GATHERED_RANK, Block
from loramem.modules.spec import LoraSpec
from training.hand import in_double, logits_of, same

SPECS = [
    LoraSpec(rank=2, alpha=4, targets="attention"),
    LoraSpec(rank=5, targets="attention"),  # of the same bucket
    LoraSpec(rank=16, targets="attention"),
    LoraSpec(rank=2, targets="attention", variant="dora"),
    LoraSpec(rank=3, targets="attention", variant="pissa"),
    LoraSpec(rank=2, targets=("down_proj",), layers=(1,)),
]


@pytest.fixture
def model(bases):
    """A copy of the llama base's model: what a test leaves on it is of no matter."""
    return copy.deepcopy(bases["llama"].model)


def noise(tensors: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}


# -- slots -------------------------------------------------------------------------------------------
kinds = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 3, 4, 5])
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), kinds, st.sampled_from([False, False, True])),
        st.tuples(st.just("add"), kinds, st.just(False)),
        st.tuples(st.just("drop"), st.integers(0, 99), st.integers(1, 2)),
        st.just(("trim",)),
        st.tuples(st.just("reserve"), kinds, st.integers(1, 4)),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_modules_come_and_go_without_touching_each_other(bases, wanted):
    """Weights, gradients and scales of what stays are bit for bit what they were; a place used again begins at zero."""
    bank = Bank(bases["llama"].model)
    kept: dict[int, tuple[dict, torch.Tensor | None, float]] = {}
    number = 0
    try:
        for action, *how in wanted:
            if action == "add":
                spec, frozen = SPECS[how[0]], how[1] and SPECS[how[0]].variant != "pissa"
                seeded = spec.variant == "pissa"
                slot = bank.add(spec, number if seeded else None, frozen=frozen)
                assert slot not in kept
                bucket = bank.bucket_of[slot]
                place = bucket.slots.index(slot)
                if not seeded:
                    assert not bucket.flat_NP[place].any()
                if not frozen:
                    assert not bucket.grad_NP[place].any()
                    bucket.grad_NP[place].normal_(generator=torch.Generator().manual_seed(number))
                if not seeded:
                    bank.load(slot, noise(bank.tensors(slot), number))
                grad = None if frozen else bucket.grad_NP[place].clone()
                kept[slot] = (bank.tensors(slot), grad, spec.scale)
            elif action == "drop" and kept:
                gone = list(dict.fromkeys(list(kept)[(how[0] + n) % len(kept)] for n in range(how[1])))
                bank.drop(gone)
                kept = {slot: one for slot, one in kept.items() if slot not in gone}
            elif action == "trim":
                bank.trim()
            elif action == "reserve":
                bank.reserve([SPECS[how[0]]] * how[1])
            number += 1
            partners = set(bank.companion.values())
            assert set(bank.specs) == set(bank.bucket_of) == set(kept) | partners
            assert sorted(bank.in_order()) == sorted(bank.specs)
            assert set(bank.companion) == {s for s in kept if bank.specs[s].variant == "pissa"}
            for slot, (tensors, grad, scale) in kept.items():
                bucket = bank.bucket_of[slot]
                place = bucket.slots.index(slot)
                assert same(bank.tensors(slot), tensors)
                assert bucket.scale_C[place] == scale
                if grad is not None:
                    assert torch.equal(bucket.grad_NP[place], grad)
                    leaves = [leaf for leaf in (*bucket.a.values(), *bucket.b.values(), *bucket.m.values())]
                    assert all(leaf.requires_grad and leaf.grad is not None for leaf in leaves)
                    assert sum(leaf[place].numel() for leaf in leaves) == bucket.grad_NP.shape[1]
                    assert torch.equal(
                        torch.cat([leaf.grad[place].flatten() for leaf in leaves]).sort()[0], grad.sort()[0]
                    )
    finally:
        bank.detach()


def test_room_is_used_again_without_new_buffers(model, bases):
    bank = Bank(model, [SPECS[0]] * 5, seeds=range(5))
    bucket = bank.bucket_of[0]

    def places():
        return (
            bucket.capacity,
            bucket.flat_CP.data_ptr(),
            bucket.grad_CP.data_ptr(),
            bucket.scale_C.data_ptr(),
        )

    before = places()
    assert before[0] == 5, "room for all was made at once"
    bank.drop([0, 3])
    assert len(bucket.slots) == 3 and places() == before
    bank.reserve([SPECS[0], SPECS[1]])
    new = [bank.add(SPECS[0], 7), bank.add(SPECS[1], 8)]
    assert new == [5, 6], "numbers are never used again"
    assert places() == before and len(bucket.slots) == 5 and bank.buckets == [bucket]
    fresh = Bank(copy.deepcopy(bases["llama"].model), [SPECS[0], SPECS[1]], seeds=[7, 8])
    assert all(same(bank.tensors(slot), fresh.tensors(number)) for number, slot in enumerate(new))
    bank.add(SPECS[0])
    assert bucket.capacity == 6


def test_trim_gives_back_what_is_half_empty(model):
    bank = Bank(model, [SPECS[0]] * 6, seeds=range(6))
    bucket, kept = bank.bucket_of[0], bank.tensors(5)
    bank.drop([0, 1])
    bank.trim()
    assert bucket.capacity == 6, "four of six are no half"
    bank.drop([2])
    bank.trim()
    assert (bucket.capacity, len(bucket.flat_CP), len(bucket.grad_CP), len(bucket.scale_C)) == (3, 3, 3, 3)
    assert same(bank.tensors(5), kept)


def test_a_bucket_that_has_become_empty_is_gone(model):
    bank = Bank(model, [SPECS[0], SPECS[2], SPECS[4]], seeds=[0, 1, 2])
    assert [bucket.key.frozen for bucket in bank.buckets] == [False, False, True], (
        "PiSSA's partner does not learn"
    )
    bank.drop([2])
    assert len(bank.buckets) == 2 and not bank.companion, "the partner leaves with its module"
    bank.drop([0, 1])
    assert bank.buckets == [] and bank.in_order() == []
    ids = torch.arange(6, 12)[None]
    with bank.active([Block(None, 1)]):
        idle = logits_of(model, ids)
    bank.detach()
    assert torch.equal(idle, logits_of(model, ids))


def test_frozen_modules_have_no_gradient(model):
    bank = Bank(model, [SPECS[0], SPECS[3]], seeds=[0, 1], frozen=True)
    learning = bank.add(SPECS[0], 2)
    assert bank.learning == [bank.bucket_of[learning]]
    for slot in (0, 1):
        bucket = bank.bucket_of[slot]
        assert bucket.grad_CP is None
        leaves = (*bucket.a.values(), *bucket.b.values(), *bucket.m.values())
        assert leaves and not any(leaf.requires_grad or leaf.grad is not None for leaf in leaves)
        with pytest.raises(AssertionError, match="no gradient"):
            bucket.grad_NP  # noqa: B018
    with bank.active([Block(slot, 1) for slot in (0, 1, learning)]):
        model(input_ids=torch.arange(6, 27).view(3, 7)).logits.square().sum().backward()
    assert bank.bucket_of[learning].grad_NP.any() and bank.bucket_of[0].grad_CP is None


def test_groups_precisions_and_kinds_have_buckets_of_their_own(model):
    bank = Bank(model)
    plain = bank.add(SPECS[0])
    for other in (
        bank.add(SPECS[0], group=24),
        bank.add(SPECS[0], compute=torch.bfloat16),
        bank.add(SPECS[0], frozen=True),
        bank.add(SPECS[2]),
        bank.add(SPECS[3]),
        bank.add(SPECS[5]),
    ):
        assert bank.bucket_of[other] is not bank.bucket_of[plain]
    assert bank.bucket_of[bank.add(SPECS[1])] is bank.bucket_of[plain]
    assert len(bank.buckets) == len({id(bucket) for bucket in bank.buckets}) == 7
    same_names = LoraSpec(rank=2, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert bank.bucket_of[bank.add(same_names)] is bank.bucket_of[plain], (
        "it is the layers that count, not their names"
    )


# -- runs --------------------------------------------------------------------------------------------
WIDE = LoraSpec(rank=GATHERED_RANK, targets=("q_proj",), layers=(1,))
NARROW = LoraSpec(rank=2, targets=("q_proj",), layers=(1,))


def runs(bank: Bank, blocks: list[Block]):
    with bank.active(blocks):
        (stack,) = bank.stacks
        return stack


def test_large_modules_are_never_copied(model):
    bank = Bank(model, [WIDE] * 5)
    (bucket,) = bank.buckets
    (leaf,) = bucket.a.values()
    for order, expected in (
        ([0, 1, 2, 3, 4], [None]),
        ([1, 2, 3], [slice(1, 4)]),
        ([0, 2, 3], [slice(0, 1), slice(2, 4)]),
        ([4, 3], [slice(4, 5), slice(3, 4)]),
    ):
        found = runs(bank, [Block(slot, 2) for slot in order])
        assert [run.select for run in found] == expected, order
        row = 0
        for run in found:
            own = run.of(leaf)
            assert own.untyped_storage().data_ptr() == leaf.untyped_storage().data_ptr()
            assert torch.equal(own, leaf[order[row : row + len(run.blocks)]])
            assert (run.start, run.stop) == (2 * row, 2 * (row + len(run.blocks)))
            row += len(run.blocks)


def test_small_modules_are_gathered_into_one_run(model):
    bank = Bank(model, [NARROW] * 4)
    (gathered,) = runs(bank, [Block(slot, 1) for slot in (3, 0, 2)])
    assert gathered.select.tolist() == [3, 0, 2]
    (whole,) = runs(bank, [Block(slot, 1) for slot in (0, 1, 2, 3)])
    assert whole.select is None
    (part,) = runs(bank, [Block(slot, 1) for slot in (1, 2)])
    assert part.select == slice(1, 3)


def test_blocks_of_other_heights_buckets_and_gaps_are_runs_of_their_own(model):
    bank = Bank(model, [NARROW, NARROW, WIDE, NARROW])
    blocks = [Block(0, 2), Block(1, 2), Block(3, 1), Block(None, 3), Block(1, 1), Block(2, 1), Block(2, 2)]
    found = [(run.start, run.stop, [one.slot for one in run.blocks]) for run in runs(bank, blocks)]
    assert found == [(0, 4, [0, 1]), (4, 5, [3]), (8, 9, [1]), (9, 12, [2])], (
        "rows of one module are one block"
    )


def test_a_bank_is_active_once_at_a_time_and_off_after_an_error(model):
    bank = Bank(model, [NARROW], seeds=[0])
    with (
        pytest.raises(AssertionError, match="once at a time"),
        bank.active([Block(0, 1)]),
        bank.active([Block(0, 1)]),
    ):
        pass
    assert bank.stacks == [] and bank.rows == 0 and bank.blocks == ()


# -- what a batch computes ---------------------------------------------------------------------------
def merge(model, spec: LoraSpec, tensors: dict[str, torch.Tensor], plain) -> None:
    """Add a module's change of the plain weights to `model`: scale B A, for DoRA with the row norms of the sum set."""
    for name, layer in plain.named_modules():
        a = tensors.get(f"{PEFT_PREFIX}{name}.lora_A.weight")
        if a is None:
            continue
        change = spec.scale * tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] @ a
        magnitude = tensors.get(f"{PEFT_PREFIX}{name}.{MAGNITUDE}")
        if magnitude is not None:
            whole = layer.weight + change
            change = magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True) - layer.weight
        with torch.no_grad():
            model.get_submodule(name).weight += change


CAST = [
    LoraSpec(rank=2, alpha=4),
    LoraSpec(rank=5, targets="mlp"),
    LoraSpec(rank=2, alpha=1, layers=(1,)),
    LoraSpec(rank=2, variant="dora"),
    LoraSpec(rank=3, alpha=2, variant="dora", targets="attention"),
    LoraSpec(rank=64, alpha=8, targets=("q_proj", "down_proj")),
    LoraSpec(rank=64, alpha=8, targets=("q_proj", "down_proj")),
    LoraSpec(rank=2, alpha=4),
]
"""Slots 0 .. 7; the last is alone in learning."""
blocks_of = st.lists(
    st.tuples(
        st.sampled_from([None, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        st.integers(1, 3),
        st.lists(st.integers(0, 6), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(blocks_of)
def test_a_batch_of_any_blocks_is_what_merged_weights_say(bases, wanted):
    with in_double(bases["llama"]) as base:
        plain = copy.deepcopy(base.model)
        bank = Bank(base.model, CAST[:-1], seeds=range(7), frozen=True)
        bank.add(CAST[-1], 7)
        weights = [noise(bank.tensors(slot), slot) for slot in range(8)]
        for slot, tensors in enumerate(weights):
            bank.load(slot, tensors)
        rows = sum(height for _, height, _ in wanted)
        ids = torch.randint(6, 200, (rows, 5), generator=torch.Generator().manual_seed(rows))
        with bank.active([Block(slot, height, beside=beside) for slot, height, beside in wanted]):
            found = logits_of(base.model, ids)
    row = 0
    for slot, height, beside in wanted:
        merged = copy.deepcopy(plain)
        for one in (slot, *beside):
            if one is not None:
                merge(merged, CAST[one], weights[one], plain)
        expected = logits_of(merged, ids[row : row + height])
        assert (found[row : row + height] - expected).norm() < 1e-12 * expected.norm(), (slot, height, beside)
        row += height


def test_within_active_the_batch_may_change(model):
    bank = Bank(model, SPECS[:2], seeds=[0, 1])
    for slot in (0, 1):
        bank.load(slot, noise(bank.tensors(slot), slot))
    ids = torch.arange(6, 18).view(3, 4)
    with bank.active([Block(0, 1)]):
        first = logits_of(model, ids[:1])
        bank.change([Block(1, 2), Block(0, 1)])
        second = logits_of(model, ids)
    with bank.active([Block(1, 2), Block(0, 1)]):
        assert torch.equal(logits_of(model, ids), second)
    with bank.active([Block(0, 1)]):
        assert torch.equal(logits_of(model, ids[:1]), first)


def test_detach_gives_the_model_back(model):
    layers = dict(model.named_modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.arange(6, 18).view(3, 4)
    before = logits_of(model, ids)
    bank = Bank(model, SPECS, seeds=range(len(SPECS)))
    assert any(isinstance(module, BankedLinear) for module in model.modules())
    assert torch.equal(logits_of(model, ids), before), "off, it adds nothing"
    with pytest.raises(InputError, match="already carries a bank"):
        Bank(model)
    bank.detach()
    assert {name: id(module) for name, module in model.named_modules()} == {
        n: id(m) for n, m in layers.items()
    }
    assert same(dict(model.state_dict()), state) and torch.equal(logits_of(model, ids), before)
    Bank(model, SPECS[:1])


@pytest.mark.parametrize(
    "bad", [LoraSpec(rank=1, targets="nowhere"), LoraSpec(rank=40, variant="pissa")], ids=str
)
def test_a_bank_that_cannot_be_made_leaves_the_model_alone(model, bad):
    with pytest.raises(InputError):
        Bank(model, [SPECS[0], bad], seeds=[0, 1])
    assert not any(isinstance(module, BankedLinear) for module in model.modules())


def test_products_in_bfloat16_are_near_those_in_single_precision(model):
    ids = torch.arange(6, 46).view(4, 10)
    found, plain = {}, logits_of(model, ids)
    for compute in (None, torch.bfloat16):
        bank = Bank(model)
        for seed, spec in enumerate((SPECS[0], SPECS[3])):
            slot = bank.add(spec, seed, compute=compute)
            bank.load(slot, noise(bank.tensors(slot), seed))
            assert bank.bucket_of[slot].flat_CP.dtype == torch.float32, "the masters stay what they are"
        with bank.active([Block(0, 2), Block(1, 2)]):
            output = model(input_ids=ids).logits
        assert output.dtype == torch.float32
        output.square().sum().backward()
        assert all(
            bucket.grad_NP.any(1).all() and bucket.grad_NP.dtype == torch.float32 for bucket in bank.buckets
        )
        found[compute] = output.detach()
        bank.detach()
    exact, rounded = found[None], found[torch.bfloat16]
    for rows in (slice(0, 2), slice(2, 4)):
        apart = (rounded[rows] - exact[rows]).norm() / (exact[rows] - plain[rows]).norm()
        assert 1e-5 < apart < 0.05
