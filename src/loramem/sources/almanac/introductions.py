"""Introductions: the small twin of PaperQA (arXiv 2603.01097, section 4).

Each document introduces one person and what is linked to that person, in numbered parts: about 200 to 400
tokens. It is asked thirty questions at three levels, each in a trained and in a held-out wording:

- `recall`: one attribute;
- `comprehension`: two facts related (a chain, which of both, same or not, which year is earlier, yes or no);
- `structure`: the order and the parts of the document.

As with PaperQA, a question can carry the number of its document (`style`), though none needs it: names are unlike
in all documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import questions
from loramem.sources.almanac.relating import ALL, Relating, relate
from loramem.sources.almanac.render import CLOSINGS, STYLES
from loramem.sources.almanac.structure import PART_FACTS, PARTS, structural
from loramem.sources.almanac.telling import WORDINGS, Telling, Told, closure, sentence, worlds
from loramem.sources.almanac.world import Fact, World
from loramem.sources.types import Probe, Source

COUNTS = {"person": 16, "town": 16, "firm": 16, "river": 16, "book": 16, "expedition": 16}
IdStyle = Literal["bracket", "natural", "none"]
PREFIXES: dict[IdStyle, str] = {"bracket": "[Report ID: {n}] ", "natural": "In report {n}: ", "none": ""}


class IntroductionsConfig(Config):
    """Short reports with thirty questions each."""

    name: Literal["almanac-papers"] = "almanac-papers"
    documents: Annotated[int, Field(ge=1, le=1000)] = 15
    """How many; the first of more are the same."""
    seed: int = 41
    """Of worlds, order and wording."""
    style: IdStyle = "none"
    """How a question names its document: `[Report ID: 3] What ...`, `In report 3: What ...`, or not at all."""
    questions: Annotated[int, Field(ge=1, le=12)] = 10
    """Questions per level; each is asked in a trained and in a held-out wording."""
    remarks: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Chance of a sentence that says nothing behind a fact."""


def with_id(question: str, number: int, style: IdStyle) -> str:
    """`question` with the number of its document in front, as supervision and probes write it.

    >>> with_id("What is the pet of Ada Lorn?", 3, "bracket")
    '[Report ID: 3] What is the pet of Ada Lorn?'
    """
    return PREFIXES[style].format(n=number) + question


def tellings(config: IntroductionsConfig) -> Iterator[Telling]:
    """Endless introductions; number n depends on the seed and n alone."""
    for number, world in enumerate(worlds("papers", config.seed, COUNTS)):
        yield _introduce(config, number, world)


def build(config: IntroductionsConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source; its size is a number of documents, not of tokens."""
    made = list(islice(tellings(config), config.documents))
    return [_source(config, made, first=0, settings=config.identity(), size=None)]


def dev(config: IntroductionsConfig, size: int, count_tokens: Callable[[str], int]) -> Source:
    """The introductions that follow `build`'s, until their tokens first exceed `size`: no name is shared."""
    made, total = [], 0
    for telling in islice(tellings(config), config.documents, None):
        made.append(telling)
        total += count_tokens(telling.document.text)
        if total > size:
            break
    return _source(
        config, made, first=config.documents, settings={**config.identity(), "split": "dev"}, size=size
    )


def _source(
    config: IntroductionsConfig, made: list[Telling], *, first: int, settings: dict, size: int | None
) -> Source:
    probes = [
        probe for number, telling in enumerate(made, first) for probe in _probes(config, number, telling)
    ]
    short = 2 * 3 * config.questions * len(made) - len(probes)
    notes: tuple[str, ...] = (f"{len(made)} introductions, {len(probes)} probes",)
    notes += (f"{short} probes fewer than asked: too few facts to relate",) if short else ()
    documents = tuple(telling.document for telling in made)
    return Source("almanac-papers", documents, tuple(probes), settings, size, notes)


def _introduce(config: IntroductionsConfig, number: int, world: World) -> Telling:
    rng = random.Random(seed_from("introduction", config.seed, number))
    sizes = [rng.choice(PART_FACTS) for _ in range(rng.choice(PARTS))]
    root, cast = _cast(world, rng)
    subject = next(fact.value for fact in world.about(root) if fact.relation.values == "person")
    facts = [fact for entity in cast for fact in world.about(entity)]
    links = [fact for fact in facts if fact.value in cast]
    rest = [fact for fact in facts if fact.value not in cast]
    kept = links + rng.sample(rest, sum(sizes) - len(links))
    # what is told of one entity stands together, entities in a drawn order, the subject first
    turn = {entity: (entity != subject, rng.random()) for entity in cast}
    kept.sort(key=lambda fact: (turn[fact.entity], rng.random()))
    style = STYLES[number % len(STYLES)]
    told: list[Told] = []
    for part, size in enumerate(sizes, start=1):
        for place, fact in enumerate(kept[len(told) : len(told) + size]):
            text = sentence(fact, rng, style=style, links=0.1, remarks=config.remarks)
            told.append(Told(fact, f"Part {part}. {text}" if place == 0 else text, part, part))
    opening = f"Report {number} is about {subject}."
    told[0] = replace(told[0], text=f"{opening} {told[0].text}")
    told[-1] = replace(told[-1], text=f"{told[-1].text} {rng.choice(CLOSINGS[style])}")
    name = f"paper-{config.seed}-{number}"
    return Telling(name, name, f"Report {number}: {subject}", tuple(told), world)


def _cast(world: World, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """A book or expedition whose person, towns, firm and rivers are all different, and these entities."""
    roots = [*world.entities["book"], *world.entities["expedition"]]
    rng.shuffle(roots)
    casts = [(root, closure(world, root)) for root in roots]
    return max(casts, key=lambda pair: len(pair[1]))  # the first of the largest


def _probes(config: IntroductionsConfig, number: int, telling: Telling) -> list[Probe]:
    rng = random.Random(seed_from("introduction-probes", config.seed, number))
    probes: list[Probe] = []

    def ask(choose: Callable[[bool], tuple[str, ...]], facts, answers, level, tag, bits) -> None:
        for phrasing, held in WORDINGS:
            question = with_id(rng.choice(choose(held)), number, config.style)
            probes.append(
                telling.probe(facts, question, answers, phrasing=phrasing, level=level, tag=tag, bits=bits)
            )

    for fact in rng.sample(telling.facts, min(config.questions, len(telling.facts))):
        ask(_recall(fact), [fact], (fact.value,), "recall", "recall", fact.bits)
    for one in comprehension(telling, seed_from("comprehension", config.seed, number), config.questions):
        tag = f"comprehension:{one.kind}"
        ask(one.questions, one.facts, one.references(), "comprehension", tag, one.bits)
    subject = telling.title.split(": ", 1)[1]
    for about in structural(telling, subject, rng, config.questions):
        ask(
            about.questions,
            about.records,
            about.answers,
            "structure",
            f"structure:{about.kind}",
            about.bits,
        )
    return probes


def _recall(fact: Fact) -> Callable[[bool], tuple[str, ...]]:
    return lambda held: tuple(fact.say(template) for template in questions(fact.relation, held))


def comprehension(telling: Telling, seed: int, count: int) -> list[Relating]:
    """At most `count` relations, their kinds in turn, so that no kind crowds out the others."""
    by_kind: dict[str, list[Relating]] = {kind: [] for kind in ALL}
    for one in relate(telling.facts, seed, among=telling.world.facts):
        by_kind[one.kind].append(one)
    found: list[Relating] = []
    while len(found) < count and any(by_kind.values()):
        for kind in ALL:
            if by_kind[kind] and len(found) < count:
                found.append(by_kind[kind].pop())
    return found
