"""Asking modules: token for token what a study's reading says, and 'not in memory' where nothing fits."""

from __future__ import annotations

import json

import pytest

from loramem.answering.asking import ask
from loramem.answering.asking_checks import begins, choose_modules
from loramem.answering.asking_settings import ANY, NONE_BELOW, READINGS, Asking
from loramem.answering.pools import Pool
from loramem.answering.readings import STEMS, ReadingTask, read
from loramem.answering.routers import ROUTERS, Candidate, Routing, route, shares_of
from loramem.api import train_modules_of
from loramem.base import load_base
from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.modules.merged import Merging, Parent, merge_many
from loramem.modules.recipe import ModuleConfig
from loramem.modules.store import Store
from loramem.sources.catalogue import load_source
from loramem.sources.types import Document, Record, Source
from loramem.synthesis.supervision import Example, Supervision, save


@pytest.fixture(scope="module")
def embedded():
    return load_base("embedded", device="cpu", dtype="float32", offline=True)


@pytest.fixture(scope="module")
def papers(embedded) -> Source:
    """Three reports with their own questions and answers, as a study has them."""
    [source] = load_source({"name": "almanac-papers", "documents": 3, "seed": 5}, embedded.prompts.count)
    probes = tuple(p for p in source.probes if p.kind == "generate" and p.phrasing == "heldout")
    return Source(source.name, source.documents, probes[::10])


@pytest.fixture(scope="module")
def store(papers, tmp_path_factory) -> Store:
    """A module for each report, trained for a few steps on its sentences."""
    where = tmp_path_factory.mktemp("asking")
    examples = tuple(Example("text", "", r.text, d.id, r.id) for d in papers.documents for r in d.records)
    save(Supervision("raw", examples), where / "s.jsonl")
    config = parse(
        ModuleConfig,
        {
            "spec": {"rank": 4},
            "objective": {"name": "ntp"},
            "budget": {"steps": 12, "snapshots": [6]},
            "optimizer": {"lr": 0.01, "batch": 4},
        },
    )
    train_modules_of(where / "s.jsonl", config, each="document", store=where / "store")
    return Store(where / "store")


@pytest.fixture(scope="module")
def modules(store, papers):
    """In the order of the reports."""
    by_text = {one.text: one for one in store.modules()}
    return [by_text[document.text] for document in papers.documents]


def study_reading(base, store, papers, modules, asking: Asking) -> tuple[list[dict], list[dict]]:
    """(predictions, merges) of a study's reading of the reports' own probes, gold known."""
    stem = STEMS.get(asking.reading)
    pool = None
    if stem.which == "pool":
        pairs = zip(modules, papers.documents, strict=True)
        candidates = tuple(Candidate(module.id, document.id, document.text) for module, document in pairs)
        pool = Pool("study", candidates, {p.id: frozenset({0}) for p in papers.probes})
    module = modules[0].id if stem.which == "own" else None
    task = ReadingTask(stem.name, papers, module, asking.retrieval, pool=pool, routing=asking.routing, merging=asking.merging, abstain=pool is not None)  # fmt: skip
    done, failed = {}, []
    read(
        base,
        [task],
        store,
        on_done=lambda index, one: done.update({index: one}),
        on_fail=lambda _, error: failed.append(error),
    )
    assert not failed, failed
    return done[0].predictions, done[0].merges


@pytest.mark.parametrize(
    "settings",
    [
        {"reading": "closed"}, {"reading": "module"}, {"reading": "routed"}, {"reading": "routed", "routing": {"router": "perplexity"}},
        {"reading": "merged", "routing": {"router": "bm25"}}, {"reading": "icl"}, {"reading": "rag"}, {"reading": "module+icl"},
        {"reading": "routed+rag", "retrieval": {"method": "embedding", "passages_k": 2}}, {"reading": "routed+icl"},
        {"reading": "routed", "routing": {"none_below": 0.45}},
        {"reading": "merged+rag", "merging": {"rule": "linear-delta", "weights": "confidence"}, "routing": {"router": "spectr", "top_k": 2}},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)  # fmt: skip
def test_an_answer_is_token_for_token_a_studys(embedded, store, papers, modules, settings):
    asking = parse(Asking, settings).settled(3)
    own = modules[:1] if STEMS.get(asking.reading).which == "own" else modules
    rows, merges = study_reading(embedded, store, papers, modules, asking)
    found = ask(embedded, [p.prompt for p in papers.probes], own, asking, documents=papers.documents if "+" in asking.reading or asking.reading in ("icl", "rag") else None)  # fmt: skip
    assert len(found) == len(rows) > 8
    for one, row in zip(found, rows, strict=True):
        silent = row.get("abstained", False)
        assert one.not_in_memory == silent and (one.answer is None) == silent
        if silent:
            assert row["prediction"] == "not in memory" and one.passages == () and one.cut_tokens == 0
            continue
        assert one.answer == row["prediction"] and one.truncated == row["truncated"]
        assert (one.prompt_tokens, one.new_tokens, one.cut_tokens) == (
            row["prompt_tokens"],
            row["new_tokens"],
            row["context_cut"],
        )
        assert [p["id"] for p in one.passages] == row.get("passages", [])
        if row["route"] is not None:
            assert [c.module for c in one.candidates if c.used][: len(row["route"])] == row["route"]
            assert one.confidence == row["confidence"] and one.pool_size == row["pool_size"]
    if "none_below" in str(settings):
        assert 0 < sum(one.not_in_memory for one in found) < len(found), "a threshold that tells some apart"
    if merges:
        measured = {json.dumps(m["recipe"]["parents"]): m["measures"] for m in merges}
        assert {json.dumps(one.merge["parents"]): one.merge["measures"] for one in found} == measured


def test_questions_asked_together_are_answered_as_one_by_one(embedded, papers, modules):
    questions = [p.prompt for p in papers.probes][:6] + ["Où est Köln?", "北京在哪里?"]
    together = ask(embedded, questions, modules, Asking(always=True))
    apart = [ask(embedded, [question], modules, Asking(always=True))[0] for question in questions]
    assert [one.answer for one in together] == [one.answer for one in apart]
    assert [one.candidates[0].module for one in together] == [one.candidates[0].module for one in apart]
    assert {one.seconds["questions"] for one in together} == {len(questions)}


def test_a_route_is_told_in_full(embedded, papers, modules):
    probe = papers.probes[-1]
    routing = Asking(reading="merged").settled(3).routing
    assert routing.top_k == 3 and routing.none_below == NONE_BELOW["embedding", "document"]
    pool = [Candidate(m.id, m.id, m.text) for m in modules]
    [expected] = route(embedded, routing, pool, [probe])
    [one] = ask(embedded, [probe.prompt], modules, Asking(reading="merged", merging=Merging(rule="cat")))
    assert [c.module for c in one.candidates] == [modules[i].id for i in expected.ranking]
    assert [c.score for c in one.candidates] == [expected.scores[i] for i in expected.ranking]
    assert sum(c.share for c in one.candidates) == pytest.approx(1, abs=1e-5)
    assert one.candidates[0].share == pytest.approx(float(shares_of(expected_scores(expected), 0.5).max()), abs=1e-6)  # fmt: skip
    assert one.candidates[0].learnt.startswith("Report ") and one.candidates[0].learnt.endswith("…")
    parents = [Parent(m.id, 1.0) for m in modules]
    [merged] = merge_many(
        [parents],
        Merging(rule="cat"),
        lambda id: next(m for m in modules if m.id == id).load(),
        base=embedded.fingerprint,
    )
    assert one.merge["measures"] == merged.measures and one.merge["rank"] == 12
    assert json.loads(json.dumps(one.row()))["candidates"][0]["module"] == one.candidates[0].module


def expected_scores(found):
    import numpy as np

    return np.array(found.scores)


# -- not in memory -----------------------------------------------------------------------------------
def test_words_that_no_module_shares_are_not_in_memory(embedded, papers, modules):
    bm25 = Asking(routing=Routing(router="bm25"))
    known, foreign = papers.probes[0].prompt, "Xylophone zeppelins?"
    one, two, three = ask(embedded, [known, foreign, "北京"], modules, bm25)
    assert one.answer is not None and one.confidence > 0 and one.none_below == ANY
    assert two.answer is None and two.not_in_memory and two.confidence == 0 and three.not_in_memory
    assert (two.prompt_tokens, two.new_tokens) == (0, 0) and not any(c.used for c in two.candidates)
    assert len(two.candidates) == 3, "the best candidates are shown all the same"
    [still] = ask(
        embedded, [foreign], modules, Asking(routing=Routing(router="bm25"), reading="routed", always=True)
    )
    assert still.answer is not None and still.none_below is None
    [strict] = ask(embedded, [known], modules, Asking(routing=Routing(router="bm25", none_below=99.0)))
    assert strict.answer is None and strict.none_below == 99.0


def test_everyday_questions_are_not_in_memory_by_embedding(embedded, papers, modules):
    everyday = ["How do I boil an egg?", "Why is the sky blue?", "Write a poem about autumn.", "Как дела?"]
    assert all(one.not_in_memory for one in ask(embedded, everyday, modules))
    own = ask(embedded, [p.prompt for p in papers.probes], modules)
    assert sum(one.not_in_memory for one in own) <= 0.2 * len(own)


def test_perplexity_has_nothing_where_no_module_gains(embedded, papers, modules):
    questions = [p.prompt for p in papers.probes] + ["zq vx jw kq zzz qqq", "@@@@ #### ]]]] {{{{"]
    found = ask(embedded, questions, modules, Asking(routing=Routing(router="perplexity")))
    assert all(one.not_in_memory == (one.confidence < ANY) for one in found)
    assert any(not one.not_in_memory for one in found)


def test_thresholds_are_of_routers_and_keys_that_exist():
    for router, key in NONE_BELOW:
        settled = Asking(routing=Routing(router=router, key=key)).settled(2)
        assert settled.routing.none_below == NONE_BELOW[router, key] > 0
    for router in set(ROUTERS) - {"oracle", *(name for name, _ in NONE_BELOW)}:
        assert Asking(routing=Routing(router=router)).settled(2).routing.none_below is None
    other = Asking(routing=Routing(embedder="some/other")).settled(2)
    assert other.routing.none_below is None, "the threshold was measured with the offline embedder"
    words = Asking(routing=Routing(router="bm25", embedder="some/other")).settled(2)
    assert words.routing.none_below == ANY, "words are words"


# -- what is read ------------------------------------------------------------------------------------
def test_without_documents_the_modules_texts_are_read(embedded, papers, modules):
    asked = papers.probes[0].prompt
    [one] = ask(embedded, [asked], modules, Asking(reading="routed+rag", always=True))
    ids = {m.id[:12] for m in modules}
    assert len(one.passages) == 3 and all(p["id"].split("#")[0] in ids for p in one.passages)
    assert one.read_from == "the texts that the modules learnt"
    text = " ".join(" ".join(m.text for m in modules).split())
    assert all(p["begins"].removesuffix(" …") in text for p in one.passages)
    [two] = ask(embedded, [asked], modules, Asking(reading="icl"))
    assert set(two.documents) == ids and two.candidates == () and two.pool_size == 0
    assert two.cut_tokens > 0 and two.prompt_tokens <= embedded.context_length - 50
    own = [Document("mine", (Record("mine:0", "The lamp of Varn burns whale oil."),))]
    [three] = ask(embedded, [asked], [], Asking(reading="rag"), documents=own, read_from="mine.txt")
    assert [p["id"] for p in three.passages] == ["mine#0"] and three.read_from == "mine.txt"


def test_a_snapshot_is_asked_and_shown_by_its_step(embedded, papers, store, modules):
    [snapshot] = choose_modules(store, [f"{modules[0].id[:10]}@6"])
    [one] = ask(embedded, [papers.probes[0].prompt], [snapshot])
    assert one.reading == "module" and one.candidates[0].module == f"{modules[0].id}@6"
    assert one.candidates[0].learnt == begins(papers.documents[0].text)


# -- what is refused ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reading": "rooted"}, "unknown reading; .*Did you mean 'routed'"),
        ({"reading": "wrong-module"}, "only a study knows"), ({"reading": "module+gold-passage"}, "only a study knows"),
        ({"routing": {"router": "oracle"}}, "nobody knows the right module"), ({"routing": {"router": "bm52"}}, "Did you mean 'bm25'"),
        ({"routing": {"key": "summary"}}, "keep no summary"), ({"routing": {"none_below": 0.1}, "always": True}, "contradict"),
        ({"reading": "module", "routing": {"router": "bm25"}}, "chooses no module"), ({"reading": "closed", "always": True}, "chooses no module"),
        ({"reading": "routed", "merging": {"rule": "cat"}}, "merges nothing"), ({"merging": {"rule": "cat"}}, "merges nothing"),
        ({"reading": "routed", "routing": {"top_k": 2}}, "uses one module"), ({"reading": "routed", "retrieval": {}}, r"add \+rag"),
        ({"reading": "rag", "retrieval": {"method": "gold"}}, "nobody knows the right passage"),
        ({"reading": "merged", "merging": {"rule": "tis-delta"}}, "Did you mean 'ties-delta'"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(Faults, match=message):
        parse(Asking, settings).settled(2)


def test_every_fault_is_told_at_once():
    settings = {"reading": "module", "routing": {"router": "oracle"}, "merging": {"rule": "cat"}}
    with pytest.raises(Faults) as told:
        parse(Asking, settings)
    assert len(told.value.faults) == 3


def test_readings_hold_no_control_and_nothing_gold():
    assert {"closed", "icl", "rag", "routed+rag", "merged+icl", "module"} <= set(READINGS) <= set(STEMS)
    assert not any("gold" in name or "wrong" in name or "random" in name for name in READINGS)


def test_modules_without_text_are_named(embedded, store, modules):
    dumb = type(modules[0])(
        modules[0].id, modules[0].recipe, store.root
    )  # a folder without routing.txt and weights
    for settings in ({}, {"reading": "rag"}):
        with pytest.raises(InputError, match=f"{dumb.id[:12]} kept no text.*train again"):
            ask(embedded, ["Why?"], [dumb, modules[1]], parse(Asking, settings))
    found = ask(
        embedded, ["Why?"], modules[1:], Asking(routing=Routing(router="perplexity", none_below=-99.0))
    )
    assert found[0].answer is not None


def test_questions_and_modules_that_cannot_be_used(embedded, bases, modules):
    for questions, message in (([], "no question"), (["a?", " \n"], "question 2 is empty"), (["\udc80"], "not UTF-8")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            ask(embedded, questions, modules)
    long = "Why is it so? " * 400
    for reading in ("routed", "routed+rag"):
        with pytest.raises(InputError, match=r"question 2 \('Why is it so.*too long.*1024"):
            ask(embedded, ["Why?", long], modules, Asking(reading=reading))
    with pytest.raises(InputError, match="made on base embedded .*not on"):
        ask(bases["llama"], ["Why?"], modules)
    with pytest.raises(InputError, match="uses one module, 3 were given"):
        ask(embedded, ["Why?"], modules, Asking(reading="module"))
    with pytest.raises(InputError, match="needs modules"):
        ask(embedded, ["Why?"], [], Asking(reading="merged"))
    with pytest.raises(InputError, match="needs documents"):
        ask(embedded, ["Why?"], [], Asking(reading="icl"))
    with pytest.raises(InputError, match="not by routed"):
        ask(embedded, ["Why?"], modules, documents=[Document("a", (Record("a", "b"),))])


@pytest.mark.parametrize("router", ["embedding", "bm25", "hybrid", "perplexity", "spectr", "random"])
def test_odd_questions_get_an_answer_from_every_router(embedded, modules, router):
    odd = ["?", "\u200b", "🦉🦉", "the of and", "a\u0301́ ﷽", "<|end|>"]
    found = ask(embedded, odd, modules, Asking(routing=Routing(router=router), always=True))
    assert [one.question for one in found] == odd and all(one.answer is not None for one in found)


@pytest.mark.parametrize("reading", ["routed+rag", "icl"])
def test_odd_questions_get_an_answer_with_a_context(embedded, modules, reading):
    found = ask(embedded, ["?", "\u200b", "the of and"], modules, Asking(reading=reading))
    assert len(found) == 3
