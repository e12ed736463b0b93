"""Units: what a generator reads at once, and what the numbers of a recipe count for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from loramem.sources.chunking import Part
from loramem.sources.types import Document


@dataclass(frozen=True)
class Unit:
    """A document, or the piece of one that a module learns.

    Attributes:
        id: The document's id; for a piece `DOCUMENT#START-END`.
        document: The records of the piece under the document's own id.
        span: Characters of the piece in the whole document's `text`.
        places: Characters of each of its records there.
        lead: What stands before every question about the document (a paper's id), empty for most.
    """

    id: str
    document: Document
    span: tuple[int, int]
    places: tuple[tuple[int, int], ...]
    lead: str = ""

    @cached_property
    def text(self) -> str:
        return self.document.text

    def with_lead(self, lead: str) -> Unit:
        return replace(self, lead=lead)


def units_of(part: Part, whole: dict[str, Document], leads: dict[str, str] | None = None) -> list[Unit]:
    """The units of a part of a source: `qa:40` is forty pairs for each.

    Args:
        whole: The source's documents by id; a unit that is one of them keeps its id.
        leads: `Unit.lead` by document.
    """
    found = []
    for document, span in zip(part.documents, part.spans, strict=True):
        entire = span == (0, len(whole[document.id].text))
        name = document.id if entire else f"{document.id}#{span[0]}-{span[1]}"
        places = _places(document, whole[document.id], span[0])
        found.append(Unit(name, document, span, places, (leads or {}).get(document.id, "")))
    return found


def as_units(documents: tuple[Document, ...] | list[Document]) -> list[Unit]:
    """Whole documents as units."""
    return [Unit(d.id, d, (0, len(d.text)), _places(d, d, 0)) for d in documents]


def _places(piece: Document, whole: Document, start: int) -> tuple[tuple[int, int], ...]:
    """Where each record of a piece that begins at `start` stands in the whole document's text.

    A piece may begin between two records, and what is never cut may begin before it, so its own text does not tell.
    """
    at, begins = 0, {}
    for record in whole.records:
        begins[record.id] = at
        at += len(record.text) + 1
    first = [max(begins[r.id], start) if r.form == "text" else begins[r.id] for r in piece.records]
    return tuple((begin, begin + len(r.text)) for begin, r in zip(first, piece.records, strict=True))
