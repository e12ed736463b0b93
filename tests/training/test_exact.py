"""A module trained in a pack equals a solo PEFT run; neighbours never change it (ENGINE.md, "Exactness")."""

from __future__ import annotations

import copy
import dataclasses
import random

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import get_scheduler

from loramem.base import Encoded
from loramem.core.errors import InputError
from loramem.modules.bank import Bank
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer
from loramem.modules.targets import resolve_targets
from loramem.training import TrainJob, bucket_length, train_modules
from loramem.training.feed import Feed
from loramem.training.optimizer import clip_by_module
from loramem.training.packing import Queue
from loramem.training.schedule import factor


def examples(seed: int, vocab: int, count: int = 12) -> tuple[Encoded, ...]:
    rng = random.Random(seed)
    return tuple(
        Encoded(tuple(rng.randrange(5, vocab) for _ in range(rng.randint(6, 20))), rng.randint(2, 5))
        for _ in range(count)
    )


def job(
    base, key: str, *, rank=4, alpha="rank", lr=0.01, steps=20, seed=0, data=0, batch=4, **spec
) -> TrainJob:
    optimizer = Optimizer(
        lr=lr, batch=batch, schedule="cosine", warmup=0.1, clip=1.0, weight_decay=0.01 if seed % 2 else 0.0
    )
    return TrainJob(
        key,
        LoraSpec(rank=rank, alpha=alpha, **spec),
        Objective(),
        optimizer,
        steps,
        seed,
        examples(data, len(base.tokenizer)),
        24,
    )


def train(base, jobs) -> dict:
    found: dict = {}
    train_modules(
        base,
        jobs,
        on_finish=lambda done: found.update({done.key: done}),
        on_fail=lambda key, error: found.update({key: error}),
    )
    return found


def solo(base, one: TrainJob) -> dict[str, torch.Tensor]:
    """The same training by PEFT, torch's AdamW, torch's clipping and transformers' scheduler."""
    config = peft.LoraConfig(
        r=one.spec.rank, lora_alpha=one.spec.scale * one.spec.rank, lora_dropout=0.0,
        target_modules=resolve_targets(base.model, one.spec),
        fan_in_fan_out=base.model.config.model_type == "gpt2",
    )  # fmt: skip
    model = peft.get_peft_model(copy.deepcopy(base.model), config)
    start = initial(base, one)
    missing = model.load_state_dict(
        {name.replace(".weight", ".default.weight"): tensor for name, tensor in start.items()}, strict=False
    )
    assert not missing.unexpected_keys
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in parameters) == sum(t.numel() for t in start.values())
    optimizer = torch.optim.AdamW(parameters, lr=one.optimizer.lr, weight_decay=one.optimizer.weight_decay)
    schedule = get_scheduler(
        "cosine", optimizer, num_warmup_steps=int(0.1 * one.steps), num_training_steps=one.steps
    )
    feed = Feed(one, base.prompts.pad_id, torch.device("cpu"))
    model.eval()  # the base's own dropout (GPT-2 has some) is off while modules learn
    for _ in range(one.steps):
        chosen = feed.next()
        ids = feed.ids_ET[chosen]
        labels = ids.masked_fill(~feed.learn_ET[chosen], -100)
        logits = model(input_ids=ids, attention_mask=feed.mask_ET[chosen]).logits
        # by hand, since transformers computes its loss in single precision whatever the model's
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    state = model.state_dict()
    return {name: state[name.replace(".weight", ".default.weight")].clone() for name in start}


def initial(base, one: TrainJob) -> dict[str, torch.Tensor]:
    bank = Bank(base.model, [one.spec], seeds=[one.seed])
    try:
        return bank.tensors(0)
    finally:
        bank.detach()


def updates(tensors: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """scale * B A per layer."""
    return {
        name: scale * tensors[name.replace("lora_A", "lora_B")] @ tensor
        for name, tensor in tensors.items()
        if ".lora_A." in name
    }


def distance(a: dict, b: dict, scale: float) -> float:
    """Largest relative difference of the updates over layers."""
    mine, theirs = updates(a, scale), updates(b, scale)
    return max(((mine[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs)


MIXTURE = [
    dict(rank=1, lr=0.02, steps=20, seed=0),
    dict(rank=2, alpha=4, lr=0.003, steps=17, seed=1, data=1),
    dict(rank=4, lr=0.01, steps=20, seed=2, data=2),
    dict(rank=16, alpha=8, lr=0.02, steps=11, seed=3, data=3),
]


FP32 = 1e-4
"""Rounding after 20 steps of AdamW, which divides small gradients by their own size: one of these modules differs by
2e-5 between two PEFT runs of the same mathematics (with and without an attention mask), most by less than 1e-6."""


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_each_module_of_a_pack_equals_a_solo_peft_run(bases, family):
    base = bases[family]
    jobs = [job(base, str(number), **settings) for number, settings in enumerate(MIXTURE)]
    together = train(base, jobs)
    found = [distance(together[one.key].tensors, solo(base, one), one.spec.scale) for one in jobs]
    assert max(found) < FP32 and sorted(found)[len(found) // 2] < 5e-6, found


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_in_double_precision_nothing_is_left_of_the_difference(bases, family):
    """What fp32 cannot show: the two ways compute the same thing, step for step."""
    base = dataclasses.replace(bases[family], model=copy.deepcopy(bases[family].model).double())
    torch.set_default_dtype(torch.float64)  # the bank's buffers follow it
    try:
        jobs = [job(base, str(number), **settings) for number, settings in enumerate(MIXTURE)]
        together = train(base, jobs)
        for one in jobs:
            assert distance(together[one.key].tensors, solo(base, one), one.spec.scale) < 1e-12, one.key
    finally:
        torch.set_default_dtype(torch.float32)


def test_mixed_targets_and_layers_equal_solo(bases):
    base = bases["llama"]
    jobs = [
        job(base, "attention", targets=("q_proj", "v_proj")),
        job(base, "one layer", layers=(1,), seed=1),
        job(base, "all", rank=2, seed=2),
    ]
    together = train(base, jobs)
    for one in jobs:
        assert distance(together[one.key].tensors, solo(base, one), one.spec.scale) < FP32, one.key


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mixture=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from([0.0, 0.1, 0.5]),
            st.integers(1, 5),
            st.integers(0, 3),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_neighbours_and_dropout_never_change_a_module(bases, mixture):
    base = bases["llama"]
    jobs = [
        job(base, str(i), rank=rank, dropout=dropout, steps=steps, seed=seed, data=i)
        for i, (rank, dropout, steps, seed) in enumerate(mixture)
    ]
    together = train(base, jobs)
    for one in jobs:
        alone = train(base, [one])[one.key]
        if any(tensor.abs().max() > 0 for name, tensor in alone.tensors.items() if "lora_B" in name):
            assert distance(together[one.key].tensors, alone.tensors, one.spec.scale) < 2e-5
        assert together[one.key].tokens == alone.tokens


def test_dropout_changes_training(bases):
    base = bases["llama"]
    with_it, without = train(base, [job(base, "a", dropout=0.5), job(base, "b")]).values()
    assert distance(with_it.tensors, without.tensors, 1.0) > 0.01


def test_same_seed_same_loss_and_other_seed_another(bases):
    base = bases["llama"]
    first, again, other = (train(base, [job(base, "x", seed=seed)])["x"] for seed in (5, 5, 6))
    assert first.log == again.log and first.log != other.log


def test_a_finished_module_is_left_alone(bases):
    base = bases["llama"]
    short, long = job(base, "short", steps=3, seed=1), job(base, "long", steps=12, seed=3)
    assert (
        distance(train(base, [short, long])["short"].tensors, train(base, [short])["short"].tensors, 1.0)
        < 2e-5
    )


def test_a_module_that_diverges_leaves_and_the_others_go_on(bases):
    base = bases["llama"]
    good, bad = job(base, "good", seed=2), job(base, "bad", lr=1e30, seed=4)
    found = train(base, [bad, good])
    assert "not finite" in str(found["bad"])
    assert distance(found["good"].tensors, train(base, [good])["good"].tensors, 1.0) < 2e-5


def test_the_base_is_given_back_unchanged(bases):
    base = bases["llama"]
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    train(base, [job(base, "x", steps=2)])
    after = base.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_tokens_are_counted_and_truncation_reported(bases):
    base = bases["llama"]
    data = examples(0, len(base.tokenizer))
    one = TrainJob(
        "x", LoraSpec(rank=1), Objective(loss_on="all"), Optimizer(lr=0.01, batch=len(data)), 2, 0, data, 8
    )
    done = train(base, [one])["x"]
    assert done.tokens == 2 * sum(min(8, len(e.ids)) for e in data)
    assert done.supervised_tokens == 2 * sum(min(8, len(e.ids)) - 1 for e in data)
    assert done.truncated_tokens == sum(max(0, len(e.ids) - 8) for e in data)


def test_every_example_is_seen_equally_often():
    data = examples(0, 50, count=5)
    one = TrainJob("x", LoraSpec(rank=1), Objective(), Optimizer(lr=1, batch=2), 10, 3, data, 24)
    feed = Feed(one, 0, torch.device("cpu"))
    seen = torch.cat([feed.next() for _ in range(10)])
    assert torch.bincount(seen, minlength=5).tolist() == [4] * 5


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_schedules_equal_transformers(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=3,
        num_training_steps=30,
    )
    for step in range(30):
        assert factor(name, step, steps=30, warmup=0.1) == pytest.approx(
            reference.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        reference.step()


def test_clipping_equals_torch_row_by_row():
    grads = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[0.01], [1.0], [10.0]]
    )
    expected = []
    for row in grads:
        parameter = torch.nn.Parameter(torch.zeros(40))
        parameter.grad = row.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        expected.append(parameter.grad)
    norms = clip_by_module(mine := grads.clone(), torch.tensor([1.0, 1.0, 1.0]))
    assert torch.allclose(mine, torch.stack(expected), atol=1e-7)
    assert torch.allclose(norms, grads.norm(dim=1))
    assert torch.equal(clip_by_module(grads.clone(), torch.full((3,), torch.inf)), grads.norm(dim=1))


def test_budgets():
    assert Budget(exposures=10).steps_for(30, 8) == 38  # 300 rows, 8 a step, rounded up
    assert Budget(steps=7).steps_for(30, 8) == 7
    with pytest.raises(ValueError, match="exactly one"):
        Budget()
    with pytest.raises(ValueError, match="exactly one"):
        Budget(steps=1, exposures=1)


def test_bucket_length():
    assert bucket_length([Encoded(tuple(range(9)), 3)], 64) == 16
    with pytest.raises(InputError, match="no training examples"):
        bucket_length([], 64)
    with pytest.raises(InputError, match="no answer"):
        bucket_length([Encoded(tuple(range(90)), 80)], 64)
