"""Supervision from known facts: every format on every generated source, pieces, coverage, errors; a base that answers."""

from __future__ import annotations

from functools import cache

import pytest

from loramem.base import load_base
from loramem.core.errors import InputError
from loramem.metrics.text import exact_match
from loramem.sources.almanac.phrasing import statements
from loramem.sources.almanac.telling import fact_id
from loramem.sources.catalogue import leads_of, load_source
from loramem.sources.chunking import Chunking, partition
from loramem.sources.types import Source
from loramem.synthesis.exact import Exact, Reader
from loramem.synthesis.making import synthesize
from loramem.synthesis.overlap import guard, overlap
from loramem.synthesis.recipes import RECIPES, parse_recipe
from loramem.synthesis.units import Unit, as_units, units_of
from synthesis.scripts import document

SETTINGS: dict[str, dict] = {
    "almanac": {"sizes": [600]},
    "almanac-papers": {"documents": 2, "style": "bracket"},
    "almanac-chronicles": {"sizes": [500]},
    "almanac-stories": {"documents": 2},
}
KINDS = tuple(SETTINGS)
WRITTEN = tuple(sorted(name for name in RECIPES.names() if RECIPES.get(name).written))


def words(text: str) -> int:
    return len(text.split())


def offsets(text: str) -> list[tuple[int, int]]:
    found, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        found.append((at, at + len(word)))
        at += len(word)
    return found


@cache
def source_of(kind: str) -> Source:
    (source,) = load_source({"name": kind, **SETTINGS[kind]}, words)
    return source


@cache
def exact_of(kind: str) -> Exact:
    return Exact(source_of(kind))


def whole(kind: str) -> list[Unit]:
    leads = leads_of(source_of(kind))
    return [unit.with_lead(leads.get(unit.id, "")) for unit in as_units(source_of(kind).documents)]


def pieces(kind: str, chunks: str) -> list[Unit]:
    source = source_of(kind)
    parts = partition(source, "chunk", chunking=Chunking.parse(chunks), offsets=offsets)
    by_id = {d.id: d for d in source.documents}
    return [unit for part in parts for unit in units_of(part, by_id, leads_of(source))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_of_every_source(kind, name):
    asked = {probe.prompt for probe in source_of(kind).probes}
    made = synthesize(whole(kind), f"{name}:7", exact_of(kind), exclude=asked)
    assert made.made and all(one.written for one in made.made), "something of every document"
    facts = {d: {fact.value for fact in found} for d, found in exact_of(kind).facts.items()}
    for example in made.examples:
        assert example.form == RECIPES.get(name).form and (example.recipe, example.generator) == (name, "exact")  # fmt: skip
        assert example.prompt not in asked and example.answer.strip() and bool(example.prompt) == (example.form == "chat")  # fmt: skip
        assert example.span == (
            0,
            len(next(d for d in source_of(kind).documents if d.id == example.document).text),
        )
        if name in ("qa", "iterative", "facts", "paraphrase"):
            assert any(value in example.answer for value in facts[example.document]), "it states a value"
    for one in made.made:
        most = 3 * 7 if name == "iterative" else 7
        assert one.asked == 7 and 1 <= one.written <= most and one.wrong == 0 and one.values
        assert one.facts == len(exact_of(kind).facts[one.document]) and one.covered is not None
        assert 1 <= one.covered <= one.facts and not one.duplicates
    marks = [(e.document, e.prompt, e.answer) for e in made.examples]
    assert len(set(marks)) == len(marks), "nothing twice"
    assert made.hash == synthesize(whole(kind), f"{name}:7", exact_of(kind), exclude=asked).hash


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "iterative"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_more_begins_with_less(kind, name):
    few, many = (synthesize(whole(kind), f"{name}:{n}", exact_of(kind)) for n in (3, 8))
    for unit in whole(kind):
        small, large = few.of({unit.id}).examples, many.of({unit.id}).examples
        assert large[: len(small)] == small and len(small) <= len(large)


def test_questions_of_probes_are_never_asked_and_the_guard_agrees():
    for kind in KINDS:
        source = source_of(kind)
        asked = {probe.prompt for probe in source.probes}
        recipe = "qa:200+relational-qa:60+iterative:40"
        free = synthesize(whole(kind), recipe, exact_of(kind))
        made = synthesize(whole(kind), recipe, exact_of(kind), exclude=asked)
        assert {e.prompt for e in free.examples} & asked, "without the ban some would be"
        assert not {e.prompt for e in made.examples} & asked
        guard(overlap(made.examples, source.probes))


def test_questions_name_their_document_where_the_source_does():
    papers = synthesize(whole("almanac-papers"), "qa:5+facts:2", exact_of("almanac-papers"))
    leads = leads_of(source_of("almanac-papers"))
    assert len(set(leads.values())) == 2
    for example in papers.examples:
        assert (example.form == "text") == (not example.prompt.startswith(leads[example.document]))


# -- pieces ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", ["40/5", "structure:60"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_has_the_facts_that_stand_in_it(kind, chunks):
    exact, units = exact_of(kind), pieces(kind, chunks)
    assert len(units) > len(source_of(kind).documents)
    seen: dict[str, set[str]] = {}
    for unit in units:
        for fact in exact.facts_in(unit):
            assert any(fact.say(one) in unit.text for one in statements(fact.relation, held=False))
            seen.setdefault(unit.document.id, set()).add(fact_id(fact))
    for document_id, facts in exact.facts.items():
        cut = {fact_id(fact) for fact in facts} - seen[document_id]
        # only a window can cut a sentence; an overlap of five words is shorter than most
        assert not cut if chunks.startswith("structure") else len(cut) < len(facts) / 2
    made = synthesize(units, "qa:9", exact)
    by_id = {unit.id: unit for unit in units}
    single = [e for e in made.examples if e.recipe == "qa"]
    assert {e.record for e in single} <= set(by_id)
    for unit_id, unit in by_id.items():
        own = made.of({unit_id})
        (account,) = own.made
        assert account.facts == len(exact.facts_in(unit)) and account.document == unit.document.id
        assert all(e.span == unit.span for e in own.examples)
        values = {fact.value for fact in exact.facts_in(unit)}
        for example in own.examples[: account.covered]:  # first every fact once
            assert example.answer in values and example.answer in unit.text


def test_a_piece_without_a_fact_gives_nothing():
    (first, *_) = pieces("almanac", "3")
    assert not exact_of("almanac").facts_in(first)
    made = synthesize([first, *whole("almanac")], "qa:3", exact_of("almanac"))
    assert (made.made[0].written, made.made[0].facts, made.made[0].covered, made.made[0].shortfall) == (0, 0, 0, 3)  # fmt: skip


# -- coverage and errors ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_iterative_asks_for_what_is_left(kind):
    for once, iterative in zip(
        synthesize(whole(kind), "qa:4", exact_of(kind)).made,
        synthesize(whole(kind), "iterative:4", exact_of(kind)).made,
        strict=True,
    ):
        assert once.facts and once.covered == min(4, once.facts) and iterative.covered == min(12, once.facts)
        assert iterative.written == iterative.covered, "not one question on a fact that was covered"


def test_enough_questions_cover_every_fact():
    made = synthesize(whole("almanac"), "qa:10+facts:2", exact_of("almanac"))
    assert all((one.facts, one.covered) == (10, 10 if one.recipe == "qa" else 2) for one in made.made)


def test_errors_are_made_as_often_as_asked_and_counted():
    source = source_of("almanac")
    values = {fact_id(f): f.value for facts in exact_of("almanac").facts.values() for f in facts}
    right = synthesize(whole("almanac"), "qa:10", exact_of("almanac"))
    none, some, more, every = (
        synthesize(whole("almanac"), "qa:10", Exact(source, error_rate=rate)) for rate in (0.0, 0.3, 0.6, 1.0)
    )
    assert none.hash == right.hash and {e.generator for e in some.examples} == {"exact:0.3"}

    def changed(made) -> set[int]:
        pairs = zip(right.examples, made.examples, strict=True)
        assert all(a.prompt == b.prompt for a, b in pairs), "the questions stay"
        return {
            n
            for n, (a, b) in enumerate(zip(right.examples, made.examples, strict=True))
            if a.answer != b.answer
        }

    for made in (none, some, more, every):
        assert len(changed(made)) == sum(one.wrong or 0 for one in made.made)
    total = sum(one.values or 0 for one in some.made)
    assert total == len(some.examples) >= 50
    assert 0.15 < len(changed(some)) / total < 0.45 and changed(some) < changed(more) < changed(every)
    assert len(changed(every)) >= 0.95 * total and set(values.values()) >= {e.answer for e in right.examples}


def test_another_seed_words_otherwise():
    made = [synthesize(whole("almanac"), "qa:10", Exact(source_of("almanac"), seed=seed)) for seed in (0, 1)]
    assert made[0].hash != made[1].hash


def test_other_sources_have_no_known_facts():
    for source in (
        Source("folder", (document("a.md", "A."),), ()),
        load_source({"name": "phonebook", "sizes": [60]}, words)[0],
    ):
        with pytest.raises(InputError, match="generator exact: .*facts are not known.*use generator local or a URL"):  # fmt: skip
            Exact(source)


# -- a base that answers ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def embedded():
    return load_base("embedded", device="cpu", offline=True)


def test_a_reader_answers_mostly_right_and_its_errors_are_counted(embedded):
    exact = exact_of("almanac")
    units = whole("almanac")[:3]
    right = synthesize(units, "qa:10", exact)
    reader = Reader(exact, embedded)
    made = synthesize(units, "qa:10", reader)
    answers = {(e.document, e.prompt): e.answer for e in right.examples}
    correct = sum(exact_match(e.answer, answers[e.document, e.prompt]) for e in made.examples)
    assert len(made.examples) >= 0.9 * len(right.examples)
    assert correct >= 0.6 * len(made.examples), "it has the document before it"
    assert sum(one.wrong or 0 for one in made.made) == len(made.examples) - correct
    assert sum(one.values or 0 for one in made.made) == len(made.examples)
    assert {e.generator for e in made.examples} == {"reader:embedded"}
    for one in made.made:
        assert one.calls == one.written + sum(one.failures.values()) == 10
        assert one.prompt_tokens > embedded.prompts.count(units[0].text) and one.new_tokens >= one.written
        assert one.seconds > 0 and one.covered == 10 and one.cost is None
    hashes = {e.document: e.prompt_hash for e in made.examples}
    assert len(set(hashes.values())) == 3 and all(e.tokens_spent > 0 for e in made.examples)


def test_a_reader_that_cannot_read_is_wrong(bases):
    """The tiny base is random: what it says is kept, and counted as wrong."""
    exact, unit = exact_of("almanac"), pieces("almanac", "30")[0]
    made = Reader(exact, bases["llama"]).write([unit], parse_recipe("qa:3")[0], ())
    ((examples, account),) = made
    assert account.calls == 3 and len(examples) + sum(account.failures.values()) == 3
    assert account.wrong == len(examples) == account.written and set(account.failures) <= {"cut", "invalid"}


def test_a_reader_answers_questions_only(embedded):
    with pytest.raises(InputError, match="reader answers questions; it cannot write summary:2"):
        synthesize(whole("almanac"), "summary:2", Reader(exact_of("almanac"), embedded))
