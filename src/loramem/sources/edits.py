"""An edit: the one form into which every CounterFact file is read, and from which records and probes are made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loramem.sources.slicing import spread
from loramem.sources.types import Document, Phrasing, Probe, Record, Source


@dataclass(frozen=True)
class Edit:
    """A fact to be written against what the base knows.

    Attributes:
        case_id: Unique; probes and controls are joined by it, never by subject (PITFALLS 14).
        subject: Whom the fact is about.
        prompt: Cloze prompt with the subject filled in.
        target_new, target_true: The edited and the true completion, without leading space.
        paraphrases: Other prompts for the same fact.
        neighbours: (prompt about another subject, its true target).
        bits: log2 of the value set, where known.
        generations: Prompts after which the model goes on freely (ROME's generation_prompts).
        references: Texts about others that truly have the new value; what is generated should resemble them.
    """

    case_id: str
    subject: str
    prompt: str
    target_new: str
    target_true: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()
    bits: float | None = None
    generations: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def statement(self) -> str:
        return f"{self.prompt} {self.target_new}"


_LAST_SENTENCE = re.compile(r"(.*\?\s+|)(.*)", re.DOTALL)
# fmt: off
_OPENERS = frozenset((
    "Above", "The", "A", "An", "As", "It", "For", "Ask", "In", "Under", "At", "By", "On", "To", "From", "Through", "With", "Each", "Nothing", "Readers", "They", "He", "She",
))
# fmt: on


def negated(prompt: str) -> str:
    """The prompt under a negation: who has learnt the edit should no longer complete it with the new target.

    A question that stands before the prompt proper is kept as it is.

    >>> negated("The home town of Chis Nari is"), negated("Chis Nari lives in")
    ('It is not true that the home town of Chis Nari is', 'It is not true that Chis Nari lives in')
    >>> negated("What sport does X play? They play")
    'What sport does X play? It is not true that they play'
    """
    before, sentence = _LAST_SENTENCE.fullmatch(prompt).groups()  # type: ignore[union-attr]
    first, space, rest = sentence.partition(" ")
    return f"{before}It is not true that " + (first.lower() if first in _OPENERS else first) + space + rest


def edit_source(
    edits: Sequence[Edit],
    *,
    size: int,
    settings: dict,
    notes: tuple[str, ...] = (),
    generations: int = 0,
    beyond: int | None = None,
) -> Source:
    """One document of edited statements. Every edit is asked at its trained prompt, `beyond` of them (spread over the
    statements) also at their paraphrases, neighbours and negation, and `generations` let the model go on freely.

    A neighbour that is itself edited in this slice has no true answer any more; it is left out and counted.
    """
    name = f"counterfact-{size}"
    edited = {edit.prompt for edit in edits}
    records = tuple(Record(e.case_id, e.statement, "cloze", e.prompt, e.target_new, e.bits) for e in edits)
    probes: list[Probe] = []
    dropped = 0

    def compare(
        edit: Edit, tag: str, phrasing: Phrasing, prompt: str, gold: int, true: str | None = None
    ) -> None:
        answers = (edit.target_new, true or edit.target_true)
        bits = edit.bits if gold == 0 else None
        probes.append(
            Probe(
                f"{edit.case_id}-{tag}",
                edit.case_id,
                name,
                "compare",
                phrasing,
                prompt,
                answers,
                gold,
                bits=bits,
            )
        )

    asked_more = spread([edit.case_id for edit in edits], beyond)
    for edit in edits:
        compare(edit, "trained", "trained", edit.prompt, 0)
        if edit.case_id not in asked_more:
            continue
        for number, prompt in enumerate(edit.paraphrases):
            compare(edit, f"paraphrase-{number}", "paraphrase", prompt, 0)
        for number, (prompt, true) in enumerate(edit.neighbours):
            if prompt in edited or true == edit.target_new:
                dropped += 1
                continue
            compare(edit, f"neighbour-{number}", "neighbour", prompt, 1, true)
        compare(edit, "negated", "negated", negated(edit.prompt), 1)
    free = [edit for edit in edits if edit.generations]
    going_on = spread([edit.case_id for edit in free], generations)
    for edit in [edit for edit in free if edit.case_id in going_on]:
        for number, prompt in enumerate(edit.generations):
            identity = f"{edit.case_id}-generation-{number}"
            probes.append(
                Probe(identity, edit.case_id, name, "continue", "generation", prompt, edit.references)
            )
    counts = (
        f"{len(edits)} edits asked at their prompt, {len(asked_more)} also at paraphrases, neighbours and negation; "
        f"{dropped} neighbours left out because the slice edits them"
    )
    return Source("counterfact", (Document(name, records),), tuple(probes), settings, size, (counts, *notes))
