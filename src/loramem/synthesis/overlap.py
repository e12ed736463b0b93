"""Overlap: how much of what is asked (probes) stands already in what is learnt (supervision).

A score on questions that were trained on says nothing about what else was learnt, so the overlap is always measured and
reported, and supervision that holds questions of the probes word for word is refused (`guard`) unless that was asked for.
Four measures, from strict to loose; each finds for a probe the example that is most like its question:

- `exact`: the prompt of an example is the question, however it is spelt (`metrics.text.same`);
- `ngram`: n words in a row of the question stand in an example's prompt and answer; of a question shorter than n words
  (most are), the whole of it does;
- `near`: a prompt is nearly the question, by `rapidfuzz` on the words as they stand or in alphabetical order;
- `embedding`: a prompt means the same, by the cosine of their embeddings.

The last two want the same names and numbers on both sides (`particulars`): "the phone number of Ada Bell" and "of Ada Ball"
are alike to any such measure, and are two questions. That a question names its document ("[Paper ID: 3] ...") hides no
match; only if two questions name different ones, and belong to different documents, they are different questions.

Training on the document's own words is what a memory is for. A probe in `trained` wording that stands in nothing but such
examples (generator `source`) is therefore counted apart, as `intended`. Everything else counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loramem.core.errors import InputError
from loramem.metrics.text import same, words
from loramem.sources.types import OUTSIDE, Probe
from loramem.synthesis.dedupe import blocks, near, particulars
from loramem.synthesis.supervision import Example

OVERLAP_VERSION = 1
"""Raised when a measure changes: results that were kept are then measured again."""
SHOWN = 20
"""Examples of each measure in a report."""
_LEAD = re.compile(
    r"\s*(?:\[(?:paper|report)\s+id:?\s*([^\]\s]+)\s*\]|in\s+the\s+paper\s+id\s+(\S+?),(?=\s)|in\s+report\s+(\d+)[:,])\s*",
    re.IGNORECASE,
)

Owners = dict[tuple[str, str, bool], int]
"""Where something is learnt: (document it names, document it was made from, written by a generator) -> first example."""
Candidate = tuple[float, str, Owners]
"""What may be a probe's question: (score, what is shared, where)."""


class Embeds(Protocol):
    """What is asked of an embedder (`retrieval.embed.Embedder`): unit vectors, one per text."""

    name: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Hit:
    """A probe whose question is learnt.

    Attributes:
        probe, question: Its id and prompt.
        example: Index of the example it was found in.
        generator: Who wrote that example.
        shared: The example's prompt; for `ngram` the words in common.
        score: How alike they are: 0 to 100 for `near`, a cosine for `embedding`, 1 for the others.
    """

    probe: str
    question: str
    example: int
    generator: str
    shared: str
    score: float


@dataclass(frozen=True)
class Measure:
    """What one measure found: `hits` count, `intended` do not."""

    threshold: float
    hits: tuple[Hit, ...] = ()
    intended: tuple[Hit, ...] = ()

    @property
    def count(self) -> int:
        return len(self.hits)


@dataclass(frozen=True)
class Overlap:
    """How much of what is asked is learnt.

    Attributes:
        probes: Probes that ask something; shares are of these.
        examples: Examples they were looked for in.
        embedding, embedder: None where that was not measured.
    """

    probes: int
    examples: int
    exact: Measure
    ngram: Measure
    near: Measure
    embedding: Measure | None = None
    embedder: str | None = None

    def as_dict(self) -> dict:
        """Numbers, thresholds and at most `SHOWN` hits per measure, fit for JSON; shares are None without probes."""
        found: dict = {"probes": self.probes, "examples": self.examples, "embedder": self.embedder}
        for name in ("exact", "ngram", "near", "embedding"):
            measure: Measure | None = getattr(self, name)
            found[name] = measure and {
                "count": measure.count,
                "share": measure.count / self.probes if self.probes else None,
                "intended": len(measure.intended),
                "threshold": measure.threshold,
                "pairs": [
                    {
                        "probe": hit.probe, "question": _cut(hit.question), "example": hit.example,
                        "generator": hit.generator, "shared": _cut(hit.shared), "score": round(hit.score, 4),
                    }
                    for hit in measure.hits[:SHOWN]
                ],
            }  # fmt: skip
        return found


def overlap(
    examples: Sequence[Example],
    probes: Sequence[Probe],
    *,
    embedder: Embeds | None = None,
    n: int = 13,
    ratio: float = 90.0,
    cosine: float = 0.95,
) -> Overlap:
    """Measure the overlap of supervision and probes.

    Statements that are to be continued (`compare`, `continue`) are questions like any other: prompts of all forms are
    compared. Examples without a prompt (`text`) can have an `ngram` only. Probes about nothing the source holds (`OUTSIDE`)
    are left out, of the number of probes too: no score of a memory rests on them.

    Args:
        embedder: None: `embedding` is not measured.
        n: Words in a row for `ngram`.
        ratio: Least similarity for `near`, of 100.
        cosine: Least cosine for `embedding`.

    Raises:
        InputError: a threshold out of its range.
    """
    if n < 1 or not 0 < ratio <= 100 or not 0 < cosine <= 1:
        raise InputError(f"overlap: n {n}, ratio {ratio}, cosine {cosine}; allowed: from 1, (0, 100], (0, 1]")
    probes = [probe for probe in probes if probe.phrasing not in OUTSIDE]
    asked: dict[str, list[int]] = {}  # numbers of probes by what they ask
    bared = [bare(probe.prompt) for probe in probes]
    for number, (question, _) in enumerate(bared):
        asked.setdefault(same(question), []).append(number)
    asked.pop("", None)
    learnt: dict[str, tuple[str, Owners]] = {}  # prompts, and where they stand
    for index, example in enumerate(examples):
        prompt, lead = bare(example.prompt)
        learnt.setdefault(same(prompt), (prompt, {}))[1].setdefault(_owner(example, lead), index)
    learnt.pop("", None)

    def measure(threshold: float, found: Iterable[tuple[str, list[Candidate]]]) -> Measure:
        """Each probe's hit, from the candidates found for each question."""
        best: dict[int, tuple[Hit, bool]] = {}
        for key, candidates in found:
            for number in asked[key]:
                if hit := _best(probes[number], bared[number][1], candidates, examples):
                    best[number] = hit
        order = [best[number] for number in sorted(best)]
        counted = tuple(hit for hit, intended in order if not intended)
        return Measure(threshold, counted, tuple(hit for hit, intended in order if intended))

    keys, known = list(asked), list(learnt.values())
    questions, prompts = [bared[asked[key][0]][0] for key in keys], [prompt for prompt, _ in known]

    def named(pairs: Iterable[tuple[int, list[tuple[float, int]]]]) -> Iterator[tuple[str, list[Candidate]]]:
        for row, found in pairs:
            yield keys[row], [(score, *known[column]) for score, column in found]

    alike = None
    if embedder is not None:
        alike = measure(cosine, named(_by_meaning(questions, prompts, embedder, cosine)))
    return Overlap(
        probes=sum(map(len, asked.values())),
        examples=len(examples),
        exact=measure(1.0, ((key, [(1.0, *learnt[key])]) for key in keys if key in learnt)),
        ngram=measure(n, _in_a_row(dict(zip(keys, questions, strict=True)), examples, n)),
        near=measure(ratio, named(near(questions, prompts, ratio))),
        embedding=alike,
        embedder=embedder.name if embedder else None,
    )


def guard(overlap: Overlap, *, allow: int = 0) -> None:
    """Refuse supervision that holds questions of the probes word for word.

    Raises:
        InputError: more `exact` matches than `allow`; it names up to three, and how to allow them.
    """
    found = overlap.exact.hits
    if len(found) <= allow:
        return
    shown = "; ".join(
        f"probe {hit.probe!r} ({_cut(hit.question, 80)!r}) is example {hit.example + 1}, by {hit.generator}" for hit in found[:3]
    )  # fmt: skip
    raise InputError(
        f"the supervision holds the questions of {len(found)} of {overlap.probes} probes, and {allow} are allowed: {shown}"
        f"{' and others' if len(found) > 3 else ''}. Scores on them would not show what else was learnt; leave these examples out, "
        f"or train on them knowingly with allow_overlap: {len(found)}"
    )


def bare(question: str) -> tuple[str, str]:
    """A question without the document it names in front, and that document's id; empty where it names none.

    >>> bare("[Paper ID: 3] What is it?"), bare("In the Paper ID 3, what is it?"), bare("In report 3: what is it?")
    (('What is it?', '3'), ('what is it?', '3'), ('what is it?', '3'))
    """
    match = _LEAD.match(question)
    if not match or match.end() == len(question):
        return question, ""
    return question[match.end() :], (match[1] or match[2] or match[3]).casefold()


def _by_meaning(
    questions: Sequence[str], prompts: Sequence[str], embedder: Embeds, cosine: float
) -> Iterator[tuple[int, list[tuple[float, int]]]]:
    """As `near`, by the cosine of embeddings."""
    if not questions or not prompts:
        return
    mine, theirs = [particulars(q) for q in questions], [particulars(p) for p in prompts]
    vectors_PD, vectors_QD = embedder.embed(prompts), embedder.embed(questions)
    for block in blocks(range(len(questions)), len(prompts)):
        for row, scores_P in zip(block, vectors_QD[block] @ vectors_PD.T, strict=True):
            inside = set(words(questions[row]))
            close = [int(p) for p in np.flatnonzero(scores_P >= cosine - 1e-6) if theirs[p] <= inside]
            found = [(float(scores_P[p]), p) for p in close if mine[row] <= set(words(prompts[p]))]
            if found:
                yield row, sorted(found, key=lambda pair: (-pair[0], pair[1]))


def _in_a_row(
    questions: dict[str, str], examples: Sequence[Example], n: int
) -> Iterator[tuple[str, list[Candidate]]]:
    """(key, [where its words stand, ...]) of questions of which `n` words in a row, or all if fewer, are learnt.

    Each such sequence is looked up where its rarest word stands, so an example is read once.
    """
    sought: dict[str, list[tuple[str, ...]]] = {}
    for key, question in questions.items():
        if own := words(question):
            sought[key] = [tuple(own[at : at + n]) for at in range(max(1, len(own) - n + 1))]
    owners: dict[tuple[str, ...], Owners] = {sequence: {} for found in sought.values() for sequence in found}
    common = Counter(word for sequence in owners for word in set(sequence))
    anchors: dict[str, set[tuple[int, int]]] = {}  # rarest words: their place in a sequence, its length
    for sequence in owners:
        place = min(range(len(sequence)), key=lambda at: common[sequence[at]])
        anchors.setdefault(sequence[place], set()).add((place, len(sequence)))
    for index, example in enumerate(examples):
        prompt, lead = bare(example.prompt)
        text = words(prompt) + words(example.answer)
        for at, word in enumerate(text):
            for start, length in (
                (at - place, length) for place, length in anchors.get(word, ()) if place <= at
            ):
                if (known := owners.get(tuple(text[start : start + length]))) is not None:
                    known.setdefault(_owner(example, lead), index)
    for key, sequences in sought.items():
        yield key, [(1.0, " ".join(seq), owners[seq]) for seq in sequences if owners[seq]]


def _best(
    probe: Probe, lead: str, candidates: Iterable[Candidate], examples: Sequence[Example]
) -> tuple[Hit, bool] | None:
    """The best example that counts, else the best that is intended (and True); None where all are about another document."""
    intended = None
    for score, shared, owners in candidates:
        for (other, document, written), index in owners.items():
            if lead and other and lead != other and document != probe.document:
                continue
            hit = Hit(probe.id, probe.prompt, index, examples[index].generator, shared, score)
            if written or probe.phrasing != "trained":
                return hit, False
            intended = intended or (hit, True)
    return intended


def _owner(example: Example, lead: str) -> tuple[str, str, bool]:
    return lead, example.document, example.generator != "source"


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
