"""Routers that read text, oracle and chance, and what becomes of scores: against hand computation and brute force."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loramem.answering.routers import ROUTERS, Candidate, Routing, choose, route, shares_of
from loramem.answering.text_routers import bm25_scores, embedding_scores, fuse, pieces_of
from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.retrieval.embed import OFFLINE, load_embedder
from loramem.retrieval.search import bm25
from loramem.sources.types import Probe

TEXTS = (
    "The lighthouse of Varn was built by Ada Quill. Its lamp burns whale oil.",
    "Bread is baked at dawn in Ostrel. The baker uses rye flour and honey.",
    "The river Immer floods every spring. Farmers move their sheep uphill.",
)
POOL = [Candidate(f"id{n}", f"doc{n}", text, f"Summary {n}") for n, text in enumerate(TEXTS)]
ASKED = ("Who built the lighthouse of Varn?", "What flour does the baker use?", "When does the Immer flood?")
TEXT = ("embedding", "bm25", "hybrid")


def probe(prompt: str, id: str = "", document: str = "doc0") -> Probe:
    return Probe(id or prompt, "case", document, "generate", "heldout", prompt, ("x",))


PROBES = [probe(prompt) for prompt in ASKED]
GOLD = [frozenset({0}), frozenset({1}), frozenset({2})]


def go(router: str = "embedding", pool=None, probes=None, gold=None, **settings):
    """Routes without a base: text routers, oracle and chance read none."""
    routing = Routing(router=router, **settings)
    return route(
        None, routing, POOL if pool is None else pool, PROBES if probes is None else probes, gold=gold
    )  # type: ignore[arg-type]


# -- settings ----------------------------------------------------------------------------------------
def test_settings_are_checked_with_a_guess():
    with pytest.raises(Faults, match="unknown router 'embeding'.*Did you mean 'embedding'"):
        parse(Routing, {"router": "embeding"})
    for bad in (
        {"router": "arrow", "key": "summary"}, {"router": "oracle", "key": "introduction"}, {"top_k": 0}, {"adaptive": 0.0},
        {"adaptive": 1.1}, {"temperature": 0.0}, {"router": "spectr", "shortlist": 3}, {"none_below": float("inf")},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            Routing(**bad)
    assert Routing(router="lag", shortlist=3).label == "lag-3" and Routing(router="bm25").label == "bm25"


def test_a_description_holds_what_decides_a_route_and_nothing_else():
    print_ = load_embedder().fingerprint
    described = Routing().describe()
    assert described["embedder"] == print_ != OFFLINE and described["key"] == "document"
    for name in ROUTERS:
        router, same = ROUTERS.get(name), Routing(router=name).describe()
        assert ("embedder" in same) == ("key" in same) == router.text
        assert (same != Routing(router=name, seed=1).describe()) == router.drawn
        assert same != Routing(router=name, top_k=2).describe()
        assert same != Routing(router=name, none_below=0.1).describe()


# -- pieces ------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(["lamp", "whale-oil.", "Ada", "x" * 400, "\n\n", "Why?"]), max_size=400))
def test_pieces_keep_the_window_and_lose_white_space_only(words):
    text, model = " ".join(words), load_embedder()
    pieces = pieces_of(text, OFFLINE)
    assert all(model.count(piece) <= model.window for piece in pieces)
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


def test_the_number_of_pieces_is_exact():
    model = load_embedder()
    sentence = "The lamp of Varn burns whale oil. "
    each = model.count(sentence) - 2  # less the two special tokens
    per_piece = (model.window - 2) // each
    for count in (1, per_piece, per_piece + 1, 5 * per_piece):
        assert len(pieces_of(sentence * count, OFFLINE)) == -(-count // per_piece)


def test_the_end_of_a_long_text_is_read():
    filler = "Nothing of note happened in the valley that year. " * 60
    pool = [Candidate("a", "a", filler), Candidate("b", "b", filler + TEXTS[0])]
    for router in TEXT:
        assert go(router, pool, PROBES[:1])[0].modules == ("b",)
    first = go("embedding", pool, PROBES[:1], key="introduction")[0]
    assert first.scores[0] == first.scores[1]  # the same first piece


def test_a_question_beyond_the_window_counts_whole():
    filler = "Please think about this with great care. " * 60
    text, model = filler + ASKED[0], load_embedder()
    parts = pieces_of(text, OFFLINE, query=True)
    assert len(parts) > 1
    vectors = model.embed(list(parts), queries=True) @ model.embed(TEXTS).T
    found = embedding_scores([(text,) for text in TEXTS], [text], OFFLINE)
    assert found[0] == pytest.approx(vectors.mean(0), abs=1e-6)


# -- scores ------------------------------------------------------------------------------------------
def test_embedding_is_the_cosine_of_the_best_piece():
    model = load_embedder()
    pieces = [("rye flour", TEXTS[0]), (TEXTS[1],), ("Immer", TEXTS[2], "honey")]
    found = embedding_scores(pieces, ASKED, OFFLINE)
    for q, query in enumerate(ASKED):
        for m, own in enumerate(pieces):
            cosines = [float(model.embed([query], queries=True)[0] @ model.embed([one])[0]) for one in own]
            assert found[q, m] == pytest.approx(max(cosines), abs=1e-6)


def test_bm25_orders_as_retrieval_does_and_counts_foreign_words():
    found = bm25_scores([(text,) for text in TEXTS], ASKED)
    ranks = np.argsort(-found, axis=1, kind="stable")
    assert (ranks == bm25(TEXTS, ASKED, 3)).all() and (ranks[:, 0] == [0, 1, 2]).all()
    twice = bm25_scores([(text,) for text in TEXTS], ["lighthouse", "lighthouse zzyzx", "zzyzx", "of the"])
    assert twice[1] == pytest.approx(twice[0] / 2) and not twice[2:].any()
    assert not bm25_scores([("of the",), ("and",)], ["lighthouse"]).any()
    split = bm25_scores([(TEXTS[1], TEXTS[0]), (TEXTS[2],)], ASKED)
    assert split[:, 0] == pytest.approx(found[:, :2].max(1)) and split[:, 1] == pytest.approx(found[:, 2])


def test_fusion_by_hand():
    first, second = np.array([[0.9, 0.5, 0.1]]), np.array([[2.0, 7.0, 2.0]])
    expected = [1 / 61 + 1 / 62.5, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62.5]  # places 2 and 3 are shared
    assert fuse(first, second)[0] == pytest.approx(expected)
    hybrid, dense, sparse = (go(name) for name in ("hybrid", "embedding", "bm25"))
    for mixed, one, other in zip(hybrid, dense, sparse, strict=True):
        assert mixed.scores == pytest.approx(fuse(np.array([one.scores]), np.array([other.scores]))[0])
        assert mixed.confidence == one.scores[mixed.ranking[0]]


# -- all routers of text, and those that read nothing ------------------------------------------------
@pytest.mark.parametrize("router", TEXT)
def test_questions_find_their_text(router):
    for number, found in enumerate(go(router, top_k=2)):
        assert found.ranking[0] == number and found.modules[0] == f"id{number}" and len(found.modules) == 2
        assert sorted(found.ranking) == [0, 1, 2]
        assert found.shares[0] > 0.9 * (found.shares[0] + found.shares[1])


@pytest.mark.parametrize("router", [*TEXT, "random"])
def test_no_router_but_the_oracle_looks_at_gold_or_documents(router):
    plain = go(router)
    assert plain == go(router, gold=GOLD) == go(router, gold=[frozenset({2})] * 3)
    elsewhere = [dataclasses.replace(p, document="doc2", case="other", answers=("y",)) for p in PROBES]
    assert plain == go(router, probes=elsewhere)


@pytest.mark.parametrize("router", [*TEXT, "random"])
def test_the_order_of_pool_and_questions_plays_no_part(router):
    order = [2, 0, 1]
    plain, turned = go(router), go(router, [POOL[i] for i in order], PROBES[::-1])[::-1]
    for a, b in zip(plain, turned, strict=True):
        assert [a.scores[i] for i in order] == pytest.approx(b.scores, abs=1e-6)
        assert a.modules == b.modules and a.confidence == pytest.approx(b.confidence, abs=1e-6)


@pytest.mark.parametrize("router", TEXT)
def test_equal_modules_tie_and_the_first_comes_first(router):
    pool = [POOL[1], POOL[0], dataclasses.replace(POOL[0], module="twin"), POOL[0]]
    found = go(router, pool, PROBES[:1])[0]
    assert found.ranking[:3] == (1, 2, 3) and len({found.scores[i] for i in (1, 2, 3)}) == 1


def test_the_oracle_puts_the_right_module_first_and_draws_the_rest():
    many = [Candidate(f"id{n}", f"doc{n}", "") for n in range(6)]
    probes = [probe("same words", id=f"p{n}") for n in range(12)]
    found = go("oracle", many, probes, gold=[frozenset({0})] * 12)
    assert all(one.ranking[0] == 0 and one.confidence == 1 for one in found)  # position 0 is not "none"
    assert len({one.ranking for one in found}) > 6 and found == go(
        "oracle", many, probes, gold=[frozenset({0})] * 12
    )
    assert found != go("oracle", many, probes, gold=[frozenset({0})] * 12, seed=1)
    assert all(one.shares[0] > 0.9 for one in found)
    several = go("oracle", many, probes, gold=[frozenset({4, 1})] * 12, top_k=2)
    assert all(one.modules == ("id1", "id4") for one in several)


def test_the_oracle_must_be_told_and_may_send_away():
    with pytest.raises(InputError, match="must be told the right modules"):
        go("oracle")
    with pytest.raises(InputError, match="no module of the pool is right for probe 'Who built"):
        go("oracle", gold=[frozenset(), *GOLD[1:]])
    found = go("oracle", gold=[frozenset(), *GOLD[1:]], none_below=0.5)
    assert [one.modules for one in found] == [(), ("id1",), ("id2",)] and found[0].confidence == 0


def test_chance_is_even_and_depends_on_the_probe_and_the_seed():
    probes = [probe("same words", id=f"p{n}") for n in range(600)]
    found = go("random", probes=probes)
    shares = np.bincount([one.ranking[0] for one in found], minlength=3) / 600
    assert np.abs(shares - 1 / 3).max() < 0.07  # 3.6 standard errors
    assert found[::-1] == go("random", probes=probes[::-1]) and found != go("random", probes=probes, seed=1)
    away = go("random", probes=probes, none_below=0.25)
    assert 0.18 < np.mean([not one.modules for one in away]) < 0.32


def test_keys_stand_for_the_module():
    summaries = [dataclasses.replace(POOL[n], summary=TEXTS[(n + 1) % 3]) for n in range(3)]
    for router in TEXT:
        assert [one.ranking[0] for one in go(router, summaries, key="summary")] == [2, 0, 1]
    with pytest.raises(InputError, match="module of 'doc1' has no summary"):
        go(pool=[POOL[0], dataclasses.replace(POOL[1], summary=" ")], key="summary")
    with pytest.raises(InputError, match="module of 'doc0' has no text"):
        go("bm25", pool=[dataclasses.replace(POOL[0], text="")])


# -- from scores to routes ---------------------------------------------------------------------------
scores = st.lists(st.integers(-50, 50), min_size=1, max_size=9).map(lambda v: np.array(v, float))


@given(scores, st.floats(0.1, 5), st.floats(0.5, 20), st.floats(-9, 9))
def test_shares_add_up_keep_the_order_and_know_no_unit(values, temperature, factor, shift):
    shares = shares_of(values, temperature)
    assert shares.sum() == pytest.approx(1) and (shares > 0).all()
    assert (np.argsort(-values, kind="stable") == np.argsort(-shares, kind="stable")).all()
    assert shares_of(values * factor + shift, temperature) == pytest.approx(shares, abs=1e-6)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.integers(1, 9), st.floats(0.01, 1))
def test_the_fewest_modules_that_reach_the_share(weights, top_k, adaptive):
    shares = np.sort(np.array(weights) / sum(weights))[::-1]
    fewest = next((n for n in range(1, len(shares) + 1) if shares[:n].sum() >= adaptive - 1e-12), len(shares))
    assert choose(list(shares), top_k, adaptive) == min(fewest, top_k, len(shares))
    assert choose(list(shares), top_k, None) == min(top_k, len(shares))


def test_adaptive_and_none_below_change_what_is_used_only():
    plain, sure = go(top_k=3), go(top_k=3, adaptive=0.8)
    assert [len(one.modules) for one in plain] == [3, 3, 3] and all(len(one.modules) < 3 for one in sure)
    assert [one.ranking for one in plain] == [one.ranking for one in sure]
    assert all(sum(one.shares) >= 0.8 for one in sure)
    strange = probe("How many moons does Jupiter have?")
    confidence = [one.confidence for one in go(probes=[*PROBES, strange])]
    limit = (min(confidence[:3]) + confidence[3]) / 2
    assert confidence[3] < limit
    found = go(probes=[*PROBES, strange], none_below=limit)
    assert [len(one.modules) for one in found] == [1, 1, 1, 0] and found[3].shares == ()
    assert len(found[3].ranking) == 3


def test_pools_of_none_and_of_one():
    with pytest.raises(InputError, match="this one is empty"):
        go(pool=[])
    for router in [*TEXT, "random"]:
        only = go(router, POOL[:1], top_k=4)
        assert all(one.modules == ("id0",) and one.shares == (1.0,) for one in only)
    assert go(probes=[]) == []


def test_gold_must_fit():
    with pytest.raises(InputError, match="2 of 3 probes"):
        go(gold=GOLD[:2])
    with pytest.raises(InputError, match="position 3 lies outside the pool of 3"):
        go("oracle", gold=[frozenset({3}), *GOLD[1:]])


@pytest.mark.parametrize("router", ["perplexity", "arrow", "spectr", "lag"])
def test_routers_of_weights_must_be_given_them(router):
    with pytest.raises(InputError, match=f"router {router} reads the modules' weights"):
        go(router)
