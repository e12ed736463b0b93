"""Telling: facts put in order, sentence by sentence, in paragraphs and sections.

Introductions, chronicles and stories are all tellings. A record is a paragraph of whole sentences, each of which
states one fact, so a chunk of whole records never cuts a fact; a probe names the sentences that it needs
(`grounds`), and its case is the record of the last. Sentences are joined by spaces and few newlines stand between
them, which is how the embedded base has learnt to read. Statements are in wording it was pretrained on; held-out
wording stays unseen by whoever trains on a telling.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from loramem.core.identity import seed_from
from loramem.sources.almanac.digests import gold_digest
from loramem.sources.almanac.phrasing import statements
from loramem.sources.almanac.render import DISTRACTORS, LINKS
from loramem.sources.almanac.world import Fact, World, common_names, make_world
from loramem.sources.types import Document, Phrasing, Probe, Record

REMARKS = (
    *DISTRACTORS,
    "The road was dry and the wind came from the hills.",
    "A boy ran past with a loaf under his arm.",
    "For a while nobody spoke.",
    "The lamps were lit early that day.",
    "Somewhere a door fell shut.",
    "The bells rang, and then it was quiet again.",
    "A cart stood in the lane with a broken wheel.",
    "It was late when the last guest left.",
)
"""Sentences without information: they name no entity and no value."""
WORDINGS: tuple[tuple[Phrasing, bool], ...] = (("trained", False), ("heldout", True))
"""Every question is asked in a trained and in a held-out wording."""


def fact_id(fact: Fact) -> str:
    """What a fact is called wherever it is pointed at: relation and entity, which settle the value."""
    return f"{fact.relation.name}/{fact.entity}"


def capital(text: str) -> str:
    """`text` with its first letter upper case.

    >>> capital("the author of The Last Gora lives in Mabury.")
    'The author of The Last Gora lives in Mabury.'
    """
    return text[:1].upper() + text[1:]


def worlds(what: str, seed: int, counts: Mapping[str, int]) -> Iterator[World]:
    """Endless worlds, no two of which share a name with each other or with the common world.

    World n depends on (what, seed, counts, n) alone, so that more documents begin with the fewer ones.
    """
    taken = set(common_names())
    for number in itertools.count():
        world = make_world(seed_from(what, seed, number) % 2**31, counts, avoid=frozenset(taken))
        taken.update(name for names in world.entities.values() for name in names)
        yield world


def closure(world: World, root: str) -> tuple[str, ...]:
    """`root` and every entity that its facts lead to, nearest first."""
    found = [root]
    for entity in found:
        found += [fact.value for fact in world.about(entity) if _leads(fact) and fact.value not in found]
    return tuple(found)


def _leads(fact: Fact) -> bool:
    return isinstance(fact.relation.values, str)


def sentence(fact: Fact, rng: random.Random, *, style: str, links: float = 1.0, remarks: float = 0.0) -> str:
    """`fact` in a trained wording; with chance `links` a link of `style` leads in, with chance `remarks` an idle
    remark follows."""
    said = fact.say(rng.choice(statements(fact.relation, held=False)))
    link = rng.choice(LINKS[style]) if rng.random() < links else ""
    remark = rng.choice(REMARKS) if rng.random() < remarks else ""
    return " ".join(part for part in (link, said, remark) if part)


@dataclass(frozen=True)
class Told:
    """One sentence of a telling: its fact, its text (with heading or remark), its section and paragraph (from 1).

    Paragraphs are numbered through the whole document.
    """

    fact: Fact
    text: str
    section: int
    paragraph: int


@dataclass(frozen=True)
class Telling:
    """A document whose facts are known.

    Attributes:
        id: Of the document.
        name: What record ids begin with; the same for all lengths of one chronicle.
        world: Where the facts come from; questions are unambiguous in all of it, not only in what is told.
    """

    id: str
    name: str
    title: str
    told: tuple[Told, ...]
    world: World

    def record_id(self, index: int) -> str:
        """Id of the record that holds sentence `index`: NAME/sSECTIONpPARAGRAPH."""
        return f"{self.name}/s{self.told[index].section:03d}p{self.told[index].paragraph:04d}"

    def sentence_id(self, index: int) -> str:
        """Id of sentence `index`: its record's, and its own number in the document."""
        return f"{self.record_id(index)}f{index:05d}"

    @property
    def facts(self) -> tuple[Fact, ...]:
        return tuple(told.fact for told in self.told)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Which sentence states each fact, by `fact_id`."""
        return {fact_id(told.fact): index for index, told in enumerate(self.told)}

    @property
    def sections(self) -> tuple[int, ...]:
        """The numbers of its sections, in order."""
        return tuple(dict.fromkeys(told.section for told in self.told))

    def section(self, number: int) -> tuple[Fact, ...]:
        """The facts that section `number` tells, in order."""
        return tuple(told.fact for told in self.told if told.section == number)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Characters of the document's text that each sentence is."""
        found, start = [], 0
        for told in self.told:
            found.append((start, start + len(told.text)))
            start += len(told.text) + 1  # a space, or the newline between paragraphs
        return tuple(found)

    @cached_property
    def document(self) -> Document:
        records = []
        for _, group in itertools.groupby(range(len(self.told)), key=lambda i: self.told[i].paragraph):
            own = list(group)
            records.append(
                Record(
                    self.record_id(own[0]),
                    " ".join(self.told[i].text for i in own),
                    bits=sum(self.told[i].fact.bits for i in own),
                    span=(self.spans[own[0]][0], self.spans[own[-1]][1]),
                )
            )
        return Document(self.id, tuple(records), self.title, gold_digest(self.gist()))

    def gist(self, section: int | None = None) -> tuple[Fact, ...]:
        """The facts that the gold summary (`gold_digest`) covers: all of one section, or of the whole the first two of every
        section."""
        if section is not None:
            return self.section(section)
        return tuple(fact for number in self.sections for fact in self.section(number)[:2])

    def probe(
        self,
        facts: Sequence[Fact] | Sequence[int],
        question: str,
        answers: tuple[str, ...],
        *,
        phrasing: Phrasing,
        level: str,
        tag: str,
        bits: float | None,
        kind: Literal["generate", "choice"] = "generate",
        gold: int = 0,
        hard: bool = False,
    ) -> Probe:
        """A probe that rests on `facts` (or on the sentences of those indices); its case is the last one's record.

        Its id is DOCUMENT/TAG/PHRASING/SENTENCE+SENTENCE...: `grounds` reads the sentences back.
        """
        where = [fact if isinstance(fact, int) else self.index_of[fact_id(fact)] for fact in facts]
        short = "+".join(self.sentence_id(index).rsplit("/", 1)[1] for index in where)
        return Probe(
            id=f"{self.id}/{tag}/{phrasing}/{short}",
            case=self.record_id(where[-1]),
            document=self.id,
            kind=kind,
            phrasing=phrasing,
            prompt=question,
            answers=answers,
            gold=gold,
            level=level,
            bits=bits,
            hard=hard,
            fact=f"{self.id}/{tag}/{short}",
        )


def grounds(probe: Probe) -> tuple[str, ...]:
    """Ids of the sentences that a probe of a telling rests on, in the order of its hops.

    A sentence id is its record's id (with section and paragraph) and the number of the sentence.
    """
    name = probe.case.rsplit("/", 1)[0]
    return tuple(f"{name}/{short}" for short in probe.id.rsplit("/", 1)[1].split("+"))


def record_of(sentence: str) -> str:
    """The record that holds a sentence of `grounds`.

    >>> record_of("paper-41-0/s002p0002f00007")
    'paper-41-0/s002p0002'
    """
    return sentence[: sentence.rindex("f")]
