"""Batched reading equals one at a time; a shared context equals the whole prompt; log-likelihoods equal brute force."""

from __future__ import annotations

import copy
import random

import peft
import pytest
import torch

from loramem.core.errors import InputError
from loramem.inference import PrefixCache, Request, ScoreRequest, generate, loglikelihood
from loramem.modules import peft_format
from loramem.modules.bank import Bank
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec


def prompts(base, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [
        tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(rng.randint(3, 25))) for _ in range(count)
    ]


@pytest.fixture
def modules(base):
    """Three modules of different shapes on the base, and their weights."""
    specs = [LoraSpec(rank=2), LoraSpec(rank=4, alpha=2), LoraSpec(rank=2, targets="mlp")]
    bank = Bank(base.model, specs, seeds=[1, 2, 3])
    generator = torch.Generator().manual_seed(5)
    weights = []
    for slot in range(3):
        weights.append(
            {name: torch.randn(t.shape, generator=generator) * 0.2 for name, t in bank.tensors(slot).items()}
        )
        bank.load(slot, weights[-1])
    yield bank, specs, weights
    bank.detach()


def greedy_by_hand(model, prompt, stops, limit) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in stops:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def test_batched_mixed_decoding_equals_peft_one_at_a_time(base, modules, tmp_path):
    bank, specs, weights = modules
    asked = prompts(base, 10)
    slots = [0, None, 2, 1, 0, 1, None, 2, 0, 0]
    mixed = generate(base, [Request(p, s, 9) for p, s in zip(asked, slots, strict=True)], bank=bank, rows=6)
    bank.detach()
    references: dict = {None: base.model}
    for slot, spec in enumerate(specs):
        folder = tmp_path / str(slot)
        folder.mkdir()
        peft_format.save(folder, spec, weights[slot], model=base.model, base_name="x")
        references[slot] = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), folder)
    for prompt, slot, got in zip(asked, slots, mixed, strict=True):
        expected = greedy_by_hand(references[slot], prompt, base.prompts.stop_ids, 9)
        assert list(got.ids) == expected
        assert got.truncated == (len(expected) == 9) and got.prompt_tokens == len(prompt)


def test_batch_size_changes_nothing(base):
    requests = [Request(p, None, 7) for p in prompts(base, 9, seed=3)]
    assert (
        generate(base, requests, rows=1)
        == generate(base, requests, rows=4)
        == generate(base, requests, rows=64)
    )


def test_loglikelihood_equals_brute_force(base, modules):
    bank, _, _ = modules
    asked, targets = prompts(base, 8, seed=1), prompts(base, 8, seed=2)
    slots = [None, 0, 1, 2, 2, 1, None, 0]
    found = loglikelihood(
        base,
        [ScoreRequest(p, t[:5], s) for p, t, s in zip(asked, targets, slots, strict=True)],
        bank=bank,
        rows=5,
    )
    for prompt, target, slot, score in zip(asked, targets, slots, found, strict=True):
        target = target[:5]
        ids = torch.tensor([[*prompt, *target]])
        with torch.no_grad():
            if slot is None:
                logits = base.model(input_ids=ids, use_cache=False).logits[0]
            else:
                with bank.active([Block(slot, 1)]):
                    logits = base.model(input_ids=ids, use_cache=False).logits[0]
        rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        expected = [rows[i, token].item() for i, token in enumerate(target)]
        assert score.nats == pytest.approx(expected, abs=2e-4)
        assert score.greedy == (rows.argmax(-1).tolist() == list(target))


def test_a_shared_context_equals_the_whole_prompt(base):
    prefix, suffixes = prompts(base, 1, seed=7)[0] * 3, prompts(base, 7, seed=8)
    cache = PrefixCache(base)
    shared = generate(base, [Request(s, None, 8, prefix) for s in suffixes], rows=3, prefixes=cache)
    whole = generate(base, [Request((*prefix, *suffix), None, 8) for suffix in suffixes])
    assert shared == whole and cache.encoded == 1
    pairs = [(suffix, target[:4]) for suffix, target in zip(suffixes, prompts(base, 7, seed=9), strict=True)]
    scores = loglikelihood(base, [ScoreRequest(p, t, None, prefix) for p, t in pairs], rows=3)
    reference = loglikelihood(base, [ScoreRequest((*prefix, *p), t) for p, t in pairs])
    for mine, theirs in zip(scores, reference, strict=True):
        assert mine.nats == pytest.approx(theirs.nats, abs=2e-4)


def test_a_context_beyond_a_sliding_window_is_read_with_each_prompt(bases):
    base = copy.copy(bases["mistral"])
    base.model = copy.deepcopy(base.model)
    base.model.config.sliding_window = 16
    prefix, suffixes, cache = prompts(base, 1, seed=7)[0] * 3, prompts(base, 3, seed=8), PrefixCache(base)
    shared = generate(base, [Request(s, None, 4, prefix) for s in suffixes], prefixes=cache)
    assert cache.encoded == 0
    for suffix, got in zip(suffixes, shared, strict=True):
        whole = (*prefix, *suffix)
        assert list(got.ids) == greedy_by_hand(base.model, whole, base.prompts.stop_ids, 4)
        assert got.prompt_tokens == len(whole)
    base.model.config.sliding_window = None
    assert [g.ids for g in generate(base, [Request((*prefix, *s), None, 4) for s in suffixes])] != [
        g.ids for g in shared
    ], "the window says something"


def test_nothing_asked_nothing_answered(base):
    assert generate(base, []) == [] and loglikelihood(base, []) == []


def test_what_does_not_fit_is_refused(base):
    long = tuple([7] * base.context_length)
    with pytest.raises(InputError, match=str(base.context_length)):
        generate(base, [Request(long)])
    with pytest.raises(InputError, match=str(base.context_length)):
        generate(base, [Request(long[:9], prefix=long[9:])])
    with pytest.raises(InputError, match="at least one token"):
        generate(base, [Request((), prefix=(7, 7))])
    with pytest.raises(InputError, match=str(base.context_length)):
        loglikelihood(base, [ScoreRequest((7,), (7,), None, long[1:])])
    with pytest.raises(InputError, match="at least one token"):
        loglikelihood(base, [ScoreRequest((1, 2), ())])
