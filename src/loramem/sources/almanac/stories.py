"""Stories: the small twin of QuALITY, documents of some 500 to 2,000 tokens with four-option questions.

A story tells the same few attributes of several people and of the places around them, so that the wrong options
can be true of somebody else in it. An easy question asks one fact, and one wrong option at least is from the
document where there is one; of the hard ones (`Probe.hard`) each needs two facts (`two-hop`), or has only wrong
options that the document gives to others (`single-hop`). The position of the right option is uniform.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field, model_validator

from loramem.core.config import Config
from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import questions
from loramem.sources.almanac.relating import chain, chains
from loramem.sources.almanac.render import CLOSINGS, OPENINGS, STYLES
from loramem.sources.almanac.schema import KINDS, relations_of
from loramem.sources.almanac.telling import WORDINGS, Telling, Told, fact_id, sentence, worlds
from loramem.sources.almanac.world import Fact, World
from loramem.sources.types import Probe, Source

COUNTS = {"person": 16, "town": 16, "firm": 16, "river": 16, "book": 16, "expedition": 16}
OPTIONS = 4
SCENE = 4
"""Facts per scene; a scene is a section and a record."""


class StoriesConfig(Config):
    """Stories with four-option questions."""

    name: Literal["almanac-stories"] = "almanac-stories"
    documents: Annotated[int, Field(ge=1, le=1000)] = 20
    """How many; the first of more are the same."""
    shortest: Annotated[int, Field(ge=300, le=3000)] = 500
    """Tokens of the shortest story; lengths are drawn evenly on a log scale."""
    longest: Annotated[int, Field(ge=300, le=3000)] = 2000
    """Tokens of the longest story."""
    seed: int = 51
    """Of worlds, order and wording."""
    questions: Annotated[int, Field(ge=2, le=40)] = 10
    """Questions per story, half of them hard; each in a trained and in a held-out wording with equal options."""
    remarks: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Chance of a sentence that says nothing behind a fact."""

    @model_validator(mode="after")
    def _ordered(self) -> StoriesConfig:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        return self


def length_of(config: StoriesConfig, number: int) -> int:
    """Tokens asked of story `number`."""
    draw = random.Random(seed_from("story-length", config.seed, number)).random()
    return round(config.shortest * (config.longest / config.shortest) ** draw)


def frame(config: StoriesConfig, number: int) -> tuple[str, str]:
    """How story `number` opens and closes."""
    rng, style = random.Random(seed_from("story-frame", config.seed, number)), STYLES[number % len(STYLES)]
    return rng.choice(OPENINGS[style]), rng.choice(CLOSINGS[style])


def tellings(
    config: StoriesConfig, enough: Callable[[int, Sequence[Told]], bool], *, first: int = 0
) -> Iterator[Telling]:
    """Endless stories; `enough(number, told so far)` says when story `number` is long enough."""
    for number, world in islice(enumerate(worlds("stories", config.seed, COUNTS)), first, None):
        yield tell(config, number, world, enough)


def tell(
    config: StoriesConfig, number: int, world: World, enough: Callable[[int, Sequence[Told]], bool]
) -> Telling:
    """Story `number`: facts are gathered until there are enough, then told in a drawn order."""
    rng = random.Random(seed_from("story", config.seed, number))
    style = STYLES[number % len(STYLES)]
    told: list[Told] = []
    for fact in _matter(world, rng):
        text = sentence(fact, rng, style=style, remarks=config.remarks)
        told.append(Told(fact, text, 0, 0))
        if enough(number, told):
            break
    random.Random(seed_from("story-order", config.seed, number)).shuffle(told)
    told = [Told(one.fact, one.text, 1 + i // SCENE, 1 + i // SCENE) for i, one in enumerate(told)]
    opening, closing = frame(config, number)
    told[0] = replace(told[0], text=f"{opening} {told[0].text}")
    told[-1] = replace(told[-1], text=f"{told[-1].text} {closing}")
    name = f"story-{config.seed}-{number}"
    return Telling(name, name, f"Story {number}", tuple(told), world)


def _matter(world: World, rng: random.Random) -> Iterator[Fact]:
    """Facts of a story, most needed first: attribute by attribute, each told of everybody in the cast.

    So however early it ends, an attribute that is told of one is told of several.
    """
    people = rng.sample(world.entities["person"], 5)
    cast = {"person": people, "book": rng.sample(world.entities["book"], 5)}
    cast["expedition"] = rng.sample(world.entities["expedition"], 5)
    for kind, link in (("town", "home"), ("firm", "employer")):
        named = [f.value for person in people for f in world.about(person) if f.relation.name == link]
        cast[kind] = list(dict.fromkeys(named))
    rivers = [f.value for town in cast["town"] for f in world.about(town) if f.relation.name == "river"]
    cast["river"] = list(dict.fromkeys(rivers))
    order = {kind: rng.sample(relations_of(kind), len(relations_of(kind))) for kind in KINDS}
    links = ["home", "employer"]
    rng.shuffle(links)
    order["person"].sort(key=lambda relation: relation.name != links[0])  # something must lead on
    turns = ["person", "person", "town" if links[0] == "home" else "firm"]
    turns += ["person", "town", "firm", "book", "river", "expedition"]
    while any(order[kind] for kind in KINDS):
        for kind in turns:
            if order[kind]:
                relation = order[kind].pop(0)
                for entity in cast[kind]:
                    yield from (f for f in world.about(entity) if f.relation.name == relation.name)


def build(config: StoriesConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source; its size is a number of documents, not of tokens."""
    made = list(islice(tellings(config, _long_enough(config, count_tokens)), config.documents))
    return [_source(config, made, settings=config.identity(), size=None)]


def dev(config: StoriesConfig, size: int, count_tokens: Callable[[str], int]) -> Source:
    """The stories that follow `build`'s, until their tokens first exceed `size`: no name is shared."""
    made, total = [], 0
    for telling in tellings(config, _long_enough(config, count_tokens), first=config.documents):
        made.append(telling)
        total += count_tokens(telling.document.text)
        if total > size:
            break
    return _source(config, made, settings={**config.identity(), "split": "dev"}, size=size)


def _long_enough(
    config: StoriesConfig, count_tokens: Callable[[str], int]
) -> Callable[[int, Sequence[Told]], bool]:
    totals: dict[int, int] = {}

    def enough(number: int, told: Sequence[Told]) -> bool:
        if number not in totals:
            totals[number] = count_tokens(" ".join(frame(config, number)))
        totals[number] += count_tokens(" " + told[-1].text)
        return totals[number] > length_of(config, number)

    return enough


def _source(config: StoriesConfig, made: list[Telling], *, settings: dict, size: int | None) -> Source:
    probes = [probe for telling in made for probe in _probes(config, telling)]
    hard = sum(probe.hard for probe in probes)
    notes = (f"{len(made)} stories, {len(probes)} four-option probes, {hard} of them hard",)
    documents = tuple(telling.document for telling in made)
    return Source("almanac-stories", documents, tuple(probes), settings, size, notes)


def _probes(config: StoriesConfig, telling: Telling) -> list[Probe]:
    rng = random.Random(seed_from("story-probes", telling.id))
    inside: dict[tuple[str, ...], list[str]] = defaultdict(list)  # values told, by their value set
    for fact in telling.facts:
        if fact.value not in inside[fact.options]:
            inside[fact.options].append(fact.value)

    def others(fact: Fact) -> list[str]:
        return [value for value in inside[fact.options] if value != fact.value]

    usable = [fact for fact in telling.facts if len(fact.options) >= OPTIONS]
    two_hop = [path for path in chains(telling.facts, 2) if len(path[-1].options) >= OPTIONS]
    confusable = [(fact,) for fact in usable if len(others(fact)) >= OPTIONS - 1]
    two_hop.sort(key=lambda path: len(others(path[-1])) < OPTIONS - 1)  # those all from the document first
    full = sum(len(others(path[-1])) >= OPTIONS - 1 for path in two_hop)
    two_hop = rng.sample(two_hop[:full], full) + two_hop[full:]
    rng.shuffle(confusable)
    hard_count = config.questions // 2
    hard = [*two_hop[: (hard_count + 1) // 2]]
    hard += confusable[: hard_count - len(hard)]
    taken = {fact_id(path[0]) for path in hard if len(path) == 1}
    easy = [(fact,) for fact in usable if fact_id(fact) not in taken]
    easy = rng.sample(easy, min(config.questions - len(hard), len(easy)))
    probes = []
    for path, is_hard in [(path, True) for path in hard] + [(path, False) for path in easy]:
        options, gold = _options(path[-1], others(path[-1]), rng, all_inside=is_hard)
        level = "single-hop" if len(path) == 1 else "two-hop"
        for phrasing, held in WORDINGS:
            asked = (
                chain(path).questions(held)
                if len(path) > 1
                else tuple(path[0].say(template) for template in questions(path[0].relation, held))
            )
            probes.append(
                telling.probe(
                    path,
                    rng.choice(asked),
                    options,
                    phrasing=phrasing,
                    level=level,
                    tag=f"{level}:{'hard' if is_hard else 'easy'}",
                    bits=math.log2(OPTIONS),
                    kind="choice",
                    gold=gold,
                    hard=is_hard,
                )
            )
    return probes


def _options(
    fact: Fact, inside: list[str], rng: random.Random, *, all_inside: bool
) -> tuple[tuple[str, ...], int]:
    """Four different options in a drawn order, and the index of the right one, uniform."""
    wanted = OPTIONS - 1 if all_inside else rng.randint(1, OPTIONS - 2)
    wrong = rng.sample(inside, min(wanted, len(inside)))
    rest = [value for value in fact.options if value != fact.value and value not in wrong]
    rng.shuffle(rest)
    rest.sort(
        key=lambda value: value in inside
    )  # what is not from the document is from elsewhere if it can be
    wrong += rest[: OPTIONS - 1 - len(wrong)]
    rng.shuffle(wrong)
    gold = rng.randrange(OPTIONS)
    return (*wrong[:gold], fact.value, *wrong[gold:]), gold
