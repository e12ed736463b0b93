"""Digests: what a document says in few words, entity by entity. Summaries of a recipe and gold summaries are made of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from loramem.sources.almanac.world import Fact

Writer = Callable[[Sequence[str]], str]
"""Takes the values to state, so that a caller may state wrong ones."""


def joined(parts: Sequence[str]) -> str:
    """`a, b and c`.

    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def digest(facts: Sequence[Fact], rng: random.Random) -> Writer:
    """A summary: what is known of each entity in one sentence, entities in a drawn order."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        groups[fact.entity].append(index)
    entities = list(groups)
    rng.shuffle(entities)
    nouns = [rng.choice(fact.relation.nouns) for fact in facts]

    def write(values: Sequence[str]) -> str:
        return " ".join(
            f"On {entity}: {joined([f'{nouns[i]} {values[i]}' for i in groups[entity]])}."
            for entity in entities
        )

    return write


def gold_digest(facts: Sequence[Fact]) -> str:
    """The one digest of facts as they are; equal facts give equal text."""
    return digest(facts, random.Random(0))([fact.value for fact in facts])
