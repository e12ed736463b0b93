"""Where a module is on (everywhere, after the context, in the answer), beside others, in batches that refill.

Every answer equals that of a plain loop over the model with one row and one module, or of the request asked alone.
"""

from __future__ import annotations

import copy
import random
import sys
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from loramem.core.errors import InputError
from loramem.inference import PrefixCache, Request, ScoreRequest, batching, generate, loglikelihood
from loramem.modules.bank import PEFT_PREFIX, Bank
from loramem.modules.runs import GATHERED_RANK, Block
from loramem.modules.spec import LoraSpec

Ids = tuple[int, ...]
generating = sys.modules[generate.__module__]  # the package gives this name to the function

SPECS = [LoraSpec(rank=2), LoraSpec(rank=16, alpha=8), LoraSpec(rank=3, targets="mlp")]
SLOTS = (None, 0, 1, 2)
MODES = ("all", "after-prefix", "answer")


def words(base, rng: random.Random, low: int, high: int) -> Ids:
    return tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(rng.randint(low, high)))


def attach(base, specs: list[LoraSpec]) -> Bank:
    """A bank of modules that say something, of about equal strength whatever their rank."""
    bank = Bank(base.model, specs, seeds=[0] * len(specs), frozen=True)
    generator = torch.Generator().manual_seed(9)
    for slot, spec in enumerate(specs):
        shapes = {name: tensor.shape for name, tensor in bank.tensors(slot).items()}
        size = 0.3 / spec.rank**0.25
        bank.load(slot, {name: torch.randn(s, generator=generator) * size for name, s in shapes.items()})
    return bank


@pytest.fixture
def bank(base):
    own = attach(base, SPECS)
    yield own
    own.detach()


def by_hand(base, bank: Bank, request: Request, read: str) -> Ids:
    """The answer's ids by a plain loop: the base reads what comes before `read`, the module is on from there."""
    whole = (*request.prefix, *request.prompt)
    first = {"all": 0, "after-prefix": len(request.prefix), "answer": len(whole) - 1}[read]
    past, told = DynamicCache(config=base.model.config), []
    with torch.no_grad():
        if first:
            base.model(input_ids=torch.tensor([whole[:first]]), past_key_values=past, use_cache=True)
        fed = whole[first:]
        with bank.active([Block(request.slot, 1)]):
            while len(told) < request.max_new_tokens:
                output = base.model(input_ids=torch.tensor([fed]), past_key_values=past, use_cache=True)
                fed = (int(output.logits[0, -1].argmax()),)
                if fed[0] in base.prompts.stop_ids:
                    break
                told += fed
    return tuple(told)


def questions(base, mode: str, *, seed: int, contexts: int = 3, each: int = 2) -> list[Request]:
    """`each` questions after every context under every module and none, shuffled."""
    rng = random.Random(seed)
    prefixes = [words(base, rng, 4 + 9 * n, 12 + 9 * n) for n in range(contexts)]
    asked = [
        Request(words(base, rng, 1, 9), slot, 5, prefix, mode)
        for prefix, slot, _ in product(prefixes, SLOTS, range(each))
    ]
    rng.shuffle(asked)
    return asked


# -- where the module is on ----------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [5, 64])
def test_a_context_read_under_several_modules(base, bank, rows):
    asked, contexts = questions(base, "all", seed=1), PrefixCache(base)
    got = generate(base, asked, bank=bank, rows=rows, prefixes=contexts)
    assert [g.ids for g in got] == [by_hand(base, bank, one, "all") for one in asked]
    for one, own in list(zip(asked, got, strict=True))[:6]:
        whole = Request((*one.prefix, *one.prompt), one.slot, 5)
        assert generate(base, [whole], bank=bank, rows=1) == [own]
    assert contexts.encoded == len({(one.slot, one.prefix) for one in asked}) == 12


@pytest.mark.parametrize("rows", [2, 5, 64])
def test_a_context_read_by_the_base_for_all_modules(base, bank, rows):
    asked, contexts = questions(base, "after-prefix", seed=2), PrefixCache(base)
    asked = [one for one in asked if one.slot is not None]
    got = [g.ids for g in generate(base, asked, bank=bank, rows=rows, prefixes=contexts)]
    assert got == [by_hand(base, bank, one, "after-prefix") for one in asked]
    assert got[:9] != [by_hand(base, bank, one, "all") for one in asked[:9]]
    if rows != 5:  # there batches end amid the modules of a context
        assert contexts.encoded == 3 and contexts.tokens == sum(map(len, {one.prefix for one in asked}))


@pytest.mark.parametrize("shared", [False, True])
def test_a_module_that_is_on_in_the_answer_only(base, bank, shared):
    asked, contexts = questions(base, "answer", seed=3), PrefixCache(base)
    if not shared:
        asked = [Request((*one.prefix, *one.prompt), one.slot, 5, (), "answer") for one in asked]
    asked += [Request((11,), slot, 5, (), "answer") for slot in SLOTS]
    got = [g.ids for g in generate(base, asked, bank=bank, rows=64, prefixes=contexts)]
    assert got == [by_hand(base, bank, one, "answer") for one in asked]
    assert got == [g.ids for g in generate(base, asked, bank=bank, rows=5)]
    for other in ("all", "after-prefix"):
        assert got[:9] != [by_hand(base, bank, one, other) for one in asked[:9]]
    assert contexts.encoded == (3 if shared else 0), "those with no module share them too"


def test_all_three_ways_in_one_call_and_the_bank_is_off_again(base, bank):
    asked = [one for mode in MODES for one in questions(base, mode, seed=4, contexts=2, each=1)]
    random.Random(4).shuffle(asked)
    got = generate(base, asked, bank=bank, rows=6)
    assert [g.ids for g in got] == [by_hand(base, bank, one, one.module_on) for one in asked]
    assert not bank.blocks and not bank.stacks


def test_targets_after_a_context_under_modules_equal_brute_force(base, bank):
    rng, contexts = random.Random(5), PrefixCache(base)
    asked = [
        ScoreRequest(one.prompt, words(base, rng, 1, 8), one.slot, one.prefix)
        for one in questions(base, "all", seed=5)
    ]
    got = loglikelihood(base, asked, bank=bank, rows=5, prefixes=contexts)
    assert contexts.encoded == 12
    for one, score in zip(asked, got, strict=True):
        ids = torch.tensor([[*one.prefix, *one.prompt, *one.target]])
        with torch.no_grad(), bank.active([Block(one.slot, 1)]):
            told = base.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        told = told[-len(one.target) - 1 : -1]
        nats = told.gather(1, torch.tensor(one.target)[:, None]).squeeze(1)
        assert score.nats == pytest.approx(nats.tolist(), abs=2e-4)
        assert score.greedy == (told.argmax(-1).tolist() == list(one.target))


@pytest.mark.parametrize("case", ["ragged groups", "between batches", "equal lengths"])
def test_a_context_is_encoded_once_wherever_batches_end(bases, case):
    """As long as all contexts fit: the rest of a group, a module's own batch, contexts that take turns."""
    base, prompt = bases["llama"], (9,) * 9
    if case == "ragged groups":
        rows, asked = 4, [Request(prompt, None, 2, (token,) * 12) for token in (7, 8) for _ in range(5)]
    elif case == "between batches":
        rows = 4
        asked = [
            Request(prompt, slot, 2, (7,) * length, "after-prefix")
            for length, slot, _ in product((20, 12), (0, 1, 2), range(2))
        ]
    else:
        rows, turns = 1, [(0, 7), (1, 8), (1, 7), (0, 8)]
        asked = [
            Request(prompt[n:], slot, 2, (token,) * 12, "after-prefix")
            for n, (slot, token) in enumerate(turns)
        ]
    bank, contexts = attach(base, SPECS), PrefixCache(base)
    generate(base, asked, bank=bank, rows=rows, prefixes=contexts)
    bank.detach()
    assert contexts.encoded == 2


# -- sliding windows -----------------------------------------------------------------------------------
@pytest.fixture
def windowed(bases):
    """(base, bank) whose rows see the last 24 tokens."""
    base = copy.copy(bases["mistral"])
    base.model = copy.deepcopy(base.model)
    base.model.config.sliding_window = 24
    return base, attach(base, SPECS)


def test_within_a_sliding_window_contexts_are_shared(windowed):
    """Also where padding stands between a row's context and its prompt."""
    base, bank = windowed
    rng, contexts = random.Random(6), PrefixCache(base)
    asked = [
        Request(words(base, rng, own, own), slot, limit, prefix, mode)
        for (prefix, own, limit), slot, mode in product(
            [(words(base, rng, 15, 15), 1, 5), (words(base, rng, 1, 1), 15, 2)], SLOTS, MODES
        )
    ]
    got = [g.ids for g in generate(base, asked, bank=bank, rows=8, prefixes=contexts)]
    assert got == [by_hand(base, bank, one, one.module_on) for one in asked]
    assert contexts.encoded > 0
    scored = [ScoreRequest(one.prompt, (9, 8), one.slot, one.prefix) for one in asked]
    whole = [ScoreRequest((*one.prefix, *one.prompt), (9, 8), one.slot) for one in asked]
    for mine, theirs in zip(
        loglikelihood(base, scored, bank=bank, rows=8), loglikelihood(base, whole, bank=bank), strict=True
    ):
        assert mine.nats == pytest.approx(theirs.nats, abs=2e-4)


def test_beyond_a_sliding_window_whole_prompts_are_read(windowed):
    base, bank = windowed
    rng, contexts = random.Random(7), PrefixCache(base)
    prefix = words(base, rng, 30, 30)
    asked = [
        Request(words(base, rng, 1, 12), slot, limit, prefix, mode)
        for slot, mode, limit in product(SLOTS, ("all", "answer"), (2, 9))
    ]
    got = generate(base, asked, bank=bank, rows=6, prefixes=contexts)
    assert [g.ids for g in got] == [by_hand(base, bank, one, one.module_on) for one in asked]
    assert [g.prompt_tokens for g in got] == [30 + len(one.prompt) for one in asked]
    scored = [ScoreRequest(one.prompt, (9, 8), one.slot, prefix) for one in asked]
    whole = [ScoreRequest((*prefix, *one.prompt), (9, 8), one.slot) for one in asked]
    for mine, theirs in zip(
        loglikelihood(base, scored, bank=bank, rows=6, prefixes=contexts),
        loglikelihood(base, whole, bank=bank),
        strict=True,
    ):
        assert mine.nats == pytest.approx(theirs.nats, abs=2e-4)
    assert contexts.encoded == 0


def test_beyond_a_sliding_window_nothing_is_on_after_a_context(windowed):
    base, bank = windowed
    long = Request((9,), 0, 3, (7,) * 30, "after-prefix")
    with pytest.raises(InputError, match="cannot share contexts"):
        generate(base, [Request((9,), None), long], bank=bank)
    assert not bank.blocks
    fine = Request((9,), None, 3, (7,) * 30, "after-prefix")  # no module: one way of reading only
    assert generate(base, [fine], bank=bank)[0].ids == by_hand(base, bank, fine, "all")


def test_a_long_prompt_elsewhere_keeps_no_module_from_coming_after_a_context(windowed):
    base, bank = windowed
    asked = [Request((9,) * 40, 1, 3), Request((9, 8), 0, 3, (7,) * 6, "after-prefix")]
    got = generate(base, asked, bank=bank)
    assert [g.ids for g in got] == [by_hand(base, bank, one, one.module_on) for one in asked]


# -- ranks ---------------------------------------------------------------------------------------------
RANKS = [64, 2, 64, 1024, 40, 64, 5, 64, 2]


def merged(model, spec: LoraSpec, tensors: dict[str, torch.Tensor]):
    """A copy of the model whose own weights hold the module."""
    own = copy.deepcopy(model)
    for key, a_RI in tensors.items():
        if ".lora_A." in key:
            layer = own.get_submodule(key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight"))
            update_OI = spec.scale * tensors[key.replace("lora_A", "lora_B")] @ a_RI
            layer.weight.data += update_OI.T if isinstance(layer, Conv1D) else update_OI
    return own


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_modules_of_any_rank_read_side_by_side(bases, family):
    """All, or some of a bucket: large ones as they lie, small ones gathered; as if merged into the weights."""
    base = bases[family]
    plain = copy.deepcopy(base.model)
    specs = [LoraSpec(rank=rank, alpha=rank / 2) for rank in RANKS]
    bank = attach(base, specs)
    try:
        large = [slot for slot in bank.in_order() if RANKS[slot] in (40, 64)]
        assert len({id(bank.bucket_of[slot]) for slot in large}) == 1 and len(large) == 5
        rng = random.Random(8)
        prompts = [words(base, rng, 2, 12) for _ in range(2)]
        expected = {}
        for slot, spec in enumerate(specs):
            own = merged(plain, spec, bank.tensors(slot))
            for prompt in prompts:
                ids = list(prompt)
                with torch.no_grad():
                    for _ in range(6):
                        logits = own(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                        ids.append(int(logits.argmax()))
                        if ids[-1] in base.prompts.stop_ids:
                            ids.pop()
                            break
                expected[slot, prompt] = tuple(ids[len(prompt) :])
        assert len(set(expected.values())) > len(RANKS)
        seen: set[str] = set()
        change = bank.change

        def watched(blocks):
            change(blocks)
            for run in (run for runs in bank.stacks for run in runs):
                kind = type(run.select).__name__
                seen.add(kind)
                assert kind != "Tensor" or run.bucket.key.rank < GATHERED_RANK, "large ones are not copied"
                named = [block.slot for block in run.blocks]
                assert [slot for slot in run.bucket.slots if slot in named] == named

        bank.change = watched  # type: ignore[method-assign]
        for slots in (range(len(RANKS)), [3, 1], [0, 5], [0, 2, 7, 8, 1], [4, 5, 6, 8], [3], [7, 3, 0, 4]):
            asked = [Request(prompt, slot, 6) for slot in slots for prompt in prompts]
            got = generate(base, asked, bank=bank)
            assert [g.ids for g in got] == [expected[one.slot, one.prompt] for one in asked], slots
        assert seen == {"NoneType", "slice", "Tensor"}
    finally:
        bank.detach()


# -- any mixture ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["llama", "gpt2"])
def mixture(request, bases):
    """(base, bank, pool of prompts, of contexts, the answer of a request asked alone)."""
    base = copy.copy(bases[request.param])
    base.model = copy.deepcopy(base.model)
    bank = attach(base, SPECS)
    rng = random.Random(10)
    prompts = [words(base, rng, n, n) for n in (1, 1, 2, 5, 9, 14)]
    prefixes = [(), *(words(base, rng, n, n) for n in (3, 11, 11))]

    @cache
    def alone(one: Request):
        return generate(base, [one], bank=bank, rows=1)[0]

    return base, bank, prompts, prefixes, alone


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(SLOTS), st.integers(1, 9), st.integers(0, 3), st.sampled_from(MODES)
        ),
        min_size=1, max_size=14,
    ),
    st.integers(1, 12),
)  # fmt: skip
def test_any_mixture_equals_each_request_asked_alone(mixture, drawn, rows):
    base, bank, prompts, prefixes, alone = mixture
    asked = [
        Request(prompts[number], slot, limit, prefixes[context], mode)
        for number, slot, limit, context, mode in drawn
    ]
    assert generate(base, asked, bank=bank, rows=rows) == [alone(one) for one in asked]
    assert not bank.blocks and not bank.stacks


# -- batches that refill -------------------------------------------------------------------------------
class Watch:
    """What decoding did.

    Attributes:
        steps: (rows, width of the mask) of each step.
        joined: For each set of rows that joined others: the most tokens that a live one of those had told.
        sizes: Rows of each batch that was joined.
    """

    def __init__(self, monkeypatch):
        self.steps, self.joined, self.sizes = [], [], []
        step, join = generating._Decoder._step, generating._Decoder._join

        def stepped(decoder, rows):
            self.steps.append((len(rows.index), rows.mask_BC.shape[1] + 1))
            assert not all(rows.done)
            step(decoder, rows)
            assert rows.cache.layers[0].keys.shape[2] == rows.mask_BC.shape[1] == self.steps[-1][1]

        def joined(decoder, old, new):
            if old is not None:
                live = [len(decoder.told[i]) for i, done in zip(old.index, old.done, strict=True) if not done]
                self.joined.append(max(live, default=0))
                self.sizes.append(len(old.index) + len(new.index))
            return join(decoder, old, new)

        monkeypatch.setattr(generating._Decoder, "_step", stepped)
        monkeypatch.setattr(generating._Decoder, "_join", joined)


@pytest.mark.parametrize(
    ("slots", "mode"), [((None,), "all"), ((2,), "answer"), ((0, 1, 2), "all")], ids=["none", "one", "three"]
)
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_rows_that_wait_take_the_room_of_those_that_ended(bases, monkeypatch, family, slots, mode):
    """Long before the batch is empty; and columns that are padding for all go, so that caches stay short."""
    base = bases[family]
    bank = attach(base, SPECS)
    try:
        rng, most = random.Random(11), 30
        asked = [
            Request(words(base, rng, 1, 15), rng.choice(slots), rng.randint(1, most), (), mode)
            for _ in range(40)
        ]
        seen = Watch(monkeypatch)
        together = generate(base, asked, bank=bank, rows=4)
        monkeypatch.undo()
        assert together == [generate(base, [one], bank=bank, rows=1)[0] for one in asked]
        assert sum(told > 1 for told in seen.joined) >= 5, "they join rows in the middle of their answers"
        assert max(rows for rows, _ in seen.steps) == 4 == max(seen.sizes)
        # When rows join or leave, what stays is as wide as a live row: a prompt and less than an answer. From then
        # on until the next ones leave, each step is one of a row that is still live: less than an answer again.
        longest = max(len(one.prompt) for one in asked)
        bound = longest + 2 * most - 2
        assert len(seen.steps) > bound, "without that they would be wider"
        assert max(width for _, width in seen.steps) <= bound
    finally:
        bank.detach()


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_no_more_rows_than_asked_for_go_together(bases, monkeypatch, rows):
    base = bases["llama"]
    bank = attach(base, SPECS)
    try:
        rng = random.Random(12)
        contexts = [(), (), words(base, rng, 9, 9), words(base, rng, 5, 5)]
        asked = [
            Request(
                words(base, rng, 1, 9), rng.choice(SLOTS), rng.randint(1, 6), rng.choice(contexts), rng.choice(MODES)
            )
            for _ in range(50)
        ]  # fmt: skip
        seen = Watch(monkeypatch)
        generate(base, asked, bank=bank, rows=rows)
        assert rows // 2 < max(count for count, _ in seen.steps) <= rows
    finally:
        bank.detach()


def test_rows_that_join_keep_the_bound_on_cached_tokens(bases, monkeypatch):
    base, rng = bases["llama"], random.Random(13)
    monkeypatch.setattr(batching, "CACHED_TOKENS", 240)
    asked = [Request(words(base, rng, 40, 40), None, rng.randint(1, 9)) for _ in range(24)]
    seen = Watch(monkeypatch)
    generate(base, asked, rows=16)
    assert max(count for count, _ in seen.steps) * 40 <= 240
