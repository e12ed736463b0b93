"""The halves of a model are its whole: same logits in every family, same gradients in parts, nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

from loramem.base import forward
from loramem.base.forward import decoder_layers, hidden_states, logits_of, recomputed, row_wise
from loramem.modules.bank import Bank
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec, Objective
from loramem.training import objectives
from loramem.training.objectives import token_losses
from tiny import FAMILIES

VOCAB = 97
SHAPE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
CAP, LOGIT_SCALE, LOGITS_SCALING = 2.0, 0.3, 7.0
SCALED = {
    "gemma2": Gemma2Config(
        **SHAPE, head_dim=8, final_logit_softcapping=CAP, attn_logit_softcapping=5.0, sliding_window=4
    ),
    "cohere": CohereConfig(**SHAPE, logit_scale=LOGIT_SCALE),
    "granite": GraniteConfig(**SHAPE, logits_scaling=LOGITS_SCALING, embedding_multiplier=2.0),
}
"""Families that do something to their logits after the head."""
HEADS = {
    "llama": lambda raw: raw,
    "gemma2": lambda raw: CAP * torch.tanh(raw / CAP),
    "cohere": lambda raw: raw * LOGIT_SCALE,
    "granite": lambda raw: raw / LOGITS_SCALING,
}
"""What each does, by hand."""


@pytest.fixture(scope="module")
def models(bases) -> dict:
    found = {family: base.model for family, base in bases.items()}
    for name, config in SCALED.items():
        torch.manual_seed(0)
        config._attn_implementation = "eager"  # soft-capped attention is not in the fused one
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
        found[name] = model
    return found


@pytest.fixture(params=[*FAMILIES, *SCALED])
def model(request, models):
    return models[request.param]


def batch(seed: int = 0, rows: int = 3, length: int = 13) -> tuple[Tensor, Tensor]:
    """Ids and some wanted positions, a different number in each row."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(5, VOCAB, (rows, length), generator=generator)
    wanted_BT = torch.rand(rows, length, generator=generator) < 0.5
    wanted_BT[:, 0], wanted_BT[0, -1] = True, False
    return ids_BT, wanted_BT


# -- logits ------------------------------------------------------------------------------------------
@torch.no_grad()
def test_the_two_halves_give_the_logits_of_the_whole(model):
    ids_BT, wanted_BT = batch()
    (states_NH,) = hidden_states(model, ids_BT, wanted_BT)
    found_NV = logits_of(model, states_NH)
    whole_NV = model(input_ids=ids_BT).logits[wanted_BT]
    assert found_NV.shape == whole_NV.shape and found_NV.dtype == torch.float32
    assert torch.allclose(found_NV, whole_NV, atol=1e-6, rtol=1e-6)
    assert whole_NV.std() > 0.01 and not torch.allclose(found_NV[:-1], whole_NV[1:], atol=1e-2)


@torch.no_grad()
def test_what_a_family_does_to_its_logits_is_done(models):
    """Against formulas by hand, so that the whole is not compared with itself."""
    ids_BT, wanted_BT = batch()
    for name, scaled in HEADS.items():
        (states_NH,) = hidden_states(models[name], ids_BT, wanted_BT)
        raw_NV = models[name].get_output_embeddings()(states_NH)
        assert torch.allclose(logits_of(models[name], states_NH), scaled(raw_NV), atol=1e-5), name
        assert name == "llama" or not torch.allclose(raw_NV, scaled(raw_NV), atol=1e-2), name


@torch.no_grad()
def test_logits_of_a_base_in_low_precision_are_in_single(bases):
    model = copy.deepcopy(bases["llama"].model).bfloat16()
    ids_BT, wanted_BT = batch()
    (states_NH,) = hidden_states(model, ids_BT, wanted_BT)
    assert states_NH.dtype == torch.bfloat16 and logits_of(model, states_NH).dtype == torch.float32
    assert logits_of(model.double(), states_NH.double()).dtype == torch.float64


@torch.no_grad()
def test_the_model_is_itself_again_afterwards(model):
    ids_BT, wanted_BT = batch()
    backbone = model.base_model
    before = model(input_ids=ids_BT).logits
    kept = dict(backbone.__dict__)
    logits_of(model, hidden_states(model, ids_BT, wanted_BT)[0])
    assert backbone.__dict__ == kept and "forward" not in kept
    with pytest.raises(RuntimeError):
        logits_of(model, torch.zeros(4, 5))  # no head takes that width
    assert backbone.__dict__ == kept
    assert torch.equal(model(input_ids=ids_BT).logits, before)


@torch.no_grad()
def test_a_forward_that_was_replaced_before_stays_replaced(bases):
    """Other libraries put their own forward there; it comes back, also after an exception."""
    model = copy.deepcopy(bases["llama"].model)
    own = model.base_model.forward
    calls: list[int] = []

    def counted(*inputs, **options):
        calls.append(1)
        return own(*inputs, **options)

    object.__setattr__(model.base_model, "forward", counted)
    ids_BT, wanted_BT = batch()
    (states_NH,) = hidden_states(model, ids_BT, wanted_BT)
    logits_of(model, states_NH)
    with pytest.raises(RuntimeError):
        logits_of(model, torch.zeros(4, 5))
    assert model.base_model.__dict__["forward"] is counted and len(calls) == 1


# -- states ------------------------------------------------------------------------------------------
@torch.no_grad()
def test_all_layers_are_those_of_the_library(model):
    ids_BT, wanted_BT = batch()
    layers = hidden_states(model, ids_BT, wanted_BT, all_layers=True)
    expected = model(input_ids=ids_BT, output_hidden_states=True).hidden_states[1:]
    assert len(layers) == len(expected) == model.config.num_hidden_layers
    for mine, theirs in zip(layers, expected, strict=True):
        assert torch.allclose(mine, theirs[wanted_BT], atol=1e-6)
    assert torch.equal(layers[-1], hidden_states(model, ids_BT, wanted_BT)[0])
    assert not torch.allclose(layers[0], layers[-1], atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("all_layers", [False, True])
def test_padding_on_the_right_needs_no_mask(model, all_layers):
    ids_BT, _ = batch(rows=4)
    lengths = [13, 5, 9, 1]
    wanted_BT = torch.arange(13) < torch.tensor(lengths)[:, None]
    together = hidden_states(model, ids_BT, wanted_BT, all_layers=all_layers)
    alone = [
        hidden_states(model, ids_BT[i : i + 1, :n], torch.ones(1, n, dtype=torch.bool), all_layers=all_layers)
        for i, n in enumerate(lengths)
    ]
    for number, layer in enumerate(together):
        assert torch.allclose(layer, torch.cat([one[number] for one in alone]), atol=2e-5)


# -- parts -------------------------------------------------------------------------------------------
ROWS = 53


@pytest.fixture(params=sorted(HEADS))
def double(request, models):
    """A family in double precision, hidden states of it and targets."""
    model = copy.deepcopy(models[request.param]).double()
    generator = torch.Generator().manual_seed(3)
    hidden_NH = torch.randn(ROWS, 32, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(0, VOCAB, (ROWS,), generator=generator)
    weights_N = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return request.param, model, hidden_NH, targets_N, weights_N


def vocabulary_of(model) -> int:
    return model.get_output_embeddings().weight.shape[0]


@pytest.mark.parametrize("part", [16, 20, 53, 1000])
def test_parts_give_the_values_and_gradients_of_plain_autograd(double, part, monkeypatch):
    name, model, hidden_NH, targets_N, weights_N = double
    monkeypatch.setattr(forward, "CHUNK_BYTES", 4 * vocabulary_of(model) * part)
    seen: list[int] = []

    def nats(own_nH: Tensor, start: int) -> Tensor:
        seen.append(len(own_nH))
        return cross_entropy(
            logits_of(model, own_nH), targets_N[start : start + len(own_nH)], reduction="none"
        )

    mine = hidden_NH.clone().requires_grad_()
    values_N = row_wise(nats, mine, vocabulary=vocabulary_of(model))
    parts = [min(part, ROWS - start) for start in range(0, ROWS, part)]
    assert seen == parts, "every row once, at most a part of them at a time"
    (values_N * weights_N).sum().backward()
    assert seen == parts, "nothing is built again for the gradient"

    theirs = hidden_NH.clone().requires_grad_()
    raw_NV = theirs @ model.get_output_embeddings().weight.T
    expected_N = cross_entropy(HEADS[name](raw_NV), targets_N, reduction="none")
    (expected_N * weights_N).sum().backward()
    assert (values_N - expected_N).abs().max() < 1e-12 and (mine.grad - theirs.grad).abs().max() < 1e-12
    assert theirs.grad.abs().max() > 1e-3
    with torch.no_grad():
        plain_N = row_wise(nats, hidden_NH, vocabulary=vocabulary_of(model))
    assert (plain_N - expected_N).abs().max() < 1e-12 and seen == 2 * parts


@pytest.mark.parametrize(
    "objective",
    [Objective(), Objective(skip_known=True), Objective(name="dcd"), Objective(name="dcd", kl_weight=0)],
    ids=lambda one: one.label,
)
def test_an_objective_never_holds_more_logits_than_a_part(bases, objective, monkeypatch):
    model = bases["gemma"].model
    vocabulary, part = vocabulary_of(model), 17
    hidden_NH, told_NH = torch.randn(2, ROWS, 32, generator=torch.Generator().manual_seed(1))
    targets_N = torch.arange(ROWS)

    def losses() -> tuple[Tensor, Tensor, Tensor]:
        own = hidden_NH.clone().requires_grad_()
        values_N, nats_N = token_losses(model, objective, own, targets_N, told_NH)
        values_N.sum().backward()
        return values_N.detach(), nats_N, own.grad

    whole = losses()
    asked: list[int] = []

    def watched(model, own_nH: Tensor) -> Tensor:
        asked.append(len(own_nH))
        return logits_of(model, own_nH)

    monkeypatch.setattr(objectives, "logits_of", watched)
    monkeypatch.setattr(forward, "CHUNK_BYTES", 4 * vocabulary * part)
    for mine, expected in zip(losses(), whole, strict=True):
        assert torch.allclose(mine, expected, atol=1e-5)
    times = 2 if objective.name == "dcd" and objective.kl_weight else 1  # the teacher's, and the student's
    assert max(asked) == part and sum(asked) == times * ROWS


# -- recomputation -----------------------------------------------------------------------------------
def gradients(bank: Bank, model, *, again: bool, all_layers: bool) -> tuple[list[Tensor], list[Tensor], int]:
    """(hidden states, gradients of both modules, calls of one layer) of a pass with a loss on all of its states."""
    ids_BT, wanted_BT = batch(rows=4)
    for bucket in bank.learning:
        bucket.grad_NP.zero_()
    calls: list[int] = []
    hook = next(iter(bank.wrapped.values())).register_forward_hook(lambda *_: calls.append(1))
    try:
        with bank.active([Block(0, 2), Block(1, 2, dropout=0.3, seed=4)]), recomputed(model, again):
            states = hidden_states(model, ids_BT, wanted_BT, all_layers=all_layers)
            sum((layer**2 * (number + 1)).sum() for number, layer in enumerate(states)).backward()
    finally:
        hook.remove()
    grads = [bucket.grad_NP.clone() for bucket in bank.learning]
    return [layer.detach() for layer in states], grads, len(calls)


@pytest.mark.parametrize("all_layers", [False, True])
def test_recomputed_layers_give_the_same_outputs_and_gradients(model, all_layers):
    bank = Bank(model, [LoraSpec(rank=2), LoraSpec(rank=9)], seeds=[0, 1])
    try:
        generator = torch.Generator().manual_seed(0)
        for slot in range(2):
            bank.load(
                slot,
                {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in bank.tensors(slot).items()},
            )
        plain, expected, once = gradients(bank, model, again=False, all_layers=all_layers)
        states, found, twice = gradients(bank, model, again=True, all_layers=all_layers)
    finally:
        bank.detach()
    assert (once, twice) == (1, 2), "the layer ran again in the backward pass, and only there"
    assert len(states) == len(plain) and all(
        torch.equal(mine, theirs) for mine, theirs in zip(states, plain, strict=True)
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm() and theirs.norm() > 0
    assert not any("forward" in layer.__dict__ for layer in decoder_layers(model))


def test_layers_are_given_back_after_an_exception(bases):
    model = copy.deepcopy(bases["llama"].model)
    layers = decoder_layers(model)
    own = layers[0].forward
    object.__setattr__(layers[0], "forward", own)
    with pytest.raises(ValueError, match="on purpose"), recomputed(model):
        assert all("forward" in layer.__dict__ for layer in layers) and layers[0].forward is not own
        raise ValueError("on purpose")
    assert layers[0].__dict__["forward"] is own and "forward" not in layers[1].__dict__


def test_the_layers_of_a_model_are_found(models):
    for name, model in models.items():
        layers = decoder_layers(model)
        assert len(layers) == model.config.num_hidden_layers, name
        assert {type(layer).__name__ for layer in layers} == {type(layers[0]).__name__}
        assert any(layer is module for layer in layers for module in model.base_model.modules())
