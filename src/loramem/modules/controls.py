"""Random modules: the control that asks whether any update of this size would do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from loramem.core.identity import seed_from

RANDOM_VERSION = 1


def random_recipe(parent: str, spec: dict, *, base: str, seed: int) -> dict:
    """Recipe of a `random` module: the spec and the per-layer norms of `parent`, other weights."""
    return {
        "type": "random", "recipe_version": RANDOM_VERSION, "base": base, "spec": spec, "norms_of": parent, "seed": seed,
    }  # fmt: skip


def random_like(tensors: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Gaussian factors whose update B A has, in every layer, the Frobenius norm of the given module's update.

    Args:
        tensors: PEFT-named `lora_A [R, in]` and `lora_B [out, R]`, fp32.
        seed: With the layer's name it decides the draw; neighbours and order do not.

    Returns:
        Tensors of the same names and shapes. A layer whose update is zero stays zero; DoRA's magnitudes stay what
        they are.
    """
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(".weight")}
    for name, a_RI in tensors.items():
        if ".lora_A." not in name:
            continue
        other = name.replace(".lora_A.", ".lora_B.")
        b_OR = tensors[other]
        generator = torch.Generator().manual_seed(seed_from("random-module", seed, name))
        new_a = torch.randn(a_RI.shape, generator=generator)
        new_b = torch.randn(b_OR.shape, generator=generator)
        factor = (update_norm(a_RI, b_OR) / update_norm(new_a, new_b)).sqrt().float()
        found[name], found[other] = new_a * factor, new_b * factor
    return found


def update_norm(a_RI: Tensor, b_OR: Tensor) -> Tensor:
    """Frobenius norm of B A (0-dim), from the factors' Gram matrices: the `[out, in]` product is never built."""
    a_RI, b_OR = a_RI.double(), b_OR.double()  # the two factors may nearly cancel
    return (a_RI @ a_RI.T).mul(b_OR.T @ b_OR).sum().clamp(min=0).sqrt()
