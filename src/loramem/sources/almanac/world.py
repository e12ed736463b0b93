"""A seeded fictional world: entities, and facts whose information is known in bits."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from loramem.core.identity import seed_from
from loramem.sources.almanac import names
from loramem.sources.almanac.schema import ALMANAC_VERSION, KINDS, Relation, relations_of

COMMON_SEED = 1
COMMON_COUNTS = {"person": 240, "town": 40, "firm": 40, "river": 16, "book": 60, "expedition": 40}


@dataclass(frozen=True)
class Fact:
    """`entity` has `value` for `relation`, drawn uniformly from `options`."""

    entity: str
    relation: Relation
    value: str
    options: tuple[str, ...]

    @property
    def bits(self) -> float:
        """log2 of the size of the value set: what a reader must be told to know the value."""
        return math.log2(len(self.options))

    def say(self, template: str) -> str:
        return template.format(e=self.entity, v=self.value)


@dataclass(frozen=True)
class World:
    """Names by kind and facts in a fixed order; equal seed and counts give equal worlds, byte by byte."""

    seed: int
    entities: Mapping[str, tuple[str, ...]]
    facts: tuple[Fact, ...]

    def about(self, entity: str) -> tuple[Fact, ...]:
        return self._index().get(entity, ())

    def _index(self) -> dict[str, tuple[Fact, ...]]:
        cached = self.__dict__.get("_by_entity")
        if cached is None:
            cached = {}
            for fact in self.facts:
                cached[fact.entity] = (*cached.get(fact.entity, ()), fact)
            object.__setattr__(self, "_by_entity", cached)
        return cached


def make_world(seed: int, counts: Mapping[str, int], *, avoid: frozenset[str] = frozenset()) -> World:
    """Draw a world. Names in `avoid` (the common world's, say) are not given again."""
    rng = random.Random(seed_from("almanac", ALMANAC_VERSION, seed))
    taken = set(avoid)
    entities = {kind: names.distinct(kind, counts.get(kind, 0), rng, taken) for kind in KINDS}
    facts = []
    for kind in KINDS:
        for entity in entities[kind]:
            for relation in relations_of(kind):
                options = entities[relation.values] if isinstance(relation.values, str) else relation.values
                if options:  # a world without towns has no home towns to tell of
                    facts.append(Fact(entity, relation, rng.choice(options), options))
    return World(seed, entities, tuple(facts))


@lru_cache(maxsize=1)
def common_world() -> World:
    """The fixed world that the embedded base knows by heart (more than 2,000 facts)."""
    return make_world(COMMON_SEED, COMMON_COUNTS)


@lru_cache(maxsize=1)
def common_names() -> frozenset[str]:
    return frozenset(name for kind in common_world().entities.values() for name in kind)
