"""What a source is: documents made of records, and the probes asked of a memory of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from loramem.core.identity import digest

Phrasing = Literal[
    "trained", "heldout", "paraphrase", "neighbour", "reverse", "negated", "generation", "unrelated", "stranger"
]  # fmt: skip
OUTSIDE = ("unrelated", "stranger")
"""Phrasings of probes about nothing the source holds: what a module does to other questions, and whether a router sees that
nothing fits."""
ProbeKind = Literal["generate", "compare", "choice", "continue", "passage"]


@dataclass(frozen=True)
class Record:
    """The smallest piece of knowledge that is never cut: a phonebook line, an edited statement, an article.

    Attributes:
        id: Unique in its source; for CounterFact the case id.
        text: What a reader would see in a document (and what ICL and RAG put in the context).
        form: `chat` (a question answered in a turn), `cloze` (a prompt continued by a target), or `text`.
        prompt, answer: The question and its answer, or the cloze prompt and its target without the
            leading space; both empty for `text`.
        bits: Information of the answer given the question, log2 of the declared value set; None if unknown.
        span: Characters of the document's own text that this record is; None where it has none of its own.
    """

    id: str
    text: str
    form: Literal["chat", "cloze", "text"] = "text"
    prompt: str = ""
    answer: str = ""
    bits: float | None = None
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Document:
    """Records in one fixed order. `text` joins them by newlines.

    Attributes:
        summary: The gold summary of the whole document, where the source has one; a part of a document keeps it. It is in no
            identity: nothing is learnt from it, and what reads it says so in its own.
    """

    id: str
    records: tuple[Record, ...]
    title: str = ""
    summary: str = ""

    @property
    def text(self) -> str:
        return "\n".join(record.text for record in self.records)


@dataclass(frozen=True)
class Probe:
    """One thing asked of a memory.

    Attributes:
        id: Unique in its source.
        case: The record it belongs to (`Record.id`): controls and edits are joined by it, never by subject.
        document: The document it belongs to.
        kind: `generate` (answer in words), `compare` (which target is likelier), `choice` (options),
            `continue` (free text after a plain prompt: how fluent, how consistent), `passage` (plain text that is read, not
            answered: how far next-token distributions are from the base's).
        phrasing: `trained` words, or `heldout`, `paraphrase`, `neighbour`; `reverse` asks for the subject,
            `negated` asks for what is not so, `generation` lets the model go on; `OUTSIDE` ones have no record here.
        prompt: The question (asked in the user turn) or, for `compare`, the cloze prompt (plain text).
        answers: Gold answers of a `generate` probe. For `compare`: (new target, true target), without
            leading space. For `choice`: the options. For `continue`: reference texts, none where unknown. For `passage`: none.
        gold: Index of the right answer for `choice` and, for `compare`, of the target that should win
            (0, the new one; 1, the true one, for neighbours).
        level: e.g. recall, comprehension, multi-hop; empty where there is one level only.
        bits: As in `Record`.
        hard: Member of the published hard subset.
        fact: What counts as one thing known, in every wording of it; empty: the record does. Several questions may rest on one
            record, and of published questions the record is often unknown.
    """

    id: str
    case: str
    document: str
    kind: ProbeKind
    phrasing: Phrasing
    prompt: str
    answers: tuple[str, ...]
    gold: int = 0
    level: str = ""
    bits: float | None = None
    hard: bool = False
    fact: str = ""

    @property
    def known(self) -> str:
        """The fact it asks for: what scores are averaged, drawn and paired by."""
        return self.fact or self.case


@dataclass(frozen=True)
class Source:
    """Documents and probes under one name, with how they came about.

    Attributes:
        name: Registry name, e.g. `phonebook`.
        settings: What it was made from; part of its identity and of every report.
        size_tokens: The requested size in tokens of the base; None where size does not apply.
        notes: Counts worth showing, e.g. rows skipped and why, facts no evaluation file asks about.
    """

    name: str
    documents: tuple[Document, ...]
    probes: tuple[Probe, ...]
    settings: dict = field(default_factory=dict)
    size_tokens: int | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Content identity: documents and probes, not the path they were read from."""
        return digest([self.documents_hash, self.probes_hash])

    @cached_property
    def documents_hash(self) -> str:
        """Identity of what can be learnt or read."""
        return digest(
            [
                [d.id, d.title, [[r.id, r.text, r.form, r.prompt, r.answer] for r in d.records]]
                for d in self.documents
            ]
        )

    @cached_property
    def probes_hash(self) -> str:
        """Identity of what is asked, and of what counts as right."""
        return digest(
            [[p.id, p.case, p.kind, p.phrasing, p.prompt, list(p.answers), p.gold] for p in self.probes]
        )

    @cached_property
    def records(self) -> list[Record]:
        return [record for document in self.documents for record in document.records]

    @property
    def text(self) -> str:
        """Its documents, one after another."""
        return "\n".join(document.text for document in self.documents)

    def about(self, documents: Sequence[Document]) -> tuple[Probe, ...]:
        """The probes whose record lies in `documents`."""
        cases = {record.id for document in documents for record in document.records}
        return tuple(probe for probe in self.probes if probe.case in cases)

    def with_notes(self, *notes: str) -> Source:
        return replace(self, notes=self.notes + notes)
