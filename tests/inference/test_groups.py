"""Rows that share contexts and rows that leave early: whatever the batches, every answer is as if asked alone."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.inference import PrefixCache, Request, ScoreRequest, batching, generate, loglikelihood
from loramem.inference.batching import Lane, make_batches
from loramem.inference.states import hidden_shared
from loramem.modules.bank import Bank
from loramem.modules.runs import Block
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


def brute_force(base, ids: Ids, count: int) -> torch.Tensor:
    """Log-probabilities `[count, V]` before each of the last `count` tokens."""
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return logits[-count - 1 : -1]


# -- shared contexts -----------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [3, 64])
def test_groups_of_questions_equal_whole_prompts(base, rows):
    pairs, cache = groups(base, (7, 1, 3, 1, 5)), PrefixCache(base)
    shared = generate(base, [Request(s, None, 6, p) for p, s in pairs], rows=rows, prefixes=cache)
    assert cache.encoded == 5 if rows == 64 else 5 <= cache.encoded < len(pairs)
    for (prefix, suffix), got in zip(pairs, shared, strict=True):
        (alone,) = generate(base, [Request((*prefix, *suffix), None, 6)])
        assert got == alone


@pytest.mark.parametrize("rows", [3, 64])
def test_groups_of_targets_equal_whole_prompts(base, rows):
    rng, cache = random.Random(1), PrefixCache(base)
    asked = [(*pair, words(base, rng, 1, 20)) for pair in groups(base, (7, 1, 3, 1, 5), seed=1)]
    requests = [ScoreRequest(prompt, target, None, prefix) for prefix, prompt, target in asked]
    shared = loglikelihood(base, requests, rows=rows, prefixes=cache)
    assert cache.encoded == 5 if rows == 64 else 5 <= cache.encoded < len(asked)
    for (prefix, prompt, target), got in zip(asked, shared, strict=True):
        told = brute_force(base, (*prefix, *prompt, *target), len(target))
        nats = told.gather(1, torch.tensor(target)[:, None]).squeeze(1)
        assert got.nats == pytest.approx(nats.tolist(), abs=2e-4)
        assert got.greedy == (told.argmax(-1).tolist() == list(target))


def test_states_after_groups_equal_those_of_whole_rows(base):
    """What a teacher reads: `count` states before the last tokens, whatever the context in front is cut into."""
    rng = random.Random(8)
    pairs = [(p, (*s, 9)) for p, s in groups(base, (4, 1, 3), seed=8)]
    asked = [(p, rest, rng.randint(1, len(rest) - 1)) for p, rest in pairs]
    states, read = hidden_shared(base, asked, rows=3)
    assert sum(map(len, {p for p, _ in pairs})) <= read - sum(len(rest) for _, rest in pairs)
    assert read < sum(len(p) + len(rest) for p, rest in pairs)
    for (prefix, rest, count), got in zip(asked, states, strict=True):
        with torch.no_grad():
            told = base.model.base_model(input_ids=torch.tensor([[*prefix, *rest]])).last_hidden_state[0]
        torch.testing.assert_close(got, told[-count - 1 : -1], atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize(
    ("sizes", "rows"), [((8,), 3), ((6, 6), 3), ((4, 4, 4), 4), ((9, 2, 5), 64), ((1, 1, 1), 2)]
)
def test_every_context_is_encoded_once(bases, sizes, rows):
    """Also where a group needs several batches."""
    base = bases["llama"]
    pairs = groups(base, sizes, seed=2)
    for read, requests in (
        (generate, [Request(s, None, 2, p) for p, s in pairs]),
        (loglikelihood, [ScoreRequest(s, (7,), None, p) for p, s in pairs]),
    ):
        cache = PrefixCache(base)
        read(base, requests, rows=rows, prefixes=cache)
        assert cache.encoded == len(sizes) and cache.tokens == sum(map(len, {p for p, _ in pairs}))


def test_contexts_read_last_serve_the_next_call(bases):
    """Answers and scores alike, and decoding leaves what is kept as it was."""
    base, rng = bases["llama"], random.Random(12)
    pairs, cache = groups(base, (3, 3), seed=12), PrefixCache(base)
    requests = [Request(s, None, 5, p) for p, s in pairs]
    first = generate(base, requests, prefixes=cache)
    targets = [words(base, rng, 1, 6) for _ in pairs]
    scored = [ScoreRequest(s, target, None, p) for (p, s), target in zip(pairs, targets, strict=True)]
    scores = loglikelihood(base, scored, prefixes=cache)
    assert generate(base, requests, prefixes=cache) == first and cache.encoded == 2
    for (prefix, suffix), target, got in zip(pairs, targets, scores, strict=True):
        told = brute_force(base, (*prefix, *suffix, *target), len(target))
        nats = told.gather(1, torch.tensor(target)[:, None]).squeeze(1)
        assert got.nats == pytest.approx(nats.tolist(), abs=2e-4)


def test_answers_end_where_the_context_of_the_base_ends(bases):
    """A row that has less room than asked for gets what fits, its neighbours all they asked for."""
    base = bases["gpt2"]
    rng = random.Random(3)
    long, short = (words(base, rng, n, n) for n in (base.context_length - 12, 20))
    pairs = [(long, words(base, rng, 8, 8)), (long, words(base, rng, 3, 3)), (short, words(base, rng, 5, 5))]
    shared = generate(base, [Request(suffix, None, 15, prefix) for prefix, suffix in pairs])
    whole = generate(base, [Request((*prefix, *suffix), None, 15) for prefix, suffix in pairs])
    assert shared == whole
    assert any(g.truncated for g in shared)
    assert [len(g.ids) for g in shared if g.truncated] == [n for n, g in zip((4, 9, 15), shared, strict=True) if g.truncated]  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, 0, 1, 2, 3]), st.integers(0, 2), st.integers(1, 9)), max_size=30
    ),
    st.integers(1, 12),
    st.sampled_from([20, 60, 32_768]),
)
def test_batches_hold_every_row_once_within_the_limits(asked, rows, most):
    """Every row in a lane of its own module and context; lanes in the bank's order, few rows that only fill."""
    order = [None, 2, 0, 3, 1]
    prefixes = [(), (1, 1, 1, 1), (2,) * 7]
    lanes, lengths = [Lane(slot, prefixes[n]) for slot, n, _ in asked], [length for *_, length in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "CACHED_TOKENS", most)
        made = list(make_batches(lanes, lengths, SimpleNamespace(in_order=lambda: order[1:]), rows=rows))  # type: ignore[arg-type]
    members = [index for batch in made for index in batch.members if index is not None]
    assert sorted(members) == list(range(len(asked)))
    plain = [lengths[index] for index in members if lanes[index] == Lane(None)]
    assert plain == sorted(plain, reverse=True)
    for batch in made:
        height = batch.height
        assert len(batch.members) == height * len(batch.lanes) <= rows
        assert batch.blocks == [Block(lane.slot, height) for lane in batch.lanes]
        assert len({bool(lane.prefix) for lane in batch.lanes}) == 1
        places = [order.index(lane.slot) for lane in batch.lanes]
        assert places == sorted(places)
        for number, lane in enumerate(batch.lanes):
            part = slice(number * height, (number + 1) * height)
            real = [index for index in batch.members[part] if index is not None]
            assert real and all(lanes[index] == lane for index in batch.filled[part])
            assert all(
                index in (None, full)
                for index, full in zip(batch.members[part], batch.filled[part], strict=True)
            )
            assert not lane.prefix or len(real) >= height / 2
        longest = max(len(lane.prefix) for lane in batch.lanes) or max(lengths[i] for i in batch.filled)
        assert len(batch.members) == 1 or len(batch.members) * longest <= most


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
    own = generating._Decoder._leave

    def watched(self, rows, waiting):
        before = [index for index, done in zip(rows.index, rows.done, strict=True) if not done]
        count = len(rows.index)
        left = own(self, rows, waiting)
        if left:
            assert waiting is not None or 2 * len(rows.index) <= count
            assert sorted(index for index in rows.index if index is not None) == sorted(before)
            assert len(rows.index) == len(rows.mask_BC) == len(rows.cache.layers[0].keys)
            seen.append(len(rows.index))
        return left

    monkeypatch.setattr(generating._Decoder, "_leave", watched)
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
    assert not bank.blocks and not bank.stacks, "the bank is off again"


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
