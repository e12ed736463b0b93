"""A base with 4-bit weights: loaded, named as such in every identity, trained on, and refused where weights are needed."""

from __future__ import annotations

import pytest

from loramem.base import load_base
from loramem.core.errors import InputError
from loramem.modules.recipe import ModuleConfig, trained_recipe
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer
from loramem.training import TrainJob, train_modules

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def packed():
    return load_base(dtype="nf4")


def job(base, key: str, **spec) -> TrainJob:
    examples = tuple(base.prompts.chat_example(f"What is {n}?", f"{n} {n}") for n in range(4))
    return TrainJob(key, LoraSpec(**spec), Objective(), Optimizer(lr=0.01, batch=4), 12, 0, examples, 32)


def test_it_has_the_plain_bases_parameters_and_another_identity(packed):
    plain = load_base()
    assert packed.parameters == plain.parameters and packed.fingerprint == plain.fingerprint
    config = ModuleConfig(spec=LoraSpec(rank=2), budget=Budget(steps=1), optimizer=Optimizer(lr=0.1))
    recipes = [trained_recipe(b, "x", config, steps=1, length=8, seed=0) for b in (plain, packed)]
    assert [recipe["dtype"] for recipe in recipes] == ["float32", "nf4"]


def test_modules_learn_on_it_and_pissa_and_dora_are_refused(packed):
    done, failed = {}, {}
    train_modules(
        packed,
        [job(packed, "lora", rank=4), job(packed, "dora", rank=4, variant="dora"), job(packed, "pissa", rank=4, variant="pissa")],
        on_finish=lambda one: done.update({one.key: one}),
        on_fail=lambda key, error: failed.update({key: error}),
    )  # fmt: skip
    assert set(done) == {"lora"} and done["lora"].log[-1]["loss"] < 0.7 * done["lora"].log[0]["loss"]
    assert set(failed) == {"dora", "pissa"}
    assert all(isinstance(error, InputError) and "quantised" in str(error) for error in failed.values())


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"loramem\[quant\]"):
        load_base(dtype="nf4")
