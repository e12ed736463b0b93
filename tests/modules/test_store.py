"""The store: modules come back as they were put, with their snapshots as `ID@STEP`; wrong names are told the right ones."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from loramem.core.errors import Corrupt, UnknownName
from loramem.modules.bank import Bank
from loramem.modules.peft_format import adapter_config
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store

SPEC = LoraSpec(rank=2, alpha=4, targets="attention")
STEPS = (0, 3, 20)


def weights(base, seed: int) -> dict[str, torch.Tensor]:
    bank = Bank(base.model, [SPEC], seeds=[seed])
    try:
        return {name: tensor + 0.1 * seed for name, tensor in bank.tensors(0).items()}
    finally:
        bank.detach()


def put(store: Store, base, identity: str, *, seed: int, snapshots=None) -> None:
    store.put_module(
        identity, {"seed": seed}, SPEC, weights(base, seed), config=adapter_config(SPEC, model=base.model, base_name="x"), log=[], ledger={},
        snapshots=snapshots,
    )  # fmt: skip


@pytest.fixture
def store(bases, tmp_path) -> Store:
    base = bases["llama"]
    store = Store(tmp_path)
    put(store, base, "abc1" * 16, seed=1, snapshots={step: weights(base, 100 + step) for step in STEPS})
    put(store, base, "abd2" * 16, seed=2)
    return store


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_snapshots_load_by_id_and_step_and_the_module_by_id_alone(store, bases):
    base = bases["llama"]
    module = store.module("abc")
    assert module.id == "abc1" * 16 and module.recipe == {"seed": 1}
    spec, tensors = module.load()
    assert spec == SPEC and same(tensors, weights(base, 1))
    for step in STEPS:
        snapshot = store.module(f"abc@{step}")
        assert snapshot.id == f"{'abc1' * 16}@{step}" and snapshot.recipe == module.recipe
        spec, tensors = snapshot.load()
        assert spec == SPEC and same(tensors, weights(base, 100 + step))
        assert store.module(snapshot.id) == snapshot


@pytest.mark.parametrize("step", ["4", "1", "-3", "last", "03", "²", "..", "3/../3", "@3"])
def test_an_unknown_step_is_told_the_kept_ones(store, step):
    with pytest.raises(UnknownName, match="module abc1abc1abc1 has no snapshot") as caught:
        store.module(f"abc@{step}")
    assert repr(step) in str(caught.value) and all(str(kept) in str(caught.value) for kept in STEPS)


def test_a_module_without_snapshots_says_so(store):
    with pytest.raises(UnknownName, match=r"no snapshot '3'; allowed: \(none\)"):
        store.module("abd@3")
    assert not (store.module("abd").folder / "snapshots").exists()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("ab", "not unique"),
        ("ab@3", "not unique"),
        ("x", "no module 'x'"),
        ("x@3", "no module 'x'"),
        ("@3", "no mod"),
    ],
)
def test_a_snapshot_of_an_unknown_module_is_an_unknown_module(store, name, pattern):
    with pytest.raises(UnknownName, match=pattern):
        store.module(name)


def test_snapshots_are_no_modules_of_their_own_and_go_with_theirs(store):
    assert [module.id for module in store.modules()] == ["abc1" * 16, "abd2" * 16]
    folder = store.module("abc@3").folder
    store.delete_module("abc")
    assert not folder.exists() and [module.id for module in store.modules()] == ["abd2" * 16]
    with pytest.raises(UnknownName):
        store.module("abc@3")


def test_a_damaged_snapshot_is_corrupt_and_the_module_is_not(store):
    snapshot = store.module("abc@3")
    (snapshot.folder / "adapter_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(Corrupt, match="abc1abc1abc1"):
        snapshot.load()
    store.module("abc").load()
    store.module("abc@20").load()


def test_a_snapshot_is_an_ordinary_adapter(store, bases):
    base = bases["llama"]
    ids = torch.randint(0, len(base.tokenizer), (2, 7), generator=torch.Generator().manual_seed(0))
    snapshot = store.module("abc@20")
    reference = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), snapshot.folder)
    bank = Bank(base.model, [SPEC])
    try:
        bank.load(0, snapshot.load()[1])
        with torch.no_grad(), bank.active([Block(0, 2)]):
            mine = base.model(input_ids=ids).logits
    finally:
        bank.detach()
    with torch.no_grad():
        assert torch.allclose(mine, reference(input_ids=ids).logits, atol=2e-5)
