"""The Almanac source: articles of a fresh world, recall questions in trained and in held-out wording."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import questions
from loramem.sources.almanac.render import STYLES, article
from loramem.sources.almanac.world import common_names, make_world
from loramem.sources.slicing import Size
from loramem.sources.types import Document, Probe, Record, Source

COUNTS = {"person": 60, "town": 24, "firm": 16, "river": 8, "book": 20, "expedition": 12}


class AlmanacConfig(Config):
    """Articles of a generated world."""

    name: Literal["almanac"] = "almanac"
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    """Tokens of the base per slice; slices are nested."""
    seed: int = 21
    """Of the world and its wording; world 1 is the common world."""
    facts: Annotated[int, Field(ge=1, le=24)] = 10
    """Facts per article: 10 make about 150 tokens, 24 about 400."""
    distractors: Annotated[int, Field(ge=0, le=50)] = 3
    """Sentences per article that say nothing."""


def build(config: AlmanacConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source per size: articles are added in one fixed order until the size is first exceeded."""
    sources = []
    for size in sorted(set(config.sizes)):
        documents: list[Document] = []
        probes: list[Probe] = []
        total = number = 0
        while total <= size:
            # worlds follow each other: any size can be had, and a larger slice begins with the smaller one
            world = make_world(
                seed_from("articles", config.seed, number // 40) % 2**31, COUNTS, avoid=common_names()
            )
            document, asked = _article(world, config, number)
            total += count_tokens(document.text)
            documents.append(document)
            probes += asked
            number += 1
        sources.append(
            Source(
                "almanac",
                tuple(documents),
                tuple(probes),
                config.identity(),
                size,
                (f"{len(documents)} articles, {len(probes)} probes",),
            )
        )
    return sources


def _article(world, config: AlmanacConfig, number: int) -> tuple[Document, list[Probe]]:
    rng = random.Random(seed_from("article", config.seed, number))
    entities = [name for kind in world.entities.values() for name in kind]
    start = (number % 40) * len(entities) // 40
    facts = [fact for entity in entities[start:] + entities[:start] for fact in world.about(entity)][
        : config.facts
    ]
    rng.shuffle(facts)
    name = f"article-{config.seed}-{number}"
    text = article(facts, rng, style=STYLES[number % len(STYLES)], distractors=config.distractors)
    record = Record(name, text, bits=sum(fact.bits for fact in facts))
    probes = [
        Probe(
            id=f"{name}-{index}-{'heldout' if held else 'trained'}",
            case=name,
            fact=f"{name}-{index}",
            document=name,
            kind="generate",
            phrasing="heldout" if held else "trained",
            prompt=fact.say(rng.choice(questions(fact.relation, held=held))),
            answers=(fact.value,),
            level="recall",
            bits=fact.bits,
        )
        for index, fact in enumerate(facts)
        for held in (False, True)
    ]
    return Document(name, (record,)), probes
