"""Questions about how a document is built: its parts, what stands where, what is told first.

Their answers follow from the order of the facts alone, and the question names the document by its subject, so
that it stays clear without an id.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from loramem.sources.almanac.telling import Telling
from loramem.sources.almanac.world import Fact

PARTS = (3, 4)
"""A document has one of these numbers of parts ..."""
PART_FACTS = (4, 5)
"""... and each part one of these numbers of facts, both drawn uniformly."""
ORDER = (
    "parts", "size", "where", "before", "opening", "position", "next", "where", "before", "size",
    "position", "next", "where", "before",
)  # fmt: skip
"""Kinds of question in the order in which they are taken."""

# (trained, held out); {t} is the document's subject, {x} and {y} facts ("the pet of Ada Lorn"), {p} a part
FRAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "parts": (
        ("How many parts does the report on {t} have?", "The report on {t} has how many parts?"),
        ("Into how many parts is the report on {t} divided?", "Count the parts of the report on {t}."),
    ),
    "size": (
        ("How many facts does part {p} of the report on {t} state?", "In the report on {t}, how many facts are in part {p}?"),
        ("Count the facts of part {p} in the report on {t}.", "Part {p} of the report on {t} holds how many facts?"),
    ),
    "where": (
        ("Which part of the report on {t} states {x}?", "In which part of the report on {t} is {x} stated?"),
        ("Where in the report on {t} does one read {x}?", "To find {x} in the report on {t}, which part must one open?"),
    ),
    "before": (
        ("Which comes first in the report on {t}, {x} or {y}?", "In the report on {t}, which is stated first: {x} or {y}?"),
        ("Reading the report on {t} from its beginning, does one meet {x} or {y} sooner?", "Of {x} and {y}, which stands higher up in the report on {t}?"),
    ),
    "opening": (
        ("About whom or what is the first fact of part {p} of the report on {t}?", "With whom or what does part {p} of the report on {t} begin?"),
        ("Name the subject that opens part {p} of the report on {t}.", "Part {p} of the report on {t} starts by speaking of whom or what?"),
    ),
    "position": (
        ("Within its part of the report on {t}, at which place is {x} stated?", "Counting from the start of its part of the report on {t}, which number is {x}?"),
        ("Number the facts of each part of the report on {t}: which number does {x} get?", "At what rank within its part does the report on {t} state {x}?"),
    ),
    "next": (
        ("In the report on {t}, which value is given right after {x}?", "Which value follows {x} in the report on {t}?"),
        ("Name the value that the report on {t} states next once {x} is told.", "Just behind {x}, what does the report on {t} give as value?"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Structural:
    """A question about structure: slots of its frames, answers, and the records it rests on (by index)."""

    kind: str
    slots: dict[str, str]
    answers: tuple[str, ...]
    bits: float
    records: tuple[int, ...]

    def questions(self, held: bool) -> tuple[str, ...]:
        return tuple(frame.format(**self.slots) for frame in FRAMES[self.kind][held])


def _named(fact: Fact, rng: random.Random) -> str:
    return f"the {rng.choice(fact.relation.nouns)} of {fact.entity}"


def structural(telling: Telling, subject: str, rng: random.Random, count: int) -> list[Structural]:
    """At most `count` different questions about the structure of `telling`, kinds in turn."""
    makers = {kind: iter(_candidates(kind, telling, subject, rng)) for kind in FRAMES}
    found: list[Structural] = []
    for kind in (*ORDER, *FRAMES) * (count + 1):
        if len(found) == count:
            break
        made = next(makers[kind], None)
        if made is not None:
            found.append(made)
    return found


def _candidates(kind: str, telling: Telling, subject: str, rng: random.Random) -> Sequence[Structural]:
    told, parts = telling.told, telling.sections
    first = {part: next(i for i, one in enumerate(told) if one.section == part) for part in parts}
    order = rng.sample(range(len(told)), len(told))
    by_part = rng.sample(parts, len(parts))

    def ask(answers: tuple[str, ...], bits: float, *records: int, **slots: str) -> Structural:
        return Structural(kind, {"t": subject, **slots}, answers, bits, records)

    def name(index: int) -> str:
        return _named(told[index].fact, rng)

    if kind == "parts":
        return [ask((str(len(parts)),), math.log2(len(PARTS)), first[parts[-1]])]
    if kind == "size":
        sizes = {part: len(telling.section(part)) for part in parts}
        bits = math.log2(len(PART_FACTS))
        return [ask((str(sizes[part]),), bits, first[part], p=str(part)) for part in by_part]
    if kind == "where":
        bits = math.log2(len(parts))
        said = [(str(told[i].section), f"part {told[i].section}") for i in order]
        return [ask(answers, bits, i, x=name(i)) for i, answers in zip(order, said, strict=True)]
    if kind == "opening":
        subjects = len({one.fact.entity for one in told})
        return [
            ask((told[first[part]].fact.entity,), math.log2(subjects), first[part], p=str(part))
            for part in by_part
        ]
    if kind == "position":
        made = []
        for i in order:
            size = len(telling.section(told[i].section))
            made.append(ask((str(i - first[told[i].section] + 1),), math.log2(size), i, x=name(i)))
        return made
    if kind == "next":
        pairs = [(i, i + 1) for i in order if i + 1 < len(told)]
        return [ask((told[j].fact.value,), told[j].fact.bits, i, j, x=name(i)) for i, j in pairs]
    made = []
    for i, j in zip(order[::2], order[1::2], strict=False):  # each fact once
        x, y = name(i), name(j)
        made.append(ask((x if i < j else y,), 1.0, i, j, x=x, y=y))
    return made
