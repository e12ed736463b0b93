"""What a memory has no business with: text and questions by which harm to the base is seen.

Two kinds, both of phrasing `unrelated`, neither with a record or a document:

- passages (`passage`): one to three plain sentences about people, firms and books that no source holds, their names invented
  under a seed of their own. How far a module moves the base's next-token distributions on them is `kl_to_base`.
- facts (`generate`, level `common`): facts of Almanac's common world, asked in words the embedded base was trained on and
  answers by heart. How many it still answers under a module is `common_accuracy`. Another base does not know them: give
  `facts: 0` with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from itertools import islice
from typing import Annotated

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import cloze, questions, statements
from loramem.sources.almanac.telling import REMARKS, fact_id, worlds
from loramem.sources.almanac.world import Fact, World, common_world
from loramem.sources.types import Probe

COUNTS = {"person": 24, "firm": 8, "book": 8}
"""No towns, rivers or expeditions: their names are drawn from few enough that one could turn up in a source."""
PASSAGE_TOKENS = 64
PER_WORLD = 16
"""Passages made from one world."""
REMARK = 0.25
"""Chance that a passage ends with a sentence that says nothing."""


class HarmChoice(Config):
    """How much is asked to see what modules do to the base."""

    passages: Annotated[int, Field(ge=0, le=1000)] = 32
    """Unrelated passages on which the divergence from the base is measured; 0: none."""
    facts: Annotated[int, Field(ge=0, le=2000)] = 64
    """Common facts that are asked; 0: none (with a base that never learnt them)."""
    seed: int = 0
    """Of worlds, order and wording; the first of more are the same."""


def unrelated_probes(
    count_tokens: Callable[[str], int],
    *,
    passages: int,
    facts: int,
    seed: int = 0,
    written: Collection[str] = (),
) -> tuple[Probe, ...]:
    """Passages, then facts; equal arguments give equal probes, and more begin with the fewer ones.

    A passage loses sentences at its end until it has at most `PASSAGE_TOKENS` tokens of the base (the first always stays).

    Args:
        written: Prompts of the records that modules are trained on (`Record.prompt`). A common fact that one of them states is
            left out: an edit that holds is no harm.

    Raises:
        InputError: fewer common facts than asked are left.
    """
    return (*_passages(count_tokens, passages, seed), *_facts(facts, seed, frozenset(written)))


# -- passages --------------------------------------------------------------------------------------------------
def _passages(count_tokens: Callable[[str], int], count: int, seed: int) -> list[Probe]:
    found: list[Probe] = []
    for world in islice(worlds("unrelated", seed, COUNTS), -(-count // PER_WORLD)):
        for _ in range(min(PER_WORLD, count - len(found))):
            number = len(found)
            rng = random.Random(seed_from("unrelated-passage", seed, number))
            id = f"unrelated:passage-{seed}-{number}"
            text = _passage(world, number % PER_WORLD, rng, count_tokens)
            found.append(Probe(id, id, "", "passage", "unrelated", text, ()))
    return found


def _passage(world: World, number: int, rng: random.Random, count_tokens: Callable[[str], int]) -> str:
    """One to three sentences on entity `number` of a world, in wording the embedded base was trained on."""
    entities = [name for kind in COUNTS for name in world.entities[kind]]
    entity = random.Random(seed_from("unrelated-entities", world.seed)).sample(entities, len(entities))[
        number
    ]
    own = list(world.about(entity))
    told = rng.sample(own, rng.randint(1, min(3, len(own))))
    sentences = [fact.say(rng.choice(statements(fact.relation, held=False))) for fact in told]
    if rng.random() < REMARK:
        sentences = [*sentences[:2], rng.choice(REMARKS)]
    while len(sentences) > 1 and count_tokens(" ".join(sentences)) > PASSAGE_TOKENS:
        sentences.pop()
    return " ".join(sentences)


# -- common facts ----------------------------------------------------------------------------------------------
def _facts(count: int, seed: int, written: frozenset[str]) -> list[Probe]:
    every = list(common_world().facts)
    random.Random(seed_from("unrelated-facts", seed)).shuffle(every)
    left = [fact for fact in every if not _stated(fact, written)] if count else []
    if len(left) < count:
        raise InputError(
            f"{count} common facts asked to see harm, but of {len(every)} all but {len(left)} are written into modules; "
            f"give facts at most {len(left)}"
        )
    found = []
    for fact in left[:count]:
        id = f"unrelated:fact-{seed}-{fact_id(fact)}"
        rng = random.Random(seed_from("unrelated-wording", seed, fact_id(fact)))
        asked = fact.say(rng.choice(questions(fact.relation, held=False)))
        found.append(Probe(id, id, "", "generate", "unrelated", asked, (fact.value,), level="common"))
    return found


def _stated(fact: Fact, written: frozenset[str]) -> bool:
    """Whether a record's prompt asks for this fact, as a statement to be completed or as a question."""
    templates = [cloze(t) for held in (False, True) for t in statements(fact.relation, held=held)]
    templates += [t for held in (False, True) for t in questions(fact.relation, held=held)]
    return any(template.format(e=fact.entity) in written for template in templates)
