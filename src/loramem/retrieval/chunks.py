"""Chunks of whole records: what retrieval finds and puts into the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loramem.sources.types import Document, Record

Limit = tuple[Callable[[str], int], int]
"""(counter of tokens, most tokens a chunk may have by that counter)."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one document.

    Attributes:
        id: `DOCUMENT#NUMBER`.
        text: The records' texts, joined by newlines.
        cases: Ids of its records.
        over: It is one record that breaks a limit by itself; counted wherever it is used.
    """

    id: str
    text: str
    cases: tuple[str, ...]
    over: bool = False


def chunk_records(documents: Sequence[Document], limits: Sequence[Limit]) -> list[Chunk]:
    """Cut documents into chunks that keep every limit, never through a record; nothing is lost.

    Token counts are those of the joined text, by every counter: the base's, and the embedder's own, so
    that an embedder never silently reads a part of a chunk (PITFALLS 22, 46).
    """
    chunks: list[Chunk] = []
    for document in documents:
        held: list[Record] = []
        number = 0

        def fits(records: list[Record]) -> bool:
            text = "\n".join(record.text for record in records)
            return all(count(text) <= most for count, most in limits)

        def close(records: list[Record], document: Document = document) -> None:
            nonlocal number
            text = "\n".join(record.text for record in records)
            cases = tuple(record.id for record in records)
            chunks.append(Chunk(f"{document.id}#{number}", text, cases, over=not fits(records)))
            number += 1

        for record in document.records:
            if held and not fits([*held, record]):
                close(held)
                held = []
            held.append(record)
        if held:
            close(held)
    return chunks
