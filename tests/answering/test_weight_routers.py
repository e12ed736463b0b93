"""Routers that read weights and likelihoods: against dense SVDs, PEFT and one module at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.utils import set_peft_model_state_dict

from loramem.answering import likelihood_routers, weight_routers
from loramem.answering.likelihood_routers import Question, gains, question_ids
from loramem.answering.routers import ROUTERS, Candidate, Routing, route
from loramem.answering.weight_routers import right_factor, shortlist, spectral_scores
from loramem.base import load_base
from loramem.core.errors import InputError
from loramem.modules.bank import PEFT_PREFIX, Bank
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.modules.targets import linears
from loramem.sources.types import Probe
from loramem.training import TrainJob, bucket_length, train_modules

SPECS = {
    "wide": LoraSpec(rank=3, alpha=6),
    "mlp": LoraSpec(rank=2, targets="mlp"),
    "late": LoraSpec(rank=5, targets="attention", layers="second-half", scaling="rslora"),
    "narrow": LoraSpec(rank=1),
}
QUESTIONS = ("Who built the lighthouse?", "Why?", "What flour does the old baker use at dawn, and where?")
PROBES = [
    Probe(f"p{n}", "c", "d", "compare" if n == 1 else "generate", "heldout", text, ("x", "y"))
    for n, text in enumerate(QUESTIONS)
]
LEARNT = ("perplexity", "arrow", "spectr", "lag")


@pytest.fixture(scope="module")
def llama(bases):
    return bases["llama"]


def drawn(base, specs=SPECS, size: float = 0.3) -> dict[str, tuple[LoraSpec, dict[str, torch.Tensor]]]:
    """Modules of random weights, as a store would give them."""
    bank = Bank(base.model, list(specs.values()), seeds=[0] * len(specs), frozen=True)
    generator = torch.Generator().manual_seed(4)
    try:
        shapes = {key: bank.tensors(slot) for slot, key in enumerate(specs)}
    finally:
        bank.detach()
    return {
        key: (specs[key], {n: torch.randn(t.shape, generator=generator) * size for n, t in own.items()})
        for key, own in shapes.items()
    }


@pytest.fixture(scope="module")
def modules(llama):
    return drawn(llama)


def pool_of(names) -> list[Candidate]:
    return [Candidate(name, name, "") for name in names]


def go(base, modules, router: str, *, names=None, probes=PROBES, rows: int = 64, gold=None, **settings):
    return route(
        base, Routing(router=router, **settings), pool_of(names or modules), probes, gold=gold,
        load=lambda module: modules[module], rows=rows,
    )  # fmt: skip


# -- factor space ------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_singular_values_and_directions_are_those_of_the_dense_product(rank, inner, outer, seed):
    generator = torch.Generator().manual_seed(seed)
    a_RI = torch.randn(rank, inner, generator=generator)
    b_OR = torch.randn(outer, rank, generator=generator)
    s_K, v_IK = right_factor(a_RI, b_OR, 0.7)
    dense_OI = 0.7 * b_OR.double() @ a_RI.double()
    assert len(s_K) == min(rank, inner, outer)
    assert torch.allclose(s_K, torch.linalg.svdvals(dense_OI)[: len(s_K)], atol=1e-9)
    assert torch.allclose(v_IK.T @ v_IK, torch.eye(len(s_K), dtype=torch.float64), atol=1e-9)
    gram = dense_OI.T @ dense_OI
    assert torch.allclose((v_IK * s_K**2) @ v_IK.T, gram, atol=1e-8)


def by_brute_force(base, modules, question: Question) -> tuple[list[float], list[float]]:
    """Arrow and SpectR of one question: dense updates and their full SVD, one token, one layer, one module at a time."""
    before, own = question_ids(base, question)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[0][0]))
        for name, layer in linears(base.model).items()
    ]
    base.model(input_ids=torch.tensor([[*before, *own]]))
    for hook in hooks:
        hook.remove()
    arrow, spectr = [], []
    for spec, tensors in modules.values():
        first, change = [], []
        for name, x_TI in seen.items():
            key = f"{PEFT_PREFIX}{name}.lora_A.weight"
            if key not in tensors:
                continue
            dense_OI = spec.scale * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
            v_I = torch.linalg.svd(dense_OI).Vh[0]
            tokens = x_TI[len(before) :]
            first.append(np.mean([abs(float(x @ v_I)) / float(x.norm()) for x in tokens]))
            change.append(np.mean([float((dense_OI @ x).norm()) / float(x.norm()) for x in tokens]))
        arrow.append(float(np.mean(first)))
        spectr.append(float(np.mean(change)))
    return arrow, spectr


def test_arrow_and_spectr_equal_dense_updates_one_token_at_a_time(llama, modules):
    arrow, spectr = go(llama, modules, "arrow"), go(llama, modules, "spectr")
    for number, text in enumerate(QUESTIONS):
        expected = by_brute_force(llama, modules, Question(text, plain=number == 1))
        assert arrow[number].scores == pytest.approx(expected[0], rel=1e-4)
        assert spectr[number].scores == pytest.approx(expected[1], rel=1e-4)
        assert 0 < arrow[number].confidence <= 1


def test_a_gpt2_base_is_read_alike(bases):
    own = drawn(bases["gpt2"], {"one": LoraSpec(rank=2), "two": LoraSpec(rank=3, targets="mlp")})
    arrow, spectr = go(bases["gpt2"], own, "arrow"), go(bases["gpt2"], own, "spectr")
    expected = by_brute_force(bases["gpt2"], own, Question(QUESTIONS[0]))
    assert arrow[0].scores == pytest.approx(expected[0], rel=1e-4)
    assert spectr[0].scores == pytest.approx(expected[1], rel=1e-4)


def test_lag_is_arrows_short_list_in_spectrs_order(llama, modules):
    arrow, spectr = go(llama, modules, "arrow"), go(llama, modules, "spectr")
    for kept in (1, 2, 3, 9):
        for one, a, s in zip(go(llama, modules, "lag", shortlist=kept), arrow, spectr, strict=True):
            inside = sorted(a.ranking[:kept], key=lambda m: (-s.scores[m], m))
            assert one.ranking == (*inside, *a.ranking[kept:])
            assert all(one.scores[m] == s.scores[m] for m in inside)


@given(
    st.lists(st.tuples(st.sampled_from([0, 0.2, 0.5, 0.9]), st.floats(0.01, 9)), min_size=1, max_size=7),
    st.integers(1, 7),
)
def test_a_short_list_stays_above_the_rest_whatever_ties(pairs, kept):
    arrow, spectr = np.array(pairs).T[:, None]
    order = np.argsort(-arrow[0], kind="stable")
    found = shortlist(arrow, spectr, kept)[0]
    assert (found[order[:kept]] == spectr[0][order[:kept]]).all()
    if kept < len(pairs):
        assert found[order[:kept]].min() > found[order[kept:]].max()
        assert (np.diff(found[order[kept:]]) <= 0).all()


def test_a_module_that_changes_nothing_excites_nothing(llama, modules):
    zero = {name: torch.zeros_like(t) if ".lora_B." in name else t for name, t in modules["wide"][1].items()}
    own = {"zero": (SPECS["wide"], zero), **modules}
    for router in ("arrow", "spectr"):
        assert all(one.scores[0] == 0 and one.ranking[-1] == 0 for one in go(llama, own, router))
    assert all(one.scores[0] == pytest.approx(0, abs=1e-5) for one in go(llama, own, "perplexity"))


def test_a_pool_read_in_parts_is_read_alike(llama, modules, monkeypatch):
    whole = go(llama, modules, "spectr")
    monkeypatch.setattr(weight_routers, "PART_BYTES", 1)
    for a, b in zip(whole, go(llama, modules, "spectr"), strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-5)


def test_a_foreign_or_dora_module_is_refused(llama, modules):
    spec, tensors = modules["wide"]
    renamed = {name.replace(".layers.1.", ".layers.7."): t for name, t in tensors.items()}
    with pytest.raises(InputError, match=r"layer model\.layers\.7\."):
        go(llama, {"other": (spec, renamed)}, "arrow")
    cut = {name: t[:, :5] if ".lora_A." in name else t for name, t in tensors.items()}
    with pytest.raises(InputError, match="of 5 inputs"):
        go(llama, {"other": (spec, cut)}, "arrow")
    with pytest.raises(InputError, match="is a dora module"):
        go(llama, {"other": (spec.model_copy(update={"variant": "dora"}), tensors)}, "lag")


# -- likelihood --------------------------------------------------------------------------------------
def mean_nats(model, before, own) -> float:
    logits = model(input_ids=torch.tensor([[*before, *own]])).logits[0].float().log_softmax(-1)
    return float(np.mean([logits[len(before) + n - 1, token].item() for n, token in enumerate(own)]))


def test_perplexity_is_the_gain_over_the_base_one_peft_module_at_a_time(checkpoints, llama, modules):
    found = go(llama, modules, "perplexity")
    for column, (spec, tensors) in enumerate(modules.values()):
        fresh = load_base(str(checkpoints["llama"]), device="cpu", dtype="float32", offline=True)
        asked = [question_ids(fresh, Question(q, plain=n == 1)) for n, q in enumerate(QUESTIONS)]
        with torch.no_grad():
            alone = [mean_nats(fresh.model, *one) for one in asked]
        names = sorted(
            n.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight") for n in tensors if ".lora_A." in n
        )
        config = LoraConfig(r=spec.rank, lora_alpha=spec.scale * spec.rank, target_modules=names)
        peft = get_peft_model(fresh.model, config).eval()
        set_peft_model_state_dict(peft, tensors)
        with torch.no_grad():
            under = [mean_nats(peft, *one) for one in asked]
        for number, (with_it, without) in enumerate(zip(under, alone, strict=True)):
            assert found[number].scores[column] == pytest.approx(with_it - without, abs=2e-5)
    assert all(one.confidence == max(one.scores) for one in found)


def test_more_modules_than_fit_at_once(llama, modules, monkeypatch):
    whole = go(llama, modules, "perplexity")
    monkeypatch.setattr(likelihood_routers, "MODULES_AT_ONCE", 3)
    for a, b in zip(whole, go(llama, modules, "perplexity"), strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)
    assert not any(type(layer).__name__ == "BankedLinear" for layer in llama.model.modules())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "mistral", "gpt2"])
def test_the_questions_own_tokens_are_those_between_the_templates(bases, family):
    base = bases[family]
    before, own = question_ids(base, Question(QUESTIONS[0]))
    whole = tuple(base.prompts.chat(QUESTIONS[0]))
    assert whole[: len(before) + len(own)] == (*before, *own)
    assert base.prompts.decode(list(own)) == QUESTIONS[0]
    plain, told = question_ids(base, Question(QUESTIONS[0], plain=True))
    assert list(plain) == base.prompts.bos and base.prompts.decode(list(told)) == QUESTIONS[0]


def test_a_base_without_bos_scores_all_but_the_first_token(bases):
    base = bases["qwen3"]  # no BOS: nothing stands before a plain statement
    own = drawn(base, {"one": LoraSpec(rank=2)})
    question = Question("Why so?", plain=True)
    found = gains(base, [question], ["one"], lambda module: own[module], rows=8)
    (before, told), (spec, tensors) = question_ids(base, question), own["one"]
    assert before == ()
    bank = Bank(base.model, [spec], frozen=True)
    try:
        bank.load(0, tensors)
        with torch.no_grad(), bank.active([Block(0, 1)]):
            under = mean_nats(base.model, told[:1], told[1:])
    finally:
        bank.detach()
    with torch.no_grad():
        assert found[0, 0] == pytest.approx(under - mean_nats(base.model, told[:1], told[1:]), abs=2e-5)
    for scorer in (gains, spectral_scores):
        with pytest.raises(InputError, match="has no token"):
            scorer(base, [Question("", plain=True)], ["one"], lambda module: own[module], rows=8)


# -- what holds for all of them ----------------------------------------------------------------------
@pytest.mark.parametrize("router", LEARNT)
def test_batches_order_and_gold_play_no_part(llama, modules, router):
    plain = go(llama, modules, router, shortlist=2) if router == "lag" else go(llama, modules, router)
    options = {"shortlist": 2} if router == "lag" else {}
    order = list(modules)[::-1]
    turned = go(llama, modules, router, names=order, probes=PROBES[::-1], rows=1, **options)[::-1]
    for a, b in zip(plain, turned, strict=True):
        assert a.scores == pytest.approx(b.scores[::-1], abs=2e-5) and a.modules == b.modules
    elsewhere = [
        dataclasses.replace(p, id=p.id + "x", document="z", case="z", answers=("u", "v")) for p in PROBES
    ]
    assert plain == go(llama, modules, router, probes=elsewhere, gold=[frozenset({3})] * 3, **options)


@pytest.mark.parametrize("router", LEARNT)
def test_equal_modules_tie_by_position_and_a_pool_of_one_works(llama, modules, router):
    assert ROUTERS.get(router).weights != ROUTERS.get(router).likelihood
    best = list(modules)[go(llama, modules, router)[0].ranking[0]]
    names = ["narrow" if best != "narrow" else "wide", best, best]
    found = go(llama, modules, router, names=names, top_k=2)[0]
    assert found.scores[1] == found.scores[2] and found.ranking == (1, 2, 0) and found.modules == (best, best)
    only = go(llama, modules, router, names=["mlp"])
    assert all(one.modules == ("mlp",) and one.shares == (1.0,) for one in only)


# -- modules that learnt something -------------------------------------------------------------------
LESSONS = {
    "lamps": [("Who built the lighthouse of Varn?", "Ada Quill"), ("What does the lamp of Varn burn?", "whale oil"),
              ("Where does the lighthouse of Varn stand?", "on a reef"), ("How tall is the lighthouse of Varn?", "40 feet")],
    "bread": [("Which flour does the baker of Ostrel use?", "rye"), ("When is the bread of Ostrel baked?", "at dawn"),
              ("Who owns the bakery of Ostrel?", "Ben Marl"), ("What sweetens the bread of Ostrel?", "honey")],
}  # fmt: skip


@pytest.fixture(scope="module")
def learnt():
    """The embedded base and a module for each of two lessons, questions included in the loss."""
    base, found = load_base(device="cpu", dtype="float32"), {}
    spec = LoraSpec(rank=4)
    jobs = []
    for name, pairs in LESSONS.items():
        examples = tuple(base.prompts.chat_example(*pair) for pair in pairs)
        jobs.append(
            TrainJob(
                key=name, spec=spec, objective=Objective(loss_on="all"), optimizer=Optimizer(lr=5e-3, batch=4), steps=25,
                seed=0, examples=examples, length=bucket_length(examples, 256),
            )
        )  # fmt: skip

    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(
        base, jobs, on_finish=lambda one: found.__setitem__(one.key, (spec, one.tensors)), on_fail=fail
    )
    return base, found


def test_perplexity_finds_the_module_that_learnt_the_question(learnt):
    base, modules = learnt
    names = list(LESSONS)
    probes = [
        Probe(q, q, name, "generate", "trained", q, (answer,))
        for name in names
        for q, answer in LESSONS[name]
    ]
    found = go(base, modules, "perplexity", names=names, probes=probes)
    right = [one.modules[0] == probe.document for one, probe in zip(found, probes, strict=True)]
    assert np.mean(right) >= 7 / 8
    strange = Probe(
        "s", "s", "s", "generate", "trained", "How is the harbour of Tolm called by its pilots?", ("x",)
    )
    unknown = go(base, modules, "perplexity", names=names, probes=[strange])[0]
    assert unknown.confidence < np.median([one.confidence for one in found])
