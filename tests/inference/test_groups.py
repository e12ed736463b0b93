"""Rows that share contexts and rows that leave early: whatever the batches, every answer is as if asked alone."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.inference import (
    Request,
    ScoreRequest,
    generate,
    generate_shared,
    loglikelihood,
    loglikelihood_shared,
)
from loramem.inference.prefix import _batches
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec

Ids = tuple[int, ...]
generating = sys.modules[generate.__module__]  # the package gives this name to the function


def words(base, rng: random.Random, low: int, high: int) -> Ids:
    return tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(rng.randint(low, high)))


def groups(base, sizes: tuple[int, ...], seed: int = 0) -> list[tuple[Ids, Ids]]:
    """(prefix, suffix) rows, shuffled: one ragged prefix per group, suffixes of very different lengths."""
    rng = random.Random(seed)
    prefixes = [words(base, rng, 1 + 17 * n, 9 + 17 * n) for n in range(len(sizes))]
    rows = [
        (p, words(base, rng, 1, 14)) for p, size in zip(prefixes, sizes, strict=True) for _ in range(size)
    ]
    rng.shuffle(rows)
    return rows


# -- shared contexts -----------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [3, 64])
def test_groups_of_questions_equal_whole_prompts(base, rows):
    pairs = groups(base, (7, 1, 3, 1, 5))
    shared, encoded = generate_shared(base, pairs, max_new_tokens=6, rows=rows)
    assert 5 <= encoded < len(pairs)
    for (prefix, suffix), got in zip(pairs, shared, strict=True):
        (alone,) = generate(base, [Request((*prefix, *suffix), None, 6)])
        assert got == alone


@pytest.mark.parametrize("rows", [3, 64])
def test_groups_of_targets_equal_whole_prompts(base, rows):
    rng = random.Random(1)
    asked = [(*pair, words(base, rng, 1, 20)) for pair in groups(base, (7, 1, 3, 1, 5), seed=1)]
    shared, encoded = loglikelihood_shared(base, asked, rows=rows)
    assert 5 <= encoded < len(asked)
    for (prefix, prompt, target), got in zip(asked, shared, strict=True):
        ids = torch.tensor([[*prefix, *prompt, *target]])
        with torch.no_grad():
            logits = base.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        nats = logits[-len(target) - 1 : -1].gather(1, torch.tensor(target)[:, None]).squeeze(1)
        assert got.nats == pytest.approx(nats.tolist(), abs=2e-4)
        assert got.greedy == (logits[-len(target) - 1 : -1].argmax(-1).tolist() == list(target))


@pytest.mark.parametrize(
    ("sizes", "rows"), [((8,), 3), ((6, 6), 3), ((4, 4, 4), 4), ((9, 2, 5), 64), ((1, 1, 1), 2)]
)
def test_every_context_is_encoded_once(bases, sizes, rows):
    """Also where a group needs several batches."""
    base = bases["llama"]
    pairs = groups(base, sizes, seed=2)
    assert generate_shared(base, pairs, max_new_tokens=2, rows=rows)[1] == len(sizes)
    assert loglikelihood_shared(base, [(*pair, (7,)) for pair in pairs], rows=rows)[1] == len(sizes)


def test_answers_end_where_the_context_of_the_base_ends(bases):
    """A row that has less room than asked for gets what fits, its neighbours all they asked for."""
    base = bases["gpt2"]
    rng = random.Random(3)
    long, short = (words(base, rng, n, n) for n in (base.context_length - 12, 20))
    pairs = [(long, words(base, rng, 8, 8)), (long, words(base, rng, 3, 3)), (short, words(base, rng, 5, 5))]
    shared, _ = generate_shared(base, pairs, max_new_tokens=15)
    whole = generate(base, [Request((*prefix, *suffix), None, 15) for prefix, suffix in pairs])
    assert shared == whole
    assert any(g.truncated for g in shared)
    assert [len(g.ids) for g in shared if g.truncated] == [n for n, g in zip((4, 9, 15), shared, strict=True) if g.truncated]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 12), st.integers(0, 99))
def test_batches_of_groups_hold_every_row_once_within_the_limit(sizes, rows, seed):
    rng = random.Random(seed)
    prefixes = [(n,) * rng.randint(1, 5) + (n,) for n, size in enumerate(sizes) for _ in range(size)]
    rest = [rng.randint(1, 9) for _ in prefixes]
    made = list(_batches(prefixes, rest, rows))
    members = [index for batch in made for index in batch.flat if index is not None]
    assert sorted(members) == list(range(len(prefixes)))
    for batch in made:
        assert len(batch.flat) <= rows and len({len(group) for group in batch.members}) == 1
        for prefix, group, filled in zip(
            batch.prefixes,
            batch.members,
            zip(*[iter(batch.filled)] * len(batch.members[0]), strict=True),
            strict=True,
        ):
            assert all(prefixes[index] == prefix for index in filled)
            assert any(index is not None for index in group)


# -- batches that shrink -------------------------------------------------------------------------------
SPECS = [LoraSpec(rank=2), LoraSpec(rank=16, alpha=4), LoraSpec(rank=3, targets="mlp"), LoraSpec(rank=5)]


@pytest.fixture(params=["qwen3", "gpt2"])
def banked(request, bases):
    """(base, bank) with four modules that say something; two share a bucket."""
    base = bases[request.param]
    bank = Bank(base.model, SPECS, seeds=[0] * 4)
    generator = torch.Generator().manual_seed(4)
    for slot in range(4):
        shapes = {name: tensor.shape for name, tensor in bank.tensors(slot).items()}
        bank.load(slot, {name: torch.randn(s, generator=generator) * 0.2 for name, s in shapes.items()})
    assert len(bank.buckets) == 3
    yield base, bank
    bank.detach()


@pytest.fixture
def survivors(monkeypatch) -> list[int]:
    """Sizes of the batches that decoding went on with after some rows had left."""
    seen: list[int] = []
    own = generating._survivors

    def watched(done, bank):
        kept = own(done, bank)
        if kept is not None:
            assert 2 * len(kept) <= len(done)
            seen.append(len(kept))
        return kept

    monkeypatch.setattr(generating, "_survivors", watched)
    return seen


LIMITS = (1, 2, 2, 3, 4, 5, 9, 14, 25, 40)


@pytest.mark.parametrize("slots", [(None,), (0, 1, 2, 3), (3, 0), (2,)], ids=str)
def test_rows_that_end_early_change_no_other_answer(banked, survivors, slots):
    base, bank = banked
    rng = random.Random(5)
    requests = [
        Request(words(base, rng, 3, 25), slot, limit)
        for slot in slots
        for limit in rng.sample(LIMITS, len(LIMITS))
    ]
    rng.shuffle(requests)
    together = generate(base, requests, bank=bank, rows=64)
    assert len(survivors) >= 2, "the batch has shrunk more than once"
    watched = len(survivors)
    alone = [generate(base, [request], bank=bank, rows=1)[0] for request in requests]
    assert together == alone and len(survivors) == watched
    assert len({len(g.ids) for g in together}) > 4
    assert not bank.order and not bank.runs, "the bank is off again"


def test_one_long_answer_of_one_module_goes_on_alone(banked, survivors):
    base, bank = banked
    rng = random.Random(6)
    requests = [Request(words(base, rng, 3, 12), slot, 1) for slot in (0, 1, 2, 3) for _ in range(4)]
    requests[9] = Request(requests[9].prompt, 2, 30)
    together = generate(base, requests, bank=bank)
    assert survivors == [1] and together[9] == generate(base, [requests[9]], bank=bank)[0]
    assert len(together[9].ids) > 1


def test_ragged_targets_under_modules_equal_one_at_a_time(banked):
    base, bank = banked
    rng = random.Random(7)
    asked = [
        ScoreRequest(words(base, rng, 1, 30), words(base, rng, 1, 20), slot) for slot in (None, 0, 1, 2, 3) for _ in range(3)
    ]  # fmt: skip
    together = loglikelihood(base, asked, bank=bank, rows=6)
    for request, got in zip(asked, together, strict=True):
        (alone,) = loglikelihood(base, [request], bank=bank)
        assert got.nats == pytest.approx(alone.nats, abs=2e-4) and got.greedy == alone.greedy
        assert got.tokens == len(request.target)
