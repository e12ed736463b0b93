"""Random mixtures: modules that differ in every setting learn side by side as each does alone, and as they do one after another."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.base import Base
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer, Plateau
from loramem.training import TrainJob
from training.hand import examples, train, whole_distance

SAME = 1e-6
"""Of the update's norm; on the machine it was written on the difference is exactly zero."""
COUNT = {8: 5, 16: 7, 24: 3}


@pytest.fixture(scope="module")
def sharp(bases) -> Base:
    """The tiny base with a wider output head: a few steps are then enough to memorise a fact."""
    model = copy.deepcopy(bases["llama"].model)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return dataclasses.replace(bases["llama"], model=model)


@st.composite
def jobs(draw) -> TrainJob:
    """One module; its key and data are set by its place."""
    variant = draw(st.sampled_from(["lora", "pissa", "dora"]))
    spec = LoraSpec(
        rank=draw(st.sampled_from([1, 2, 4, 8] if variant == "pissa" else [1, 2, 4, 8, 16, 64])),
        alpha=draw(st.sampled_from(["rank", 1.0, 16.0])),
        scaling=draw(st.sampled_from(["standard", "rslora"])),
        targets=draw(
            st.sampled_from(["all-linear", "attention", "mlp", ("q_proj",), ("v_proj", "down_proj")])
        ),
        layers=draw(st.sampled_from(["all", "first-half", "second-half", (1,)])),
        dropout=draw(st.sampled_from([0.0, 0.1, 0.5])),
        variant=variant,
    )
    length = draw(st.sampled_from(list(COUNT)))
    batch = draw(st.sampled_from([1, 2, 4]))
    kind = draw(st.sampled_from(["steps", "steps", "plateau"]))
    steps = draw(st.integers(1, 6))
    budget = Budget(
        steps=steps if kind == "steps" else None,
        plateau=Plateau(max_exposures=4 * batch / COUNT[length], window=batch / COUNT[length], patience=1)
        if kind == "plateau"
        else None,
        stop_when_memorised=draw(st.booleans()),
        snapshots=draw(st.sampled_from([(), (0, 1), (steps,)])),
    )
    optimizer = Optimizer(
        lr=draw(st.sampled_from([0.001, 0.01, 0.05])),
        batch=batch,
        schedule=draw(st.sampled_from(["constant", "linear", "cosine"])),
        warmup=draw(st.sampled_from([0.0, 0.4])),
        clip=draw(st.sampled_from([None, 1.0])),
        weight_decay=draw(st.sampled_from([0.0, 0.1])),
    )
    objective = Objective(loss_on=draw(st.sampled_from(["answer", "all"])), skip_known=draw(st.booleans()))
    most = budget.steps_for(COUNT[length], batch)
    return TrainJob("", spec, objective, optimizer, most, draw(st.integers(0, 9)), (), length, budget)


def placed(base: Base, drawn: list[TrainJob]) -> list[TrainJob]:
    """Each with data of its own; some examples are longer than their recipe's length."""
    return [
        dataclasses.replace(
            one,
            key=str(i),
            examples=examples(i, len(base.tokenizer), COUNT[one.length], longest=one.length + 2),
        )
        for i, one in enumerate(drawn)
    ]


@settings(max_examples=8, deadline=None)
@given(st.lists(jobs(), min_size=2, max_size=5), st.sampled_from([4, 6]))
def test_a_module_of_any_mixture_is_what_it_is_alone(sharp, drawn, few):
    """All at once, and through few slots one after another."""
    wanted = placed(sharp, drawn)
    together, streamed = train(sharp, wanted), train(sharp, wanted, rows=few)
    assert together.keys() == streamed.keys() == {one.key for one in wanted}
    for one in wanted:
        alone = train(sharp, [one])[one.key]
        if isinstance(alone, Exception):
            raise alone
        for found in (together[one.key], streamed[one.key]):
            if isinstance(found, Exception):
                raise found
            assert whole_distance(found.tensors, alone.tensors) < SAME, one
            assert found.snapshots.keys() == alone.snapshots.keys()
            for step, tensors in alone.snapshots.items():
                assert whole_distance(found.snapshots[step], tensors) < SAME, (one, step)
            for name in ("steps", "ended", "tokens", "supervised_tokens", "truncated_tokens"):
                assert getattr(found, name) == getattr(alone, name), (one, name)
            assert [row["step"] for row in found.log] == [row["step"] for row in alone.log]
            for mine, theirs in zip(found.log, alone.log, strict=True):
                assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-7)


def test_the_differences_measured_can_be_seen(sharp):
    """Every setting of a mixture changes the module: the bound above would notice."""
    base = TrainJob(
        "x",
        LoraSpec(rank=4),
        Objective(),
        Optimizer(lr=0.01, batch=4),
        4,
        0,
        examples(0, len(sharp.tokenizer), 7, 18),
        16,
    )
    plain = train(sharp, [base])["x"].tensors
    changes = [
        dict(spec=LoraSpec(rank=4, alpha=8)), dict(spec=LoraSpec(rank=4, scaling="rslora")),
        dict(spec=LoraSpec(rank=4, dropout=0.1)), dict(objective=Objective(loss_on="all")), dict(seed=1), dict(steps=3),
        dict(optimizer=Optimizer(lr=0.011, batch=4)), dict(optimizer=Optimizer(lr=0.01, batch=3)), dict(length=8),
        dict(optimizer=Optimizer(lr=0.01, batch=4, schedule="linear")),
        dict(optimizer=Optimizer(lr=0.01, batch=4, weight_decay=0.1)),
        dict(optimizer=Optimizer(lr=0.01, batch=4, clip=0.01)),
        dict(optimizer=Optimizer(lr=0.01, batch=4, warmup=0.4)),
    ]  # fmt: skip
    for change in changes:
        other = train(sharp, [dataclasses.replace(base, **change)])["x"].tensors
        assert whole_distance(other, plain) > 100 * SAME, change
