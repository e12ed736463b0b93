"""Questions and statements that relate two or three facts, with answers that follow from the facts alone.

| kind | rests on | asks |
|---|---|---|
| chain | e -r1-> v1 -r2-> v2 (or three steps) | the r2 of the r1 of e |
| inverse | e -r1-> v1, e -r2-> v2; e alone has v1 | the r2 of the one whose r1 is v1 |
| verify | a chain, and v2 or (half of the time) another value | is v the r2 of the r1 of e? |
| same | r of a, r of b | do both have the same r? |
| earlier | two years | which is earlier? |
| which | r of a, r of b, unequal | which of both has r = v? |

Trained wording is what supervision may use, held-out wording is never in it. Chains and inverses are asked in
the frames of `phrasing`, so there "held out" also means what the base never saw for that relation.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from loramem.sources.almanac import values
from loramem.sources.almanac.phrasing import questions, statements
from loramem.sources.almanac.schema import KINDS
from loramem.sources.almanac.telling import capital, fact_id
from loramem.sources.almanac.world import Fact

Kind = Literal["chain", "inverse", "verify", "same", "earlier", "which"]
ALL: tuple[Kind, ...] = ("chain", "inverse", "verify", "earlier", "which", "same")
PARTNERS = 4
"""Each fact is compared with at most so many others, so that long documents stay linear."""

# (trained, held out)
FRAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "verify": (
        ("Is {v} the {n} of {e}?", "Is it true that the {n} of {e} is {v}?", "Yes or no: the {n} of {e} is {v}?"),
        ("Would it be right to call {v} the {n} of {e}?", "Does anyone who names {v} as the {n} of {e} speak the truth?"),
    ),
    "same": (
        ("Do {a} and {b} have the same {n}?", "Is the {n} of {a} also the {n} of {b}?", "Yes or no: {a} and {b} have the same {n}?"),
        ("Does {a} share the {n} of {b}?", "Are {a} and {b} alike in their {n}?"),
    ),
    "earlier": (
        ("Which is earlier, {a} or {b}?", "Of {a} and {b}, which is earlier?", "Which came first: {a} or {b}?"),
        ("Which of the two lies further back in time, {a} or {b}?", "Compare {a} with {b}: which year is the older one?"),
    ),
    "which": (
        ("Which of {a} and {b} has the {n} {v}?", "{a} or {b}: which of them has {v} as {n}?", "Of {a} and {b}, which has the {n} {v}?"),
        ("Between {a} and {b}, to which one does the {n} {v} belong?", "Whose {n} is {v}: that of {a} or that of {b}?"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Relating:
    """One relation between facts.

    Attributes:
        kind: See the table above.
        facts: What it rests on, in the order of the hops.
        answer: Follows from the facts.
        options: The answers that were possible (`answer` among them): what a wrong one is drawn from.
        bits: Information of the answer given the question, exact under the world's uniform draws.
        shown: The value that `verify` asks about; empty otherwise.
    """

    kind: Kind
    facts: tuple[Fact, ...]
    answer: str
    options: tuple[str, ...]
    bits: float
    shown: str = ""

    @property
    def hops(self) -> int:
        """How many facts must be known: one more is a hop more."""
        return len(self.facts)

    def _paths(self) -> list[str]:
        """Noun phrases that lead to the entity of the last fact: one for each wording of the steps."""
        if self.kind == "inverse":
            first = self.facts[0]
            return [f"the {first.relation.kind} whose {n} is {first.value}" for n in first.relation.nouns]
        paths = [self.facts[0].entity]
        for fact in self.facts[:-1]:
            paths = [f"the {noun} of {path}" for noun in fact.relation.nouns for path in paths]
        return paths

    def _labels(self) -> list[tuple[str, str]]:
        """What an `earlier` question calls its two years."""
        a, b = self.facts
        pairs = itertools.product(a.relation.nouns, b.relation.nouns)
        return [
            (f"the {x} of {a.entity}", f"the {y} of {b.entity}")
            for x, y in pairs
            if x == y or a.relation.name != b.relation.name
        ]

    def questions(self, held: bool) -> tuple[str, ...]:
        """Every wording of the question, distinct, in a fixed order."""
        last = self.facts[-1]
        if self.kind in ("chain", "inverse"):
            made = [
                template.replace("{e}", path)
                for template in questions(last.relation, held)
                for path in self._paths()
            ]
        else:
            frames = FRAMES[self.kind][held]
            if self.kind == "earlier":
                made = [frame.format(a=a, b=b) for frame in frames for a, b in self._labels()]
            elif self.kind == "verify":
                slots = itertools.product(frames, self._paths(), last.relation.nouns)
                made = [frame.format(v=self.shown, e=path, n=noun) for frame, path, noun in slots]
            else:
                a, b = (fact.entity for fact in self.facts)
                asked = self._owner().value if self.kind == "which" else ""
                made = [
                    frame.format(a=a, b=b, n=noun, v=asked)
                    for frame in frames
                    for noun in last.relation.nouns
                ]
        return tuple(dict.fromkeys(capital(question) for question in made))

    def _owner(self) -> Fact:
        return next(fact for fact in self.facts if fact.entity == self.answer)

    def references(self) -> tuple[str, ...]:
        """Reference answers: the short one and a whole sentence."""
        return self.answer, self.claims(self.answer)[0]

    def claims(self, answer: str) -> tuple[str, ...]:
        """Statements, in trained wording, that `answer` is the answer (right or wrong)."""
        a, last = self.facts[0], self.facts[-1]
        if self.kind in ("chain", "inverse"):
            made = [
                template.replace("{e}", path).replace("{v}", answer)
                for template in statements(last.relation, held=False)
                for path in self._paths()
            ]
        elif self.kind == "verify":
            word = "is" if answer == "yes" else "is not"
            made = [
                f"{self.shown} {word} the {noun} of {path}."
                for path in self._paths()
                for noun in last.relation.nouns
            ]
        elif self.kind == "same":
            word = "have" if answer == "yes" else "do not have"
            made = [f"{a.entity} and {last.entity} {word} the same {noun}." for noun in last.relation.nouns]
        elif self.kind == "earlier":
            pairs = [(x, y) if answer == a.entity else (y, x) for x, y in self._labels()]
            made = [f"{first} is earlier than {second}." for first, second in pairs]
            made += [f"{second} is later than {first}." for first, second in pairs]
        else:
            made = [
                f"Of {a.entity} and {last.entity}, {answer} has the {noun} {self._owner().value}."
                for noun in last.relation.nouns
            ]
        return tuple(dict.fromkeys(capital(claim) for claim in made))


def chains(facts: Sequence[Fact], hops: int) -> Iterator[tuple[Fact, ...]]:
    """Every path of `hops` facts in which the value of one is the entity of the next."""
    about: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        about[fact.entity].append(fact)

    def follow(path: tuple[Fact, ...]) -> Iterator[tuple[Fact, ...]]:
        if len(path) == hops:
            yield path
            return
        if isinstance(path[-1].relation.values, str):
            for fact in about[path[-1].value]:
                yield from follow((*path, fact))

    for fact in facts:
        yield from follow((fact,))


def chain(path: tuple[Fact, ...]) -> Relating:
    return Relating("chain", path, path[-1].value, path[-1].options, path[-1].bits)


def relate(
    facts: Sequence[Fact], seed: int, *, kinds: Sequence[Kind] = ALL, among: Sequence[Fact] = ()
) -> list[Relating]:
    """Every relation of the wanted kinds between `facts`, in a seeded order.

    Args:
        among: The facts in which "the one whose ..." must single out one entity; `facts` themselves if empty.
    """
    rng = random.Random(seed)
    shuffled = list(facts)
    rng.shuffle(shuffled)
    made = list(_leading(shuffled, among or facts, rng, frozenset(kinds)))
    made += _compared(shuffled, rng, frozenset(kinds))
    rng.shuffle(made)
    return made


def _leading(
    facts: list[Fact], among: Sequence[Fact], rng: random.Random, kinds: frozenset[str]
) -> Iterator[Relating]:
    """Chains, verifications of chains, inverses."""
    if kinds & {"chain", "verify"}:
        for path in chains(facts, 2):
            last = path[-1]
            others = [value for value in last.options if value != last.value]
            if "chain" in kinds:
                yield chain(path)
            if "verify" in kinds and others:
                true = rng.random() < 0.5  # so that yes and no are alike
                shown = last.value if true else rng.choice(others)
                yield Relating("verify", path, "yes" if true else "no", ("yes", "no"), 1.0, shown)
    if "inverse" in kinds:
        holders: dict[tuple[str, str], set[str]] = defaultdict(set)
        for fact in (*among, *facts):
            holders[fact.relation.name, fact.value].add(fact.entity)
        about: dict[str, list[Fact]] = defaultdict(list)
        for fact in facts:
            about[fact.entity].append(fact)
        for fact in facts:
            # only a name singles out: many people play the violin, in this document or the next
            if fact.relation.values in KINDS and len(holders[fact.relation.name, fact.value]) == 1:
                for other in about[fact.entity]:
                    if other.relation.name != fact.relation.name:
                        yield Relating("inverse", (fact, other), other.value, other.options, other.bits)


def _compared(facts: list[Fact], rng: random.Random, kinds: frozenset[str]) -> Iterator[Relating]:
    """Same or not, which of both, and earlier: pairs of facts, each with the next few of its kind."""
    groups: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.relation.name].append(fact)
    for group in groups.values():
        for a, b in _pairs(group):
            sort = len(a.options)
            if "same" in kinds and 1 < sort < len(values.YEARS):  # two of 256 years hardly ever agree
                alike = a.value == b.value
                share = 1 / sort if alike else 1 - 1 / sort
                yield Relating("same", (a, b), "yes" if alike else "no", ("yes", "no"), -math.log2(share))
            if "which" in kinds and a.value != b.value:
                yield Relating("which", (a, b), rng.choice((a, b)).entity, (a.entity, b.entity), 1.0)
    if "earlier" in kinds:
        for a, b in _pairs([fact for fact in facts if fact.relation.values is values.YEARS]):
            if a.value != b.value:
                first = min(a, b, key=lambda fact: int(fact.value))
                yield Relating("earlier", (a, b), first.entity, (a.entity, b.entity), 1.0)


def _pairs(group: Sequence[Fact]) -> Iterator[tuple[Fact, Fact]]:
    """Each unordered pair at most once, each member with the next `PARTNERS` around the ring."""
    seen: set[frozenset[str]] = set()
    for step in range(1, PARTNERS + 1):
        for index, fact in enumerate(group):
            other = group[(index + step) % len(group)]
            pair = frozenset((fact_id(fact), fact_id(other)))
            if fact.entity != other.entity and pair not in seen:
                seen.add(pair)
                yield fact, other
