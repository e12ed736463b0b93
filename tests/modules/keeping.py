"""Modules of made-up weights in a store, for tests of what goes into it and out of it."""

from __future__ import annotations

import torch

from loramem.modules.bank import MAGNITUDE, Bank
from loramem.modules.peft_format import adapter_config
from loramem.modules.recipe import module_hash
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store, StoredModule


def weights(base, spec: LoraSpec, seed: int = 0, size: float = 0.1) -> dict[str, torch.Tensor]:
    """Random tensors of a spec as it is stored; magnitudes lie near those of the base's own weights."""
    bank = Bank(base.model, [spec], seeds=[seed])
    try:
        tensors = bank.tensors(0)
    finally:
        bank.detach()
    drawn = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(tensor.shape, generator=drawn) for name, tensor in tensors.items()}
    return {
        name: (tensor * (1 + 0.2 * noise[name])).abs() if name.endswith(MAGNITUDE) else size * noise[name]
        for name, tensor in tensors.items()
    }


def keep(store: Store, base, spec: LoraSpec, *, seed: int = 0, steps=(), text: str = "") -> StoredModule:
    """A module in a store, with snapshots at `steps`, as if it had been trained."""
    recipe = {
        "type": "trained",
        "base": base.fingerprint,
        "spec": spec.identity(),
        "budget": {"snapshots": list(steps)},
        "seed": seed,
    }
    store.put_module(
        module_hash(recipe), recipe, spec, weights(base, spec, seed), log=[], ledger={}, text=text,
        config=adapter_config(spec, model=base.model, base_name=base.name),
        snapshots={step: weights(base, spec, 100 + step) for step in steps},
    )  # fmt: skip
    return store.module(module_hash(recipe))


def ids_of(base) -> torch.Tensor:
    return torch.randint(6, len(base.tokenizer), (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


@torch.no_grad()
def read(base, spec: LoraSpec, tensors, ids: torch.Tensor) -> torch.Tensor:
    """Logits of a module in a bank."""
    bank = Bank(base.model, [spec])
    try:
        bank.load(0, tensors)
        with bank.active([Block(0, len(ids))]):
            return base.model(input_ids=ids).logits
    finally:
        bank.detach()
