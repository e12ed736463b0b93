"""What is saved loads in PEFT with the same logits, for five families; what is no LoRA of one rank is refused."""

from __future__ import annotations

import copy
import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from loramem.core.errors import InputError
from loramem.modules import peft_format
from loramem.modules.bank import Bank
from loramem.modules.layer import BankedLinear
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import linears, parameter_count, resolve_targets


def filled(base, spec: LoraSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of a spec: B is not zero, so that the module says something."""
    bank = Bank(base.model, [spec], seeds=[seed])
    tensors = bank.tensors(0)
    bank.detach()
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) * 0.2 for name, tensor in tensors.items()}


def logits(base, bank: Bank | None, ids: torch.Tensor, order=(0,)) -> torch.Tensor:
    with torch.no_grad():
        if bank is None:
            return base.model(input_ids=ids).logits
        with bank.active([Block(slot, len(ids) // len(order)) for slot in order]):
            return base.model(input_ids=ids).logits


SPECS = [
    LoraSpec(rank=3, alpha=6),
    LoraSpec(rank=2, layers="second-half"),
    LoraSpec(rank=2, targets="mlp"),
    LoraSpec(rank=2, targets="attention", layers=(0,)),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_saved_modules_load_in_peft_with_the_same_logits(base, spec, tmp_path):
    tensors = filled(base, spec)
    peft_format.save(tmp_path, spec, tensors, model=base.model, base_name="x")
    reference = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), tmp_path)
    ids = torch.randint(0, len(base.tokenizer), (2, 11), generator=torch.Generator().manual_seed(1))
    loaded_spec, loaded = peft_format.load(tmp_path)
    assert loaded_spec == spec
    bank = Bank(base.model, [loaded_spec])
    try:
        bank.load(0, loaded)
        with torch.no_grad():
            expected = reference(input_ids=ids).logits
        mine = logits(base, bank, ids)
        plain = logits(base, None, ids)
    finally:
        bank.detach()
    assert torch.allclose(mine, expected, atol=2e-5)
    assert not torch.allclose(mine, plain, atol=1e-2)


def test_rows_of_one_batch_use_their_own_module_or_none(base):
    specs = [LoraSpec(rank=2), LoraSpec(rank=5, alpha=1), LoraSpec(rank=2, targets="mlp")]
    weights = [filled(base, spec, seed) for seed, spec in enumerate(specs)]
    ids = torch.randint(0, len(base.tokenizer), (8, 9), generator=torch.Generator().manual_seed(2))
    bank = Bank(base.model, specs)
    try:
        for slot, tensors in enumerate(weights):
            bank.load(slot, tensors)
        mixed = logits(base, bank, ids, order=(1, None, 2, 0))
        for block, slot in enumerate((1, None, 2, 0)):
            rows = slice(2 * block, 2 * block + 2)
            alone = logits(base, bank if slot is not None else None, ids[rows], order=(slot,))
            assert torch.allclose(mixed[rows], alone, atol=2e-5), slot
    finally:
        bank.detach()
    assert not any(isinstance(module, BankedLinear) for module in base.model.modules())


def test_parameter_count_is_what_is_saved(base):
    for spec in SPECS:
        assert parameter_count(base.model, spec) == sum(
            tensor.numel() for tensor in filled(base, spec).values()
        )


def test_parameters_of_dora_are_what_is_saved(base):
    spec = LoraSpec(rank=2, variant="dora")
    assert parameter_count(base.model, spec) == sum(t.numel() for t in filled(base, spec).values())


def test_all_linear_is_what_peft_calls_all_linear(base):
    model = peft.get_peft_model(
        copy.deepcopy(base.model),
        peft.LoraConfig(
            r=1, target_modules="all-linear", fan_in_fan_out=base.model.config.model_type == "gpt2"
        ),
    )
    theirs = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in model.named_modules()
        if name.endswith("lora_A.default")
    }
    assert set(resolve_targets(base.model, LoraSpec(rank=1))) == theirs == set(linears(base.model))


def test_unknown_targets_and_layers_are_named(bases):
    model = bases["llama"].model
    with pytest.raises(InputError, match="Did you mean 'q_proj'"):
        resolve_targets(model, LoraSpec(rank=1, targets=("q_prj",)))
    with pytest.raises(InputError, match=r"layers \[7\].*0\.\.1"):
        resolve_targets(model, LoraSpec(rank=1, layers=(0, 7)))


@pytest.fixture
def saved(bases, tmp_path):
    base, spec = bases["llama"], LoraSpec(rank=2)
    peft_format.save(tmp_path, spec, filled(base, spec), model=base.model, base_name="x")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"use_dora": True}),
        pytest.param({"use_rslora": True}),
        pytest.param({"lora_alpha": 7}),
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"rank_pattern": {"q_proj": 4}},
        {"r": 3},
    ],
)
def test_what_is_another_kind_or_contradicts_itself_is_refused(saved, change):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError):
        peft_format.load(saved)


def test_pickled_and_damaged_weights_are_refused(saved):
    (saved / "adapter_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputError, match="not a readable safetensors"):
        peft_format.load(saved)
    shutil.move(saved / "adapter_model.safetensors", saved / "adapter_model.bin")
    with pytest.raises(InputError, match="pickled weights can run code"):
        peft_format.load(saved)


def test_an_adapter_of_another_base_is_refused(saved, bases):
    spec, tensors = peft_format.load(saved)
    bank = Bank(bases["mistral"].model, [spec])
    try:
        with pytest.raises(InputError, match="does not match this base"):
            bank.load(
                0, {name: tensor[:, :-1] if "lora_A" in name else tensor for name, tensor in tensors.items()}
            )
    finally:
        bank.detach()


def test_adapters_made_by_peft_load(bases, tmp_path):
    base = bases["llama"]
    model = peft.get_peft_model(
        copy.deepcopy(base.model), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    )
    model.save_pretrained(tmp_path)
    tensors = {
        name: tensor + 0.01 for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    spec, loaded = peft_format.load(tmp_path)
    assert (spec.rank, spec.alpha, set(spec.targets)) == (4, 8, {"q_proj", "down_proj"}) and set(
        loaded
    ) == set(tensors)
