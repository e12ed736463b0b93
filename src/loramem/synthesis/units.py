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
        lead: What stands before every question about the document (a paper's id), empty for most.
    """

    id: str
    document: Document
    span: tuple[int, int]
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
        found.append(Unit(name, document, span, (leads or {}).get(document.id, "")))
    return found


def as_units(documents: tuple[Document, ...] | list[Document]) -> list[Unit]:
    """Whole documents as units."""
    return [Unit(document.id, document, (0, len(document.text))) for document in documents]
