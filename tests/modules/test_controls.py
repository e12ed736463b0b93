"""Random modules: of every layer's norm, of no other likeness, drawn from seed and name alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.modules.bank import Bank
from loramem.modules.controls import random_like, random_recipe, update_norm
from loramem.modules.spec import LoraSpec

shapes = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))  # rank, in, out
magnitudes = st.sampled_from([1e-6, 1e-3, 1.0, 30.0])


def factors(rank: int, inner: int, outer: int, *, scale: float = 1.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rank, inner, generator=generator) * scale,
        torch.randn(outer, rank, generator=generator) * scale,
    )


def module(layers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        f"base_model.model.{name}.lora_{which}.weight": tensor
        for name, pair in layers.items()
        for which, tensor in zip("AB", pair, strict=True)
    }


def dense_norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Frobenius norm of the whole product B A of each layer, in double precision."""
    return {
        name: torch.linalg.matrix_norm(tensors[name.replace("lora_A", "lora_B")].double() @ a.double()).item()
        for name, a in tensors.items()
        if "lora_A" in name
    }


@settings(deadline=None)
@given(shapes, magnitudes, st.integers(0, 10**6))
def test_update_norm_is_the_norm_of_the_dense_product(shape, scale, seed):
    a_RI, b_OR = factors(*shape, scale=scale, seed=seed)
    dense = torch.linalg.matrix_norm(b_OR.double() @ a_RI.double()).item()
    # by Gram matrices, so what cancels in the product is lost at the precision of the factors
    room = 1e-3 * a_RI.norm().item() * b_OR.norm().item()
    assert update_norm(a_RI, b_OR).item() == pytest.approx(dense, rel=1e-4, abs=room)
    assert update_norm(a_RI, b_OR).shape == () and update_norm(a_RI, torch.zeros_like(b_OR)) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(shapes, magnitudes), min_size=1, max_size=4), st.integers(0, 10**6))
def test_norms_and_shapes_of_every_layer_are_kept(layers, seed):
    tensors = module({f"layers.{n}": factors(*s, scale=m, seed=seed + n) for n, (s, m) in enumerate(layers)})
    drawn = random_like(tensors, seed=seed)
    assert {n: (t.shape, t.dtype) for n, t in drawn.items()} == {
        n: (t.shape, t.dtype) for n, t in tensors.items()
    }
    wanted, norms = dense_norms(tensors), dense_norms(drawn)
    for name, norm in norms.items():
        a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
        assert norm == pytest.approx(wanted[name], rel=1e-3, abs=1e-3 * a.norm().item() * b.norm().item())


LAYERS = {
    "a.q_proj": factors(3, 6, 5, seed=1),
    "a.v_proj": factors(3, 6, 5, seed=2),
    "b.q_proj": factors(2, 4, 8, seed=3),
}


def test_a_layer_depends_on_seed_and_name_alone():
    tensors = module(LAYERS)
    drawn = random_like(tensors, seed=7)
    torch.manual_seed(123)  # the global generator plays no part
    torch.randn(5)
    backwards = random_like(dict(reversed(tensors.items())), seed=7)
    assert all(torch.equal(backwards[name], drawn[name]) for name in drawn)
    alone = random_like(module({"b.q_proj": LAYERS["b.q_proj"]}), seed=7)
    assert alone and all(torch.equal(tensor, drawn[name]) for name, tensor in alone.items())
    other = random_like(tensors, seed=8)
    assert not any(torch.allclose(other[name], drawn[name]) for name in drawn)


def test_layers_of_equal_weights_are_drawn_apart_and_unlike_the_module():
    pair = factors(3, 6, 5)
    tensors = module({"x": pair, "y": pair})
    drawn = random_like(tensors, seed=0)
    x, y = (drawn[f"base_model.model.{name}.lora_A.weight"] for name in "xy")
    assert not torch.allclose(x, y)
    assert not any(torch.allclose(drawn[name], tensors[name]) for name in drawn)


def test_the_direction_does_not_depend_on_the_module_only_the_size_does():
    small, large = (random_like(module({"x": factors(2, 5, 7, scale=s)}), seed=4) for s in (1.0, 10.0))
    for name, tensor in small.items():
        assert torch.allclose(large[name], 10 * tensor, rtol=1e-4)


def test_an_update_of_zero_stays_zero(bases):
    """Also that of an untrained module: A drawn, B zero."""
    tensors = module(
        {"x": (torch.randn(2, 3), torch.zeros(4, 2)), "y": (torch.zeros(2, 3), torch.zeros(4, 2))}
    )
    assert all(torch.count_nonzero(tensor) == 0 for tensor in random_like(tensors, seed=0).values())
    bank = Bank(bases["llama"].model, [LoraSpec(rank=2)], seeds=[3])
    try:
        fresh = bank.tensors(0)
    finally:
        bank.detach()
    drawn = random_like(fresh, seed=0)
    assert set(drawn) == set(fresh) and all(norm == 0 for norm in dense_norms(drawn).values())


def test_a_random_module_fills_the_bank_of_its_parent(base):
    spec = LoraSpec(rank=3, alpha=6, targets="attention")
    bank = Bank(base.model, [spec], seeds=[1])
    try:
        parent = {name: tensor + 0.01 for name, tensor in bank.tensors(0).items()}
        drawn = random_like(parent, seed=1)
        bank.load(0, drawn)
        assert all(torch.equal(tensor, drawn[name]) for name, tensor in bank.tensors(0).items())
    finally:
        bank.detach()
    assert dense_norms(drawn) == pytest.approx(dense_norms(parent), rel=1e-3)


def test_the_recipe_names_parent_and_seed():
    recipe = random_recipe("abc", {"rank": 2}, base="f", seed=5)
    assert recipe["type"] == "random" and recipe["norms_of"] == "abc" and recipe["seed"] == 5
    assert recipe != random_recipe("abd", {"rank": 2}, base="f", seed=5)
