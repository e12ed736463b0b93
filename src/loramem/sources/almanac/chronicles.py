"""Chronicles: the small twin of NarrativeQA, one long document whose facts are spread over all of it.

A chronicle is an endless stream of chapters ("Chapter 3, day 17."), cut after the paragraph with which its tokens
first exceed the size, so a longer one begins with the shorter one. People, towns and books enter one after another; what is known of each
is told now or much later, at distances that grow with the document. Questions need one fact, or two or three that
follow from each other; the level says how many hops and whether they stay within a chapter:

    single-hop   two-hop-within   two-hop-across   three-hop-within   three-hop-across

`telling.grounds` gives the sentences (with their chapters) that a probe rests on. Every question has two reference
answers, the value and a whole sentence.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import Faults
from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import questions, statements
from loramem.sources.almanac.relating import chain, chains
from loramem.sources.almanac.render import STYLES
from loramem.sources.almanac.telling import (
    WORDINGS,
    Telling,
    Told,
    closure,
    fact_id,
    sentence,
    worlds,
)
from loramem.sources.almanac.world import Fact, World
from loramem.sources.slicing import MOST_TOKENS, spread
from loramem.sources.types import Probe, Source

PARAGRAPH_FACTS = (3, 4)
CHAPTER_PARAGRAPHS = (2, 3)
ENTER = 1 / 10
"""Chance that a fact is the first of somebody new, with some two dozen facts in tow: more enter than leave."""
STAY = 0.2
"""Chance that the next fact is about what the last one named, if there is one."""


class ChroniclesConfig(Config):
    """Long documents in nested sizes."""

    name: Literal["almanac-chronicles"] = "almanac-chronicles"
    sizes: Annotated[tuple[Annotated[int, Field(ge=500, le=MOST_TOKENS)], ...], Field(min_length=1)]
    """Length of each document in tokens of the base (one paragraph, some 90 tokens, longer at most); one source per
    size."""
    documents: Annotated[int, Field(ge=1, le=100)] = 1
    """Documents per size."""
    seed: int = 31
    """Of worlds, order and wording."""
    questions: Annotated[int, Field(ge=1)] = 12
    """Questions per level and document, spread over it; each in a trained and in a held-out wording."""
    cast: Annotated[int, Field(ge=16, le=2048)] = 128
    """Towns, firms and expeditions of a document's world (people and books: twice as many, rivers: half). 128 make
    some 4,300 facts, enough for 64K tokens; the size of the value sets, so the bits of a fact, follow from it."""
    remarks: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Chance of a sentence that says nothing behind a fact."""


def _worlds(config: ChroniclesConfig) -> Iterator[World]:
    cast = config.cast
    counts = {"person": 2 * cast, "town": cast, "firm": cast, "river": cast // 2}
    return worlds("chronicles", config.seed, counts | {"book": 2 * cast, "expedition": cast})


def name_of(config: ChroniclesConfig, number: int) -> str:
    return f"chronicle-{config.seed}-{number}"


def stream(config: ChroniclesConfig, number: int, world: World) -> Iterator[list[Told]]:
    """The paragraphs of chronicle `number`; together they state every fact of `world` once."""
    facts = _order(world, random.Random(seed_from("chronicle", config.seed, number)))
    rng = random.Random(seed_from("chronicle-wording", config.seed, number))
    chapter = day = left = 0
    for paragraph in itertools.count(1):
        chosen = list(islice(facts, rng.choice(PARAGRAPH_FACTS)))
        if not chosen:
            return
        heading = ""
        if left == 0:
            chapter, day, left = chapter + 1, day + rng.randint(1, 9), rng.choice(CHAPTER_PARAGRAPHS)
            heading = f"Chapter {chapter}, day {day}. "
        left -= 1
        style = STYLES[chapter % len(STYLES)]
        texts = [sentence(fact, rng, style=style, links=0.4, remarks=config.remarks) for fact in chosen]
        texts[0] = heading + texts[0]
        yield [Told(fact, text, chapter, paragraph) for fact, text in zip(chosen, texts, strict=True)]


def _order(world: World, rng: random.Random) -> Iterator[Fact]:
    """Facts in telling order: an open pool, from which one is told and into which newcomers bring theirs."""
    roots = [*world.entities["book"], *world.entities["expedition"]]
    rng.shuffle(roots)
    pool: list[Fact] = []
    entered: set[str] = set()
    last: Fact | None = None
    while roots or pool:
        if roots and (not pool or rng.random() < ENTER):
            new = [entity for entity in closure(world, roots.pop()) if entity not in entered]
            entered.update(new)
            pool += [fact for entity in new for fact in world.about(entity)]
            place = next(i for i, fact in enumerate(pool) if fact.entity == new[0])
        else:
            near = [i for i, fact in enumerate(pool) if last and fact.entity == last.value]
            place = rng.choice(near) if near and rng.random() < STAY else rng.randrange(len(pool))
        last = pool[place]
        pool[place] = pool[-1]
        pool.pop()
        yield last


def tellings(
    config: ChroniclesConfig, size: int, enough: Callable[[int, Sequence[Told]], bool], *, first: int = 0
) -> Iterator[Telling]:
    """Endless chronicles of one size; `enough(number, next paragraph)` says if each one ends with it."""
    for number, world in islice(enumerate(_worlds(config)), first, None):
        told: list[Told] = []
        for paragraph in stream(config, number, world):
            told += paragraph
            if enough(number, paragraph):
                break
        else:
            raise Faults(
                f"size {size}: the {len(world.facts)} facts of this chronicle end before; give cast (now {config.cast}) a larger value"
            )
        name = name_of(config, number)
        yield Telling(f"{name}-{size}", name, f"Chronicle {number}", tuple(told), world)


def build(config: ChroniclesConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source per size, smallest first.

    Raises:
        Faults: a size that the world of a chronicle cannot fill.
    """
    return [
        _source(config, size, count_tokens, first=0, count=config.documents, settings=config.identity())
        for size in sorted(set(config.sizes))
    ]


def dev(config: ChroniclesConfig, size: int, count_tokens: Callable[[str], int]) -> Source:
    """One chronicle of `size` tokens that shares no name with `build`'s: the next one of the series."""
    settings = {**config.identity(), "split": "dev"}
    return _source(config, size, count_tokens, first=config.documents, count=1, settings=settings)


def _source(
    config: ChroniclesConfig,
    size: int,
    count_tokens: Callable[[str], int],
    *,
    first: int,
    count: int,
    settings: dict,
) -> Source:
    totals: dict[int, int] = {}

    def enough(number: int, paragraph: Sequence[Told]) -> bool:
        text = " ".join(told.text for told in paragraph)
        totals[number] = totals.get(number, 0) + count_tokens(text + "\n")
        return totals[number] > size

    made = list(islice(tellings(config, size, enough, first=first), count))
    probes = [probe for telling in made for probe in _probes(config, telling)]
    by_level = {level: 0 for level in dict.fromkeys(probe.level for probe in probes)}
    for probe in probes:
        by_level[probe.level] += 1
    asked = ", ".join(f"{number} {level}" for level, number in by_level.items())
    notes = (f"{len(made)} chronicles, {sum(len(t.told) for t in made)} facts, probes: {asked}",)
    return Source("almanac-chronicles", tuple(t.document for t in made), tuple(probes), settings, size, notes)


def _probes(config: ChroniclesConfig, telling: Telling) -> list[Probe]:
    """`questions` of each level, chosen by their facts' names so that they lie all over the document."""
    section = {fact_id(told.fact): told.section for told in telling.told}
    levels: dict[str, dict[str, tuple[Fact, ...]]] = {}
    for hops, word in ((1, "single"), (2, "two"), (3, "three")):
        for path in chains(telling.facts, hops):
            within = len({section[fact_id(fact)] for fact in path}) == 1
            level = f"{word}-hop" if hops == 1 else f"{word}-hop-{'within' if within else 'across'}"
            levels.setdefault(level, {})["+".join(map(fact_id, path))] = path
    probes = []
    for level, paths in sorted(levels.items()):
        chosen = spread(list(paths), config.questions)
        for key, path in paths.items():
            if key not in chosen:
                continue
            rng = random.Random(seed_from("chronicle-probe", config.seed, key))
            related = chain(path)
            canonical = statements(path[-1].relation, held=False)[0]
            answers = related.references() if len(path) > 1 else (path[0].value, path[0].say(canonical))
            for phrasing, held in WORDINGS:
                asked = (
                    related.questions(held)
                    if len(path) > 1
                    else tuple(path[0].say(template) for template in questions(path[0].relation, held))
                )
                question = rng.choice(asked)
                probes.append(
                    telling.probe(
                        path,
                        question,
                        answers,
                        phrasing=phrasing,
                        level=level,
                        tag=level,
                        bits=related.bits,
                    )
                )
    return probes
