"""Divergence from the base in batches equals two plain forward passes, one passage and one module at a time."""

from __future__ import annotations

import random

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from loramem.core.errors import InputError
from loramem.inference import divergence as module
from loramem.inference.divergence import divergence
from loramem.modules.bank import Bank
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec

SLOTS = 4


def passages(base, count: int = 7, seed: int = 0) -> list[tuple[int, ...]]:
    """Ragged: of 1 to 40 tokens."""
    rng = random.Random(seed)
    lengths = [1, 40, *(rng.randint(2, 30) for _ in range(count - 2))]
    return [tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(length)) for length in lengths]


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def base(request, bases):
    return bases[request.param]


@pytest.fixture
def bank(base):
    """Three random modules and, in the last slot, one that changes nothing."""
    specs = [LoraSpec(rank=2), LoraSpec(rank=4, alpha=2), LoraSpec(rank=2, targets="mlp"), LoraSpec(rank=2)]
    made = Bank(base.model, specs, seeds=[1, 2, 3, 4])
    generator = torch.Generator().manual_seed(5)
    for slot in range(SLOTS - 1):
        made.load(
            slot, {n: torch.randn(t.shape, generator=generator) * 0.2 for n, t in made.tensors(slot).items()}
        )
    yield made
    made.detach()


def alone(base, bank, ids, slot) -> float:
    """The same of one passage under one module, by two forward passes and torch's own divergence."""
    ids_1T = torch.tensor([ids])
    with torch.no_grad():
        plain_TV = base.model(input_ids=ids_1T, use_cache=False).logits[0].double()
        with bank.active([Block(slot, 1)]):
            moved_TV = base.model(input_ids=ids_1T, use_cache=False).logits[0].double()
    return kl_divergence(Categorical(logits=plain_TV), Categorical(logits=moved_TV)).mean().item()


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_equals_solo_forward_passes(base, bank, rows):
    texts = passages(base)
    asked = [(ids, slot) for ids in texts for slot in (0, None, 2, 1)] + [(texts[0], 0), (texts[3], 3)]
    random.Random(rows).shuffle(asked)
    found = divergence(base, asked, bank=bank, rows=rows)
    for (ids, slot), value in zip(asked, found, strict=True):
        expected = 0.0 if slot is None else alone(base, bank, ids, slot)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-9), (len(ids), slot)
        assert slot in (None, 3) or value > 1e-3, "a module that does something"


def test_no_module_is_no_divergence_and_one_that_changes_nothing_hardly_any(base, bank):
    texts = passages(base, 5, seed=1)
    assert (
        divergence(base, [(ids, None) for ids in texts], bank=bank)
        == [0.0] * 5
        == divergence(base, [(ids, None) for ids in texts])
    )
    found = divergence(base, [(ids, slot) for ids in texts for slot in (3, 0)], bank=bank, rows=4)
    assert max(found[::2]) < 1e-10 and min(found[::2]) >= 0.0


def test_parts_and_windows_change_nothing_and_the_base_is_read_once(base, bank, monkeypatch):
    texts = passages(base, 6, seed=2)
    asked = [(ids, slot) for slot in (0, 1, 2) for ids in texts]
    whole = divergence(base, asked, bank=bank)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)  # parts of 16 tokens
    monkeypatch.setattr(module, "CACHED_TOKENS", 100)
    logits, states = module.logits_of, module._states
    heads: list[int] = []
    read: list[tuple] = []
    monkeypatch.setattr(
        module, "logits_of", lambda model, hidden_NH: heads.append(len(hidden_NH)) or logits(model, hidden_NH)
    )
    monkeypatch.setattr(
        module, "_states", lambda base, asked, *rest: read.extend(asked) or states(base, asked, *rest)
    )
    assert divergence(base, asked, bank=bank) == pytest.approx(whole, rel=1e-5, abs=1e-9)
    tokens = sum(map(len, texts))
    assert max(heads) <= 16 and sum(heads) == tokens * (1 + 3), "the base's logits once, each module's once"
    assert sorted(ids for ids, slot in read if slot is None) == sorted(texts)


def test_bad_requests(base, bank):
    assert divergence(base, []) == []
    with pytest.raises(InputError, match="at least one token"):
        divergence(base, [((), 0)], bank=bank)
    with pytest.raises(InputError, match=str(base.context_length)):
        divergence(base, [(tuple([7] * (base.context_length + 1)), None)])
