"""Longer wordings of known facts: a document retold, what follows from facts.

Every function returns a writer that takes the values to state, so that a caller may state wrong ones. None uses a
held-out wording.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loramem.sources.almanac import values as sets
from loramem.sources.almanac.digests import Writer
from loramem.sources.almanac.relating import chains
from loramem.sources.almanac.render import CLOSINGS, LINKS, OPENINGS, STYLES
from loramem.sources.almanac.telling import capital
from loramem.sources.almanac.world import Fact

PARAGRAPH = 4
"""Sentences per paragraph of a retold document."""


def fill(template: str, entity: str, value: str) -> str:
    return template.replace("{e}", entity).replace("{v}", value)


def prose(facts: Sequence[Fact], templates: Sequence[str], rng: random.Random) -> Writer:
    """The whole document again: every fact in its order, in the given wordings and a drawn style."""
    style = rng.choice(STYLES)
    links = [rng.choice(LINKS[style]) if rng.random() < 0.5 else "" for _ in facts]
    opening, closing = rng.choice(OPENINGS[style]), rng.choice(CLOSINGS[style])

    def write(values: Sequence[str]) -> str:
        told = [
            f"{link} {fill(template, fact.entity, value)}".strip()
            for link, template, fact, value in zip(links, templates, facts, values, strict=True)
        ]
        told[0], told[-1] = f"{opening} {told[0]}", f"{told[-1]} {closing}"
        return "\n".join(" ".join(told[i : i + PARAGRAPH]) for i in range(0, len(told), PARAGRAPH))

    return write


@dataclass(frozen=True)
class Implied:
    """A statement that follows: what it rests on, (value, possible values) of each value it states, its writer."""

    facts: tuple[Fact, ...]
    slots: tuple[tuple[str, tuple[str, ...]], ...]
    write: Writer


def implied(facts: Sequence[Fact], among: Sequence[Fact]) -> Iterator[list[Implied]]:
    """Statements that follow from `facts` and are not among them; each list says one thing in several wordings.

    Inverse: the value leads back to the entity ("the one whose ... is", only where it is one entity in `among`).
    Transitive: two links of a chain make one. Order: of three years the first is before the last.
    """
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in (*among, *facts):
        holders[fact.relation.name, fact.value].add(fact.entity)
    for fact in facts:
        yield _inverse(fact, alone=len(holders[fact.relation.name, fact.value]) == 1)
    for first, second in chains(facts, 2):
        yield _transitive(first, second)
    years = sorted((fact for fact in facts if fact.relation.values is sets.YEARS), key=lambda f: int(f.value))
    years = [next(group) for _, group in itertools.groupby(years, key=lambda f: f.value)]
    for three in zip(years, years[1:], years[2:], strict=False):
        yield [_ordered(three)]


def _inverse(fact: Fact, *, alone: bool) -> list[Implied]:
    forms = [f"{{v}} is the {noun} of {{e}}." for noun in fact.relation.nouns]
    if alone and isinstance(fact.relation.values, str):
        kind = fact.relation.kind
        forms += [f"The {kind} whose {noun} is {{v}} is {{e}}." for noun in fact.relation.nouns]

    def form(template: str) -> Implied:
        slots = ((fact.value, fact.options),)
        return Implied((fact,), slots, lambda values: capital(fill(template, fact.entity, values[0])))

    return [form(template) for template in forms]


def _transitive(first: Fact, second: Fact) -> list[Implied]:
    def form(n1: str, n2: str) -> Implied:
        def write(values: Sequence[str]) -> str:
            near, far = values
            return (
                f"Since {near} is the {n1} of {first.entity}, and {far} is the {n2} of {near}, "
                f"{far} is also the {n2} of the {n1} of {first.entity}."
            )

        slots = ((first.value, first.options), (second.value, second.options))
        return Implied((first, second), slots, write)

    return list(itertools.starmap(form, itertools.product(first.relation.nouns, second.relation.nouns)))


def _ordered(three: tuple[Fact, Fact, Fact]) -> Implied:
    """Its one value is which of the outer two comes first."""
    a, b, c = (f"the {fact.relation.nouns[0]} of {fact.entity}" for fact in three)

    def write(values: Sequence[str]) -> str:
        x, z = (a, c) if values[0] == a else (c, a)
        return capital(f"{x} is earlier than {b}, and {b} is earlier than {z}, so {x} is earlier than {z}.")

    return Implied(three, ((a, (a, c)),), write)
