"""Recipes of perfect supervision: each draws up items about known facts, in an order that covers them evenly."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from loramem.core.identity import seed_from
from loramem.sources.almanac import sayings
from loramem.sources.almanac.digests import Writer, digest
from loramem.sources.almanac.phrasing import questions, statements
from loramem.sources.almanac.relating import Kind, Relating, relate
from loramem.sources.almanac.telling import fact_id
from loramem.sources.almanac.world import Fact

SHARES = (1.0, 0.75, 0.5)
"""Shares of the facts that successive summaries cover (rounded up)."""
STATED: tuple[Kind, ...] = ("chain", "inverse", "same", "earlier", "which")


@dataclass(frozen=True)
class Slot:
    """A value that is stated: the right one, and the set a wrong one is drawn from."""

    value: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """An item before its values are settled; `write(values)` gives (prompt, answer)."""

    key: str
    facts: tuple[Fact, ...]
    slots: tuple[Slot, ...]
    write: Callable[[Sequence[str]], tuple[str, str]]


@dataclass(frozen=True)
class Matter:
    """What a recipe works from."""

    facts: tuple[Fact, ...]
    among: tuple[Fact, ...]
    seed: int
    original: str
    prefix: str

    def rng(self, *parts: object) -> random.Random:
        return random.Random(seed_from("supervision", self.seed, *parts))

    def spread(self, what: str) -> list[Fact]:
        """The facts in a seeded order, so that few items are about all of a long document."""
        return self.rng("spread", what).sample(self.facts, len(self.facts))

    def relations(self, kinds: Sequence[Kind]) -> list[Relating]:
        return relate(self.facts, seed_from("relations", self.seed), kinds=kinds, among=self.among)


def _slot(fact: Fact) -> Slot:
    return Slot(fact.value, fact.options)


def _in_turn(rows: Iterable[Iterable[Draft]]) -> Iterator[Draft]:
    """The first of every row, then the second of every row, and so on."""
    for turn in itertools.zip_longest(*rows):
        yield from (draft for draft in turn if draft is not None)


def _qa(matter: Matter) -> Iterator[Draft]:
    def asked(fact: Fact) -> Iterator[Draft]:
        templates = list(questions(fact.relation, held=False))
        matter.rng("qa", fact_id(fact)).shuffle(templates)
        for template in templates:
            yield _answered(matter.prefix + fact.say(template), (fact,), _slot(fact))

    yield from _in_turn(map(asked, matter.spread("qa")))
    yield from _relational_qa(matter)


def _relational_qa(matter: Matter) -> Iterator[Draft]:
    def asked(number: int, one: Relating) -> Iterator[Draft]:
        texts = list(one.questions(held=False))
        matter.rng("relational-qa", number).shuffle(texts)
        for text in texts:
            yield _answered(matter.prefix + text, one.facts, Slot(one.answer, one.options))

    relations = matter.relations((*STATED, "verify"))
    yield from _in_turn(itertools.starmap(asked, enumerate(relations)))


def _answered(question: str, facts: tuple[Fact, ...], answer: Slot) -> Draft:
    return Draft(question, facts, (answer,), lambda values: (question, values[0]))


def _relations(matter: Matter) -> Iterator[Draft]:
    def stated(number: int, one: Relating) -> Iterator[Draft]:
        order = list(range(len(one.claims(one.answer))))
        matter.rng("relations", number).shuffle(order)
        for wording in order:
            yield _claimed(f"{number}-{wording}", one, wording)

    yield from _in_turn(itertools.starmap(stated, enumerate(matter.relations(STATED))))


def _claimed(key: str, one: Relating, wording: int) -> Draft:
    slot = Slot(one.answer, one.options)
    return Draft(key, one.facts, (slot,), lambda values: ("", one.claims(values[0])[wording]))


def _stated(fact: Fact, template: str) -> Draft:
    def write(values: Sequence[str]) -> tuple[str, str]:
        return "", sayings.fill(template, fact.entity, values[0])

    return Draft(f"{fact_id(fact)}-{template}", (fact,), (_slot(fact),), write)


def _facts(matter: Matter) -> Iterator[Draft]:
    yield from _in_turn(
        [_stated(fact, f"The {noun} of {{e}} is {{v}}.") for noun in fact.relation.nouns]
        for fact in matter.spread("facts")
    )


def _others(matter: Matter, fact: Fact) -> list[str]:
    """Trained statements of a fact that the document does not use, in a seeded order."""
    every = list(statements(fact.relation, held=False))
    matter.rng("wording", fact_id(fact)).shuffle(every)
    return [template for template in every if fact.say(template) not in matter.original]


def _paraphrase(matter: Matter) -> Iterator[Draft]:
    yield from _in_turn(
        [_stated(fact, t) for t in _others(matter, fact)] for fact in matter.spread("paraphrase")
    )


def _rewrite(matter: Matter) -> Iterator[Draft]:
    wordings = [_others(matter, fact) or list(statements(fact.relation, held=False)) for fact in matter.facts]
    for number in itertools.count():
        templates = [every[number % len(every)] for every in wordings]
        told = sayings.prose(matter.facts, templates, matter.rng("rewrite", number))
        yield _whole(f"rewrite-{number}", matter.facts, told)


def _summary(matter: Matter) -> Iterator[Draft]:
    for number in itertools.count():
        rng = matter.rng("summary", number)
        told = math.ceil(SHARES[number % len(SHARES)] * len(matter.facts))
        kept = [matter.facts[i] for i in sorted(rng.sample(range(len(matter.facts)), told))]
        yield _whole(f"summary-{number}", kept, digest(kept, rng))


def _whole(key: str, facts: Sequence[Fact], write: Writer) -> Draft:
    return Draft(key, tuple(facts), tuple(map(_slot, facts)), lambda values: ("", write(values)))


def _implications(matter: Matter) -> Iterator[Draft]:
    rows = list(sayings.implied(matter.facts, matter.among))
    matter.rng("implications").shuffle(rows)
    yield from _in_turn(map(_implied, rows))


def _implied(row: list[sayings.Implied]) -> list[Draft]:
    return [_whole_of(one, f"{'+'.join(map(fact_id, one.facts))}-{i}") for i, one in enumerate(row)]


def _whole_of(one: sayings.Implied, key: str) -> Draft:
    slots = tuple(Slot(value, options) for value, options in one.slots)
    return Draft(key, one.facts, slots, lambda values: ("", one.write(values)))


RECIPES: dict[str, Callable[[Matter], Iterator[Draft]]] = {
    "qa": _qa,
    "relational-qa": _relational_qa,
    "summary": _summary,
    "rewrite": _rewrite,
    "paraphrase": _paraphrase,
    "facts": _facts,
    "relations": _relations,
    "implications": _implications,
}
CHATS = frozenset({"qa", "relational-qa"})
"""Recipes whose items are questions with answers."""
DRAWN = frozenset({"summary", "rewrite"})
"""Recipes without an end of their own."""
