"""DoRA, PiSSA and rsLoRA compute what PEFT computes: as they start, while they train, saved, and read again."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import peft
import pytest
import torch

from loramem.core.errors import InputError
from loramem.modules import peft_format
from loramem.modules.bank import MAGNITUDE, Bank
from loramem.modules.controls import random_like, update_norm
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import linears, parameter_count
from training.hand import (
    in_double,
    job,
    logits_of,
    read,
    same,
    solo,
    tensors_of,
    train,
    whole_distance,
)

FAMILIES = ("llama", "gpt2", "qwen3")
EXACT = 1e-12


@pytest.fixture(scope="module")
def bases(bases):
    """GPT-2's layers have a bias, which DoRA does not scale: here one that is not zero."""
    model = copy.deepcopy(bases["gpt2"].model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in linears(model).values():
            layer.bias.normal_(0, 0.3, generator=generator)
    return {**bases, "gpt2": dataclasses.replace(bases["gpt2"], model=model)}


def ids_of(base, rows: int = 2) -> torch.Tensor:
    return torch.randint(6, len(base.tokenizer), (rows, 9), generator=torch.Generator().manual_seed(0))


def apart(mine: torch.Tensor, theirs: torch.Tensor, plain: torch.Tensor) -> float:
    """Difference of logits, relative to what the module changes at all."""
    return ((mine - theirs).norm() / (theirs - plain).norm()).item()


def saved_and_loaded(folder, base, spec, tensors):
    """(PEFT's model of the saved adapter on the plain base, spec and tensors as they are read)."""
    peft_format.save(folder, spec, tensors, model=base.model, base_name="x")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), folder).eval()
    return model, *peft_format.load(folder)


# -- trained, saved and read -------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_of_variants_trains_saves_and_reads_as_peft_does(bases, family, tmp_path):
    """DoRA and PiSSA beside LoRA: an independent PEFT run, PEFT's reading of the files, and the bank's, are one function."""
    with in_double(bases[family]) as base:
        jobs = [
            job(base, "dora", rank=4, alpha=8, variant="dora", seed=1),
            job(base, "pissa", rank=4, alpha=2, variant="pissa", seed=2, lr=0.003),
            job(base, "lora", rank=2, seed=3),
        ]
        together, ids = train(base, jobs), ids_of(base)
        plain = logits_of(base.model, ids)
        for one in jobs:
            trained = solo(base, one)
            expected = logits_of(trained, ids)
            tensors = together[one.key].tensors
            assert apart(read(base, one.spec.stored, tensors, ids), expected, plain) < EXACT
            if one.key != "pissa":  # whose parameters are others, of the same function
                assert whole_distance(tensors, tensors_of(trained)) < EXACT
            model, spec, loaded = saved_and_loaded(tmp_path / one.key, base, one.spec, tensors)
            assert spec == one.spec.stored and same(loaded, tensors)
            assert apart(logits_of(model.double(), ids), expected, plain) < EXACT, one.key


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["lora", "dora", "pissa"])
def test_dropout_is_pefts_own_on_the_masks_of_the_module(bases, family, variant):
    """PEFT's layers with this project's masks in the place of their dropout, beside neighbours with masks of their own."""
    with in_double(bases[family]) as base:
        one = job(base, "x", rank=3, alpha=6, steps=5, seed=1, dropout=0.3, variant=variant)
        others = [
            job(base, "y", rank=3, steps=5, seed=2, dropout=0.5, variant=variant),
            job(base, "z", rank=3, steps=5, seed=3, variant=variant),
        ]
        ids = ids_of(base)
        mine = read(base, one.spec.stored, train(base, [others[0], one, others[1]])["x"].tensors, ids)
        plain = logits_of(base.model, ids)
        assert apart(mine, logits_of(solo(base, one), ids), plain) < EXACT
        dry = dataclasses.replace(one, spec=one.spec.model_copy(update={"dropout": 0.0}))
        assert apart(mine, logits_of(solo(base, dry), ids), plain) > 1e-3, "the masks matter"


# -- PiSSA -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_pissa_begins_at_the_base(bases, family):
    base, spec = bases[family], LoraSpec(rank=4, alpha=3, variant="pissa")
    bank, ids = Bank(base.model, [spec], seeds=[0]), ids_of(bases[family])
    plain = None
    try:
        with bank.active([Block(0, len(ids))]):
            started = logits_of(base.model, ids)
        plain = logits_of(base.model, ids)
        begun = bank.tensors(0)
        bank.load(0, {name: 0 * part for name, part in _first_half(begun).items()})
        with bank.active([Block(0, len(ids))]):
            bare = logits_of(base.model, ids)
    finally:
        bank.detach()
    assert torch.allclose(started, plain, atol=1e-5)
    assert not torch.allclose(bare, plain, atol=1e-2), "without what is learnt, its directions are gone"
    assert torch.allclose(read(base, spec.stored, begun, ids), plain, atol=1e-5)


def test_a_pissa_start_is_the_best_approximation_of_the_weight(base):
    spec = LoraSpec(rank=3, alpha=6, variant="pissa")
    bank = Bank(base.model, [spec], seeds=[0])
    tensors = _first_half(bank.tensors(0))
    bank.detach()
    for name, layer in linears(base.model).items():
        a, b = (tensors[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
        weight = layer.weight.T if base.model.config.model_type == "gpt2" else layer.weight
        left = torch.linalg.svdvals(weight - spec.scale * b @ a)
        assert torch.allclose(left[:-3], torch.linalg.svdvals(weight)[3:], atol=1e-4)
        assert torch.allclose(left[-3:], torch.zeros(3), atol=1e-4)
        assert torch.allclose(a.norm(dim=1), b.norm(dim=0), rtol=1e-4), (
            "both factors share the singular values"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_pissa_trains_as_from_pefts_own_start(bases, family, monkeypatch):
    """In single precision, the only one that PEFT's `init_lora_weights="pissa"` takes."""
    base, ids = bases[family], ids_of(bases[family])
    one = job(base, "x", rank=4, alpha=2, variant="pissa", seed=2, lr=0.003, steps=8)
    own = copy.deepcopy(base.model)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=2,
        target_modules="all-linear",
        init_lora_weights="pissa",
        fan_in_fan_out=family == "gpt2",
    )
    theirs = peft.get_peft_model(own, config).eval()
    monkeypatch.setattr("training.hand.wrapped", lambda *_: theirs)
    trained, plain = logits_of(solo(base, one), ids), logits_of(base.model, ids)
    mine = read(base, one.spec.stored, train(base, [one])["x"].tensors, ids)
    assert apart(mine, trained, plain) < 1e-3


def test_a_pissa_rank_above_the_weights_fails_alone(bases):
    base = bases["llama"]
    good = job(base, "good", steps=3)
    found = train(base, [job(base, "bad", rank=33, variant="pissa", steps=3), good])
    assert isinstance(found["bad"], InputError) and "32 singular directions" in str(found["bad"])
    assert same(found["good"].tensors, train(base, [good])["good"].tensors)


def test_a_start_that_fails_leaves_nothing_in_the_bank(bases):
    bank = Bank(bases["llama"].model)
    try:
        with pytest.raises(InputError, match="singular directions"):
            bank.add(LoraSpec(rank=33, variant="pissa"), 0)
        assert not bank.specs and not bank.bucket_of and not bank.companion and not bank.buckets
    finally:
        bank.detach()


# -- DoRA --------------------------------------------------------------------------------------------
def test_dora_begins_at_the_base_with_the_norms_of_its_weights(base):
    spec, ids = LoraSpec(rank=2, variant="dora"), ids_of(base)
    bank = Bank(base.model, [spec], seeds=[0])
    tensors = bank.tensors(0)
    bank.detach()
    assert torch.allclose(read(base, spec, tensors, ids), logits_of(base.model, ids), atol=1e-5)
    for name, layer in linears(base.model).items():
        dim = 0 if base.model.config.model_type == "gpt2" else 1
        assert torch.allclose(tensors[f"base_model.model.{name}.{MAGNITUDE}"], layer.weight.norm(dim=dim))


def test_every_dora_module_of_a_batch_has_its_own_gain(bases):
    base, ids = bases["gpt2"], ids_of(bases["gpt2"], rows=6)
    spec = LoraSpec(rank=2, variant="dora")
    weights = [filled(base, spec, seed) for seed in range(3)]
    alone = [read(base, spec, tensors, ids[2 * n : 2 * n + 2]) for n, tensors in enumerate(weights)]
    for frozen, order in itertools.product((True, False), ((0, 1, 2), (2, 0, 1))):
        bank = Bank(base.model, [spec] * 3, frozen=frozen)
        try:
            for slot, tensors in enumerate(weights):
                bank.load(slot, tensors)
            with bank.active([Block(slot, 2) for slot in order]):
                found = logits_of(base.model, torch.cat([ids[2 * slot : 2 * slot + 2] for slot in order]))
        finally:
            bank.detach()
        assert torch.allclose(found, torch.cat([alone[slot] for slot in order]), atol=2e-5), (frozen, order)


def test_weights_that_come_later_have_gains_of_their_own(bases):
    """A frozen bank computes gains once for all rows; where modules are loaded, come or go it computes them again."""
    base, ids, spec = bases["llama"], ids_of(bases["llama"]), LoraSpec(rank=2, variant="dora")
    weights = [filled(base, spec, seed) for seed in range(3)]
    alone = [read(base, spec, tensors, ids) for tensors in weights]
    bank = Bank(base.model, [spec], frozen=True)

    def says(slot: int, number: int) -> None:
        with bank.active([Block(slot, len(ids))]):
            assert torch.allclose(logits_of(base.model, ids), alone[number], atol=1e-5)

    try:
        for number in (0, 1):
            bank.load(0, weights[number])
            says(0, number)
        bank.add(spec, frozen=True)
        bank.load(1, weights[2])
        for slot, number in ((0, 1), (1, 2)):
            says(slot, number)
        bank.drop([0])
        says(1, 2)
        bank.add(spec, frozen=True)
        says(1, 2)
    finally:
        bank.detach()


def test_a_random_module_like_a_dora_module_keeps_its_magnitudes(bases):
    base, spec = bases["llama"], LoraSpec(rank=2, alpha=4, variant="dora")
    tensors = filled(base, spec)
    drawn = random_like(tensors, seed=3)
    assert drawn.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(drawn[name], tensor) == name.endswith(MAGNITUDE), name
        if ".lora_A." in name:
            other = name.replace("lora_A", "lora_B")
            assert torch.allclose(
                update_norm(drawn[name], drawn[other]), update_norm(tensor, tensors[other]), rtol=1e-4
            )
    assert read(base, spec, drawn, ids_of(base)).isfinite().all()


# -- adapters made by PEFT, and scales ---------------------------------------------------------------
MADE = {
    "lora": {"r": 3, "lora_alpha": 6},
    "rslora": {"r": 3, "lora_alpha": 6, "use_rslora": True},
    "dora": {"r": 3, "lora_alpha": 6, "use_dora": True},
    "rslora-dora": {"r": 3, "lora_alpha": 6, "use_rslora": True, "use_dora": True},
    "parts": {"r": 3, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", kind) for kind in MADE] + [("gpt2", "dora"), ("qwen3", "rslora")]
)
def test_adapters_saved_by_peft_compute_the_same_in_the_bank(bases, family, kind, tmp_path):
    base, ids = bases[family], ids_of(bases[family])
    names = sorted({name.rsplit(".", 1)[-1] for name in linears(base.model)})
    config = {"target_modules": names, "fan_in_fan_out": family == "gpt2", **MADE[kind]}
    model = peft.get_peft_model(copy.deepcopy(base.model), peft.LoraConfig(**config)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path)
    spec, tensors = peft_format.load(tmp_path)
    wanted = {"rslora": ("rslora", "lora"), "dora": ("standard", "dora"), "rslora-dora": ("rslora", "dora")}
    assert (spec.scaling, spec.variant) == wanted.get(kind, ("standard", "lora"))
    expected, plain = logits_of(model, ids), logits_of(base.model, ids)
    assert apart(read(base, spec, tensors, ids), expected, plain) < 1e-5
    again, *loaded = saved_and_loaded(tmp_path / "again", base, spec, tensors)  # and out again
    assert loaded[0].scale == pytest.approx(spec.scale) and same(loaded[1], tensors)
    assert apart(logits_of(again, ids), expected, plain) < 1e-5


@pytest.mark.parametrize("names", ["all-linear", ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]], ids=str)
def test_adapters_whose_targets_peft_lists_by_longer_names_load(bases, names, tmp_path):
    base, ids = bases["llama"], ids_of(bases["llama"])
    model = peft.get_peft_model(copy.deepcopy(base.model), peft.LoraConfig(r=2, target_modules=names))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.1
    model.eval().save_pretrained(tmp_path)
    expected, plain = logits_of(model, ids), logits_of(base.model, ids)
    assert apart(read(base, *peft_format.load(tmp_path), ids), expected, plain) < 1e-5


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_change_the_base_itself_are_refused(bases, start, tmp_path):
    """PEFT repeats such a start when it loads them; on the plain base they say something else."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=start)
    peft.get_peft_model(copy.deepcopy(bases["llama"].model), config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"init_lora_weights = '{start}'"):
        peft_format.load(tmp_path)


def test_an_rslora_adapter_is_saved_with_its_scale(bases, tmp_path):
    """PEFT reads alpha / rank, whatever the rule that gave the scale."""
    base, ids = bases["llama"], ids_of(bases["llama"])
    spec = LoraSpec(rank=4, alpha=6, scaling="rslora")
    tensors = filled(base, spec)
    model, loaded, _ = saved_and_loaded(tmp_path, base, spec, tensors)
    assert spec.scale == 3.0 and loaded == spec
    assert apart(read(base, spec, tensors, ids), logits_of(model, ids), logits_of(base.model, ids)) < 1e-5
    standard = LoraSpec(rank=4, alpha=12)
    assert torch.equal(read(base, spec, tensors, ids), read(base, standard, tensors, ids))


def test_the_stored_spec_is_the_adapter_on_the_plain_base(bases):
    for plain in (LoraSpec(rank=5, alpha=2, dropout=0.1), LoraSpec(rank=2, variant="dora", scaling="rslora")):
        assert plain.stored is plain
    spec = LoraSpec(
        rank=4, alpha=6, scaling="rslora", variant="pissa", targets="mlp", layers=(1,), dropout=0.1
    )
    stored = spec.stored
    assert stored.rank == 8 and stored.scale == pytest.approx(spec.scale) == 3.0
    assert (stored.variant, stored.scaling, stored.stored) == ("lora", "standard", stored)
    assert (stored.targets, stored.layers, stored.dropout) == ("mlp", (1,), 0.1)
    bank = Bank(bases["llama"].model, [spec], seeds=[0])
    tensors = bank.tensors(0)
    bank.detach()
    assert sum(tensor.numel() for tensor in tensors.values()) == parameter_count(bases["llama"].model, stored)


def filled(base, spec: LoraSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """A module that says something: its start, and noise on all of it."""
    bank = Bank(base.model, [spec], seeds=[seed])
    tensors = bank.tensors(0)
    bank.detach()
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }


def _first_half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a PiSSA module learns, without the part that takes its start away."""
    return {
        name: t[: len(t) // 2] if ".lora_A." in name else t[:, : t.shape[1] // 2]
        for name, t in tensors.items()
    }
