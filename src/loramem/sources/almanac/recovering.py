"""Facts of a built source: rebuilt from its settings, and checked against its text.

A `Source` holds texts; what they state is known to the world they were made from, and settings and document ids
say which one that was. Lengths in tokens are not needed again: the documents at hand show where each one ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from loramem.core.config import Config, parse
from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.sources.almanac import articles, chronicles, introductions, stories
from loramem.sources.almanac.render import STYLES, article
from loramem.sources.almanac.telling import Telling, Told, fact_id, worlds
from loramem.sources.almanac.world import Fact, common_names, make_world
from loramem.sources.types import Document, Source

C = TypeVar("C", bound=Config)


def facts_of(source: Source) -> dict[str, tuple[Fact, ...]]:
    """The facts that each document of an Almanac source states, in its order.

    Raises:
        InputError: another kind of source, or documents that its settings do not give.
    """
    if source.name == "almanac":
        return {document.id: facts for document, facts in _articles(source)}
    return {telling.id: telling.facts for telling in tellings_of(source)}


def records_of(source: Source) -> dict[str, str]:
    """The record that states each fact, by `fact_id`; where two articles state one, the first."""
    found: dict[str, str] = {}
    if source.name == "almanac":
        for document, facts in _articles(source):
            for fact in facts:
                found.setdefault(fact_id(fact), document.records[0].id)
        return found
    for telling in tellings_of(source):
        found |= {name: telling.record_id(index) for name, index in telling.index_of.items()}
    return found


def prefix_of(source: Source, document: str) -> str:
    """What stands before every question about a document: its id, where the source writes ids."""
    if source.name != "almanac-papers":
        return ""
    return introductions.with_id(
        "", _number(document), _config(source, introductions.IntroductionsConfig).style
    )


def tellings_of(source: Source) -> list[Telling]:
    """The tellings behind an introductions, chronicles or stories source, in the order of its documents.

    Raises:
        InputError: as `facts_of`.
    """
    if source.name not in _REBUILD:
        known = ", ".join(["almanac", *_REBUILD])
        raise InputError(f"source {source.name!r}: its facts are not known; allowed: {known}")
    wanted = {_number(document.id): document for document in source.documents}
    made: dict[str, Telling] = {}
    for telling in _REBUILD[source.name](source, wanted):
        document = wanted[_number(telling.id)]
        if telling.document != document:
            raise _foreign(source, document)
        made[telling.id] = telling
    return [made[document.id] for document in source.documents]


def _number(document: str) -> int:
    """Which document of its kind and seed: KIND-SEED-NUMBER, for a chronicle with the size behind it."""
    try:
        return int(document.split("-")[2])
    except (IndexError, ValueError):
        raise InputError(f"document {document!r} is not an Almanac document") from None


def _foreign(source: Source, document: Document) -> InputError:
    return InputError(
        f"document {document.id!r} of source {source.name!r} is not what its settings give; build it again with this version"
    )


def _config(source: Source, kind: type[C]) -> C:
    return parse(kind, {key: value for key, value in source.settings.items() if key != "split"}, source.name)


def _introductions(source: Source, wanted: dict[int, Document]) -> Iterator[Telling]:
    config = _config(source, introductions.IntroductionsConfig)
    for number, telling in enumerate(islice(introductions.tellings(config), max(wanted) + 1)):
        if number in wanted:
            yield telling


def _chronicles(source: Source, wanted: dict[int, Document]) -> Iterator[Telling]:
    config = _config(source, chronicles.ChroniclesConfig)

    def enough(number: int, paragraph: Sequence[Told]) -> bool:
        return number not in wanted or paragraph[0].paragraph == len(wanted[number].records)

    size = source.size_tokens or 0
    first, last = min(wanted), max(wanted)
    for telling in islice(chronicles.tellings(config, size, enough, first=first), last - first + 1):
        if _number(telling.id) in wanted:
            yield telling


def _stories(source: Source, wanted: dict[int, Document]) -> Iterator[Telling]:
    config = _config(source, stories.StoriesConfig)
    series = worlds("stories", config.seed, stories.COUNTS)
    for number, world in enumerate(islice(series, max(wanted) + 1)):
        if number not in wanted:
            continue
        # the last scene may be short: of the few lengths that make these scenes, the one that is this story
        most = len(wanted[number].records) * stories.SCENE
        for length in range(most, most - stories.SCENE, -1):
            telling = stories.tell(config, number, world, _of(length))
            if telling.document == wanted[number]:
                break
        yield telling


def _of(length: int) -> Callable[[int, Sequence[Told]], bool]:
    return lambda number, told: len(told) == length


_REBUILD: dict[str, Callable[[Source, dict[int, Document]], Iterator[Telling]]] = {
    "almanac-papers": _introductions,
    "almanac-chronicles": _chronicles,
    "almanac-stories": _stories,
}


def _articles(source: Source) -> Iterator[tuple[Document, tuple[Fact, ...]]]:
    """Articles draw their facts as `articles._article` does; its text shows whether these are they."""
    config = _config(source, articles.AlmanacConfig)
    for document in source.documents:
        number = _number(document.id)
        seed = seed_from("articles", config.seed, number // 40) % 2**31
        world = make_world(seed, articles.COUNTS, avoid=common_names())
        rng = random.Random(seed_from("article", config.seed, number))
        entities = [name for kind in world.entities.values() for name in kind]
        start = (number % 40) * len(entities) // 40
        order = entities[start:] + entities[:start]
        facts = [fact for entity in order for fact in world.about(entity)][: config.facts]
        rng.shuffle(facts)
        text = article(facts, rng, style=STYLES[number % len(STYLES)], distractors=config.distractors)
        if text != document.text:
            raise _foreign(source, document)
        yield document, tuple(facts)
