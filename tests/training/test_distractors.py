"""Modules trained in company: with probability 1 on a merged base, with 0 alone; what is drawn between is the module's own."""

from __future__ import annotations

import copy
import dataclasses

import peft
import pytest
import torch

from loramem.core.errors import InputError, UnknownName
from loramem.modules import peft_format
from loramem.modules.bank import Bank
from loramem.modules.spec import Distractors, LoraSpec
from loramem.training import loop
from training.hand import distance, in_double, job, same, solo, tensors_of, train, whole_distance

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
SPECS = {
    A: LoraSpec(rank=3, alpha=6),
    B: LoraSpec(rank=2, targets="mlp"),
    C: LoraSpec(rank=2, alpha=4, variant="dora"),
}


class Shelf:
    """Finished modules by id, and how often each was asked for."""

    def __init__(self, base):
        self.asked: list[str] = []
        self.modules: dict[str, tuple[LoraSpec, dict[str, torch.Tensor]]] = {}
        for seed, (identity, spec) in enumerate(SPECS.items()):
            bank = Bank(base.model, [spec], seeds=[seed])
            generator = torch.Generator().manual_seed(seed)
            tensors = {
                n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in bank.tensors(0).items()
            }
            bank.detach()
            self.modules[identity] = spec, tensors

    def find(self, identity: str) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
        self.asked.append(identity)
        if identity not in self.modules:
            raise UnknownName(f"no module {identity[:12]!r}")
        return self.modules[identity]

    def merged(self, base, identity: str, folder):
        """The base's model with a module merged into its weights, by PEFT."""
        spec, tensors = self.modules[identity]
        peft_format.save(folder, spec, tensors, model=base.model, base_name="x")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base.model), folder).double().merge_and_unload()


@pytest.fixture
def llama(bases):
    return bases["llama"]


@pytest.fixture
def shelf(llama) -> Shelf:
    return Shelf(llama)


def beside(one, *modules: str, probability: float = 0.5):
    return dataclasses.replace(one, distractors=Distractors(modules=modules, probability=probability))


def tensors_by_key(found: dict) -> dict[str, dict[str, torch.Tensor]]:
    for one in found.values():
        if isinstance(one, Exception):
            raise one
    return {key: one.tensors for key, one in found.items()}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("identity", [A, C], ids=["lora", "dora"])
def test_always_in_company_is_training_on_the_merged_base(bases, family, identity, tmp_path):
    """PEFT on weights into which PEFT has merged the distractor, beside a module of its own that is alone."""
    with in_double(bases[family]) as base:
        shelf = Shelf(base)
        one, other = job(base, "x", rank=4, alpha=2, seed=1, steps=8), job(base, "y", seed=2, steps=8, data=1)
        found = tensors_by_key(train(base, [beside(one, identity, probability=1), other], find=shelf.find))
        merged = shelf.merged(base, identity, tmp_path)
        assert distance(found["x"], tensors_of(solo(base, one, own=merged)), one.spec.scale) < 1e-12
        assert distance(found["y"], tensors_of(solo(base, other)), other.spec.scale) < 1e-12
        assert whole_distance(found["x"], tensors_of(solo(base, one))) > 1e-3, "company matters"


VARIANTS = ("lora", "dora", "pissa")


@pytest.mark.parametrize("variant", VARIANTS)
def test_never_in_company_is_training_alone(llama, shelf, variant):
    one = job(llama, "x", seed=1, steps=4, variant=variant, dropout=0.1)
    found = tensors_by_key(train(llama, [beside(one, A, C, probability=0)], find=shelf.find))
    assert same(found["x"], tensors_by_key(train(llama, [one]))["x"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_company_now_and_then_is_drawn_by_the_module_alone(llama, shelf, variant):
    one = job(llama, "x", seed=1, steps=8, variant=variant)
    never, half, always = (
        tensors_by_key(train(llama, [beside(one, A, B, probability=p)], find=shelf.find))["x"]
        for p in (0, 0.5, 1)
    )
    assert whole_distance(half, never) > 1e-3 and whole_distance(half, always) > 1e-3
    others = [
        beside(job(llama, "y", seed=2, steps=9, variant=variant), A, probability=1),
        job(llama, "z", seed=3, steps=8),
    ]
    among = tensors_by_key(train(llama, [others[0], beside(one, A, B), others[1]], find=shelf.find))
    assert whole_distance(among["x"], half) < 1e-6
    reseeded = tensors_by_key(train(llama, [beside(dataclasses.replace(one, seed=4), A, B)], find=shelf.find))
    assert whole_distance(reseeded["x"], half) > 1e-3


def test_a_step_has_one_of_them_as_often_as_asked(llama, shelf, monkeypatch):
    seen: list[tuple[int, ...]] = []
    kept = loop.part_losses

    def watched(base, bank, parts):
        seen.extend(part.block().beside for part in parts)
        return kept(base, bank, parts)

    monkeypatch.setattr(loop, "part_losses", watched)
    small = job(llama, "x", rank=1, steps=200, batch=1, targets=("q_proj",), layers=(1,))
    tensors_by_key(train(llama, [beside(small, A, B, probability=0.3)], find=shelf.find))
    assert len(seen) == 200 and all(len(one) <= 1 for one in seen)
    slots = {slot for one in seen for slot in one}
    counts = [sum(one == (slot,) for one in seen) for slot in slots]
    assert len(slots) == 2 and 40 <= sum(counts) <= 80 and min(counts) > 15, counts


def test_distractors_are_loaded_once_stay_as_they_are_and_go_with_the_last_of_their_users(
    llama, shelf, monkeypatch
):
    trainers: list = []

    class Kept(loop._Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            trainers.append(self)

    monkeypatch.setattr(loop, "_Trainer", Kept)
    held: list[list[str]] = []

    def step(rows: int, tokens: int) -> None:
        bank = trainers[0].bank
        frozen = [slot for slot, bucket in bank.bucket_of.items() if bucket.key.frozen]
        names = []
        for slot in frozen:
            (name,) = (n for n, (_, tensors) in shelf.modules.items() if same(bank.tensors(slot), tensors))
            names.append(name)
        held.append(sorted(names))

    jobs = [
        beside(job(llama, "one", steps=2), A, probability=1),
        beside(job(llama, "two", steps=3, seed=1), A, B, probability=1),
        beside(job(llama, "three", steps=4, seed=2), C, A, probability=1),
        job(llama, "alone", steps=6, seed=3),
    ]
    tensors_by_key(train(llama, jobs, find=shelf.find, on_step=step))
    assert sorted(shelf.asked) == [A, B, C], "each is asked for once, whoever is beside it"
    # `step` is told before those leave that have just ended
    assert held == [[A, B, C]] * 3 + [[A, C]] + [[]] * 2
    assert not trainers[0].bank.specs


def test_a_module_whose_company_cannot_be_found_fails_alone(llama, shelf):
    jobs = [
        beside(job(llama, "lost", steps=3), A, "d" * 64, probability=1),
        beside(job(llama, "good", steps=3, seed=1), A, probability=1),
        job(llama, "alone", steps=3, seed=2),
    ]
    found = train(llama, jobs, find=shelf.find)
    assert isinstance(found["lost"], UnknownName) and "dddddddddddd" in str(found["lost"])
    for one in jobs[1:]:
        own = tensors_by_key(train(llama, [one], find=shelf.find))[one.key]
        assert whole_distance(found[one.key].tensors, own) < 1e-6
    without = train(llama, jobs[1:])
    assert isinstance(without["good"], InputError) and "no store" in str(without["good"])
    assert same(without["alone"].tensors, found["alone"].tensors)


def test_company_of_another_base_is_refused_and_leaves_nothing(llama, shelf):
    spec, tensors = shelf.modules[A]
    shelf.modules[B] = spec, {name: tensor[:, :-1] for name, tensor in tensors.items()}
    found = train(
        llama, [beside(job(llama, "x", steps=2), B), job(llama, "y", steps=2, seed=1)], find=shelf.find
    )
    assert isinstance(found["x"], InputError) and "does not match this base" in str(found["x"])
    assert not isinstance(found["y"], Exception)
