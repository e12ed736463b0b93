"""What a teacher reads: every example after the piece of its document that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loramem.base.prompts import Encoded, PromptBuilder
from loramem.core.errors import InputError
from loramem.retrieval.chunks import chunk_records
from loramem.sources.types import Document
from loramem.synthesis.supervision import Supervision, encode

SLACK = 16
"""Tokens left free for what joins a context and a question."""


@dataclass(frozen=True)
class TeacherForms:
    """Examples as a teacher reads them.

    Attributes:
        examples: In the order of the supervision; the answer's tokens are the student's.
        pieces: Different contexts among them.
        cut_tokens: Context tokens that did not fit and were cut at their end, over all examples.
    """

    examples: tuple[Encoded, ...]
    pieces: int
    cut_tokens: int


def teacher_forms(
    supervision: Supervision,
    documents: Sequence[Document],
    prompts: PromptBuilder,
    *,
    context_tokens: int | None = None,
) -> TeacherForms:
    """Every example with its context before it: its own (`Example.context`), else the piece of its document.

    A document is cut into pieces of whole records that leave room for the longest example; an example reads the piece
    that holds its record, or the first one where it was made from the document as a whole.

    Raises:
        InputError: an example without a context, or a question that leaves no room for one.
    """
    longest = max((len(encode(example, prompts).ids) for example in supervision.examples), default=0)
    room = prompts.context_length - longest - SLACK
    if context_tokens is not None:
        room = min(room, context_tokens)
    if room < 1:
        raise InputError(
            f"objective dcd: an example of {longest} tokens leaves no room for a context in the base's {prompts.context_length}"
        )
    by_record: dict[tuple[str, str], str] = {}
    by_document: dict[str, str] = {}
    for document in documents:
        for chunk in chunk_records([document], [(prompts.count, room)]):
            by_document.setdefault(document.id, chunk.text)
            by_record |= {(document.id, case): chunk.text for case in chunk.cases}
    fitted: dict[str, tuple[str, int]] = {}
    found, cut = [], 0
    for number, example in enumerate(supervision.examples, start=1):
        context = example.context or by_record.get(
            (example.document, example.record), by_document.get(example.document, "")
        )
        if not context.strip():
            raise InputError(
                f"objective dcd: example {number} has no context, and its document {example.document!r} is not at hand; give each row a 'context'"
            )
        if context not in fitted:
            fitted[context] = prompts.cut(context, room)
        text, lost = fitted[context]
        if not text.strip():
            raise InputError(
                f"objective dcd: nothing of the context of example {number} is left within {room} tokens"
            )
        cut += lost
        found.append(encode(example, prompts, text))
    return TeacherForms(tuple(found), len(fitted), cut)
