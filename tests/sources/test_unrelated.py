"""Probes of what no source holds: deterministic, nested, about names of their own; edited facts are not asked."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.core.identity import digest
from loramem.metrics.scorers import METRICS
from loramem.retrieval.search import Retrieval, search
from loramem.sources.almanac.phrasing import cloze, statements
from loramem.sources.almanac.telling import REMARKS, fact_id, worlds
from loramem.sources.almanac.world import common_names, common_world
from loramem.sources.catalogue import load_source
from loramem.sources.types import Document, Probe, Record
from loramem.sources.unrelated import COUNTS, PASSAGE_TOKENS, PER_WORLD, HarmChoice, unrelated_probes
from loramem.synthesis.overlap import overlap
from loramem.synthesis.supervision import Example


def words(text: str) -> int:
    return len(text.split())


def probes(passages: int = 32, facts: int = 64, seed: int = 0, **more) -> tuple[Probe, ...]:
    return unrelated_probes(words, passages=passages, facts=facts, seed=seed, **more)


def test_equal_arguments_give_equal_probes_and_more_begin_with_fewer():
    every = probes(100, 200)
    assert every == probes(100, 200) and len(every) == 300
    assert probes(7, 5) == every[:7] + every[100:105] and probes(0, 0) == ()
    assert not {p.prompt for p in probes(50, 0)} & {p.prompt for p in probes(50, 0, seed=1)}
    assert [p.id for p in probes(1, 1, seed=3)][0] == "unrelated:passage-3-0"


def test_probes_are_frozen():
    """Scores of stored readings are joined by these ids and prompts; a change is a new seed's worth of questions."""
    told = [(p.id, p.prompt, p.answers) for p in probes()]
    assert told[0][1] == "Under the name Grark Bromuck the register lists as instrument drum."
    assert told[32][1:] == ("I would like to know the native language of Driquax Skiahai.", ("Hestian",))
    assert digest([[i, p, list(a)] for i, p, a in told])[:12] == "a4c0734bb9e2"


def test_they_belong_to_nothing():
    every = probes(100, 200)
    assert len({p.id for p in every}) == len({p.prompt for p in every}) == 300
    for p in every:
        assert (
            p.id.startswith("unrelated:")
            and p.case == p.id == p.known
            and p.document == ""
            and p.phrasing == "unrelated"
        )
    assert {(p.kind, p.level, len(p.answers)) for p in every} == {
        ("passage", "", 0),
        ("generate", "common", 1),
    }
    assert all(METRICS.get("kl_to_base").applies(p) for p in every[:100]) and all(
        METRICS.get("common_accuracy").applies(p) for p in every[100:]
    )


def test_passages_are_short_and_about_names_of_their_own():
    texts = [p.prompt for p in probes(200, 0)]
    assert all(1 <= len(re.findall(r"\.(?: |$)", text)) <= 3 for text in texts)
    assert {len(re.findall(r"\.(?: |$)", text)) for text in texts} == {1, 2, 3}
    assert 0.1 < sum(any(r in text for r in REMARKS) for text in texts) / 200 < 0.4
    assert not [name for name in common_names() for text in texts if name in text]
    made = list(islice(worlds("unrelated", 0, COUNTS), 200 // PER_WORLD + 1))
    names = [name for world in made for own in world.entities.values() for name in own]
    named = [sum(name in text for name in names) for text in texts]
    assert min(named) >= 1, "every passage is about somebody of these worlds"
    for config in (
        {"name": "almanac", "sizes": [1500]}, {"name": "almanac-papers", "documents": 4}, {"name": "almanac-stories", "documents": 2},
        {"name": "almanac-chronicles", "sizes": [1500]}, {"name": "phonebook", "sizes": [500]},
    ):  # fmt: skip
        held = " ".join(document.text for document in load_source(config, words)[0].documents)
        assert not [name for name in names if name in held], config


def test_long_passages_lose_their_last_sentences():
    def letters(text: str) -> int:
        return len(text) // 2

    whole, cut = probes(64, 0), unrelated_probes(letters, passages=64, facts=0)
    assert any(a != b for a, b in zip(whole, cut, strict=True)) and any(
        a == b for a, b in zip(whole, cut, strict=True)
    )
    for long, short in zip(whole, cut, strict=True):
        assert long.prompt.startswith(short.prompt) and short.prompt.endswith(".") and long.id == short.id
        assert letters(short.prompt) <= PASSAGE_TOKENS or short.prompt.count(". ") == 0


def test_facts_are_the_common_worlds():
    values = {fact_id(fact): fact for fact in common_world().facts}
    for p in probes(0, 300):
        fact = values[p.id.removeprefix("unrelated:fact-0-")]
        assert p.answers == (fact.value,) and fact.entity in p.prompt and fact.value not in p.prompt


def test_what_modules_are_taught_otherwise_is_not_asked():
    source = load_source({"name": "counterfact", "sizes": [4000]}, words)[0]
    written = {record.prompt for record in source.records}
    asked, left = probes(0, 200), probes(0, 200, written=written)
    kept = [p for p in asked if p in left]
    assert list(left[: len(kept)]) == kept and 20 < len(kept) < 190, "the same order, without the edited ones"
    edited = {_key(fact) for fact in common_world().facts if set(_cloze(fact)) & written}
    assert len(edited) == len(source.records), "every edit is of one fact"
    assert not edited & {p.id for p in left} and edited & {p.id for p in asked}
    every = {template for fact in common_world().facts[10:] for template in _cloze(fact)}
    assert len(probes(0, 10, written=every)) == 10
    with pytest.raises(InputError, match="all but 10 are written into modules; give facts at most 10"):
        probes(0, 11, written=every)


def _cloze(fact) -> list[str]:
    return [cloze(t).format(e=fact.entity) for t in statements(fact.relation, held=False)]


def _key(fact) -> str:
    return f"unrelated:fact-0-{fact_id(fact)}"


def test_settings():
    assert (
        HarmChoice() == parse(HarmChoice, {"passages": 32, "facts": 64, "seed": 0})
        and HarmChoice().identity() == {}
    )
    with pytest.raises(Faults, match="passages"):
        parse(HarmChoice, {"passages": -1})
    with pytest.raises(Faults, match="unknown key"):
        parse(HarmChoice, {"passage": 3})


# -- where probes of all phrasings come by -----------------------------------------------------------
def test_overlap_leaves_them_out():
    (fact,) = probes(0, 1)
    own = Probe("q", "r", "d", "generate", "heldout", "What is the pet of Ada?", ("owl",))
    examples = [Example("chat", fact.prompt, "x", "d", "d", "writer", "h", 0)]
    found = overlap(examples, [own, fact])
    assert (found.probes, found.exact.count, found.near.count, found.ngram.count) == (1, 0, 0, 0)
    asked_inside = overlap([Example("chat", own.prompt, "x", "d", "d", "writer", "h", 0)], [fact, own])
    assert [hit.probe for hit in asked_inside.exact.hits] == ["q"]


def test_search_finds_passages_for_them_but_hits_nothing():
    document = Document("d", (Record("r0", "The lamp is red."), Record("r1", "The boat is new.")))
    own = Probe("q", "r1", "d", "generate", "heldout", "What is the boat?", ("new",))
    (fact,) = probes(0, 1)
    bm25 = search(Retrieval(chunk_tokens=4, passages_k=1), [document], [fact, own], words)
    assert [found.hit for found in bm25] == [False, True] and len(bm25[0].chunks) == 1
    gold = search(Retrieval(method="gold", chunk_tokens=4), [document], [fact, own], words)
    assert [(found.hit, found.text) for found in gold] == [(False, ""), (True, "The boat is new.")]
