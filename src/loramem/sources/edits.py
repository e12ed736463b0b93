"""An edit: the one form into which every CounterFact file is read, and from which records and probes are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loramem.sources.types import Document, Probe, Record, Source


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


# fmt: off
_OPENERS = frozenset((
    "Above", "The", "A", "An", "As", "It", "For", "Ask", "In", "Under", "At", "By", "On", "To", "From", "Through", "With", "Each", "Nothing", "Readers",
))
# fmt: on


def negated(prompt: str) -> str:
    """The prompt under a negation: who has learnt the edit should no longer complete it with the new target.

    >>> negated("The home town of Chis Nari is"), negated("Chis Nari lives in")
    ('It is not true that the home town of Chis Nari is', 'It is not true that Chis Nari lives in')
    """
    first, space, rest = prompt.partition(" ")
    return "It is not true that " + (first.lower() if first in _OPENERS else first) + space + rest


def edit_source(
    edits: Sequence[Edit], *, size: int, settings: dict, notes: tuple[str, ...] = (), generations: int = 0
) -> Source:
    """One document of edited statements, and per edit: the trained prompt, its paraphrases and neighbours, its
    negation, and for the first `generations` edits the prompts after which the model goes on freely.

    A neighbour that is itself edited in this slice has no true answer any more; it is left out and counted.
    """
    name = f"counterfact-{size}"
    edited = {edit.prompt for edit in edits}
    records = tuple(Record(e.case_id, e.statement, "cloze", e.prompt, e.target_new, e.bits) for e in edits)
    probes: list[Probe] = []
    dropped = 0
    for edit in edits:
        pair = (edit.target_new, edit.target_true)
        probes.append(
            Probe(
                f"{edit.case_id}-trained",
                edit.case_id,
                name,
                "compare",
                "trained",
                edit.prompt,
                pair,
                0,
                bits=edit.bits,
            )
        )
        for number, prompt in enumerate(edit.paraphrases):
            probes.append(
                Probe(
                    f"{edit.case_id}-paraphrase-{number}",
                    edit.case_id,
                    name,
                    "compare",
                    "paraphrase",
                    prompt,
                    pair,
                    0,
                    bits=edit.bits,
                )
            )
        for number, (prompt, true) in enumerate(edit.neighbours):
            if prompt in edited or true == edit.target_new:
                dropped += 1
                continue
            answers = (edit.target_new, true)
            probes.append(
                Probe(
                    f"{edit.case_id}-neighbour-{number}",
                    edit.case_id,
                    name,
                    "compare",
                    "neighbour",
                    prompt,
                    answers,
                    1,
                )
            )
        probes.append(
            Probe(
                f"{edit.case_id}-negated",
                edit.case_id,
                name,
                "compare",
                "negated",
                negated(edit.prompt),
                pair,
                1,
            )
        )
    for edit in [edit for edit in edits if edit.generations][:generations]:
        for number, prompt in enumerate(edit.generations):
            identity = f"{edit.case_id}-generation-{number}"
            probes.append(
                Probe(identity, edit.case_id, name, "continue", "generation", prompt, edit.references)
            )
    counts = f"{len(edits)} edits; {dropped} neighbours left out because the slice edits them"
    return Source("counterfact", (Document(name, records),), tuple(probes), settings, size, (counts, *notes))
