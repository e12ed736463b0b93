"""Chunks of a text, and the partition of a source into what one module each learns.

Two ways to cut: *fixed* windows of tokens that overlap (the paper's 2,048/200 and 768/77, and 512 for retrieval; arXiv
2603.01097, section 5), and by *structure*, whole sentences and paragraphs up to a limit. Both give exact
character offsets and count what they drop: the published code embeds 512 tokens of 2,048-token chunks and
trains on the first 2,048 tokens of everything (PITFALLS 6, 22, 46); here the count is measured, and is 0.

A token is what the tokenizer says it is in the *whole* text; tokenised alone, a chunk may have a few more or
fewer, which is why retrieval checks its own limits again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loramem.core.errors import InputError, nearest
from loramem.core.shown import quoted
from loramem.sources.text import Span, blocks, pack, pieces, strip
from loramem.sources.types import Document, Probe, Record, Source

Offsets = Callable[[str], Sequence[Span]]
"""text -> (start, end) characters of each token, in order."""


def offsets_of(tokenizer: Any) -> Offsets:
    """The offsets a fast Hugging Face tokenizer gives; special tokens written in the text stay ordinary text.

    Raises:
        InputError: a slow tokenizer, which knows no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} gives no offsets: chunks of tokens need a fast tokenizer"
        )

    def offsets(text: str) -> list[Span]:
        found = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )  # fmt: skip
        return [(int(a), int(b)) for a, b in found["offset_mapping"]]

    return offsets


@dataclass(frozen=True)
class Cut:
    """The chunks of one text.

    Attributes:
        spans: Characters of each chunk, in order.
        tokens: Tokens of the text.
        dropped: Tokens with a character in no chunk; measured, so that a fault in the cutting is seen.
        over: Chunks longer than the limit (a single character of more tokens than a chunk may have).
    """

    spans: tuple[Span, ...]
    tokens: int
    dropped: int = 0
    over: int = 0


@dataclass(frozen=True)
class Chunking:
    """How to cut: at most `tokens` tokens; windows share `overlap` tokens; by structure there is no overlap.

    >>> Chunking.parse("2048/200"), Chunking.parse("structure:512").structure
    (Chunking(tokens=2048, overlap=200, structure=False), True)
    """

    tokens: int
    overlap: int = 0
    structure: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.overlap < self.tokens or (self.structure and self.overlap):
            raise InputError(
                f"chunks of {self.tokens} tokens with overlap {self.overlap}: needs tokens >= 1, 0 <= overlap < tokens, "
                "and no overlap by structure"
            )

    @classmethod
    def parse(cls, text: str) -> Chunking:
        """`512`, `2048/200` (tokens/overlap) or `structure:512`. Raises `InputError` for anything else."""
        match = re.fullmatch(r"(structure:)?(\d{1,9})(?:/(\d{1,9}))?", str(text).strip())
        if not match:
            raise InputError(
                f"chunks {quoted(text)}: expected TOKENS, TOKENS/OVERLAP or structure:TOKENS, e.g. 2048/200"
            )
        return cls(int(match[2]), int(match[3] or 0), bool(match[1]))

    def cut(self, text: str, offsets: Offsets) -> Cut:
        if self.structure:
            return by_structure(text, lambda part: len(offsets(part)), self.tokens, offsets=offsets)
        return windows(text, offsets, tokens=self.tokens, overlap=self.overlap)


def _dropped(tokens: Sequence[Span], spans: Sequence[Span]) -> int:
    """Tokens that lie in no chunk, nor in a run of chunks that touch."""
    runs: list[list[int]] = []
    for start, end in spans:
        if runs and start <= runs[-1][1]:
            runs[-1][1] = max(end, runs[-1][1])
        else:
            runs.append([start, end])
    lost = place = 0
    for start, end in tokens:
        while place < len(runs) and runs[place][1] < end:
            place += 1
        lost += not (place < len(runs) and runs[place][0] <= start)
    return lost


def windows(text: str, offsets: Offsets, *, tokens: int, overlap: int = 0) -> Cut:
    """Chunks of `tokens` tokens, each beginning with the last `overlap` tokens of the one before.

    Every character is in a chunk: a chunk runs to the first character of the token after it, the first one
    starts at 0, the last one ends with the text. A character that is several tokens (an emoji) is never cut: it
    goes whole into the later chunk, so the earlier one may be a few tokens short, and an overlap a few tokens longer.

    >>> def words(text): return [match.span() for match in re.finditer(r"\\S+", text)]
    >>> text = "a b c d e"
    >>> [text[a:b] for a, b in windows(text, words, tokens=3, overlap=1).spans]
    ['a b c ', 'c d e']
    """
    Chunking(tokens, overlap)
    found = list(offsets(text))
    count = len(found)
    if count <= tokens:
        spans: list[Span] = [(0, len(text))] if text else []
        return Cut(tuple(spans), count)
    # where a chunk may begin: no earlier token reaches into this one
    free = [True] * (count + 1)
    reach = 0
    for number, (start, end) in enumerate(found):
        free[number] = number == 0 or start >= reach
        reach = max(reach, end)

    def stop_of(first: int) -> int:
        """Where the chunk that begins with token `first` stops."""
        stop = min(first + tokens, count)
        while stop > first and not free[stop]:
            stop -= 1
        # one character of more tokens than a chunk may have is a chunk of its own
        return stop if stop > first else next(n for n in range(first + 1, count + 1) if free[n])

    spans, over, first = [], 0, 0
    while (stop := stop_of(first)) < count:
        spans.append((found[first][0] if first else 0, found[stop][0]))
        over += stop - first > tokens
        following = stop - overlap
        while following > first and not free[following]:
            following -= 1
        # an overlap that brings nothing new gives way
        first = following if following > first and stop_of(following) > stop else stop
    spans.append((found[first][0] if first else 0, len(text)))
    over += count - first > tokens
    return Cut(tuple(spans), count, _dropped(found, spans), over)


def by_structure(
    text: str, count_tokens: Callable[[str], int], tokens: int, *, offsets: Offsets | None = None
) -> Cut:
    """Whole paragraphs, sentences where a paragraph is longer than `tokens`, words where a sentence is.

    A heading begins a new chunk once the current one is half full, and never ends one if it can be helped. Between two
    chunks lies white space only; a single word longer than the limit is cut between characters.
    """
    Chunking(tokens)

    def count(start: int, end: int) -> int:
        return count_tokens(text[start:end])

    parts: list[tuple[Span, bool]] = []
    for span, heading in blocks(text):
        cut = pieces(text, span, count_tokens, tokens, break_words=True)
        parts += [(piece, heading and n == 0) for n, piece in enumerate(cut)]
    spans: list[Span] = []
    group: list[Span] = []
    hold: list[Span] = []  # headings that wait for what they head

    def close() -> None:
        spans.extend(pack(group, lambda start, end: count(start, end) <= tokens))
        group.clear()

    for piece, heading in parts:
        if heading and group and count(group[0][0], group[-1][1]) * 2 >= tokens:
            close()
        if heading:
            hold.append(piece)
            continue
        room = tokens - count(hold[0][0], hold[-1][1]) if hold else tokens
        for part in (
            pieces(text, piece, count_tokens, room, break_words=True) if 0 < room < tokens else [piece]
        ):
            if group and count(group[0][0], part[1]) > tokens:
                close()
            group += [*hold, part]
            hold.clear()
    group += hold
    close()
    whole = list(offsets(text)) if offsets else None
    bare = [strip(text, *span) for span in whole or ()]  # white space between chunks is no loss
    lost = _dropped([span for span in bare if span[0] < span[1]], spans)
    over = sum(count(*span) > tokens for span in spans)
    return Cut(tuple(spans), len(whole) if whole is not None else count_tokens(text), lost, over)


# -- partition -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Part:
    """What one module learns.

    Attributes:
        id: `corpus`, the document's id, `DOCUMENT#NUMBER` for a chunk, `tokens-NUMBER` for a sector.
        documents: Documents (or the parts of them) under their own ids, so that probes find them.
        spans: For each document its characters in `Document.text` of the whole document.
    """

    id: str
    documents: tuple[Document, ...]
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "\n".join(document.text for document in self.documents)

    def asked(self, source: Source) -> tuple[Probe, ...]:
        """The probes about this part: those of its records, and, where it holds documents whole, of its documents."""
        ids = {record.id for document in self.documents for record in document.records}
        sizes = {document.id: len(document.text) for document in source.documents}
        whole = {
            document.id
            for document, span in zip(self.documents, self.spans, strict=True)
            if span == (0, sizes.get(document.id))
        }
        return tuple(probe for probe in source.probes if probe.case in ids or probe.document in whole)


def _places(document: Document) -> list[Span]:
    """Where each record stands in `document.text` (its own `span` may be of the text before records were joined)."""
    found, start = [], 0
    for record in document.records:
        found.append((start, start + len(record.text)))
        start += len(record.text) + 1
    return found


def _whole(document: Document) -> tuple[Document, Span]:
    return document, (0, len(document.text))


def part_of(document: Document, span: Span) -> Document:
    """The records of a document that lie in `span` of its text; text is cut exactly, a question or statement never:
    it belongs where it begins."""
    kept: list[Record] = []
    for record, (start, end) in zip(document.records, _places(document), strict=True):
        low, high = max(start, span[0]), min(end, span[1])
        if record.form != "text":
            if span[0] <= start < span[1]:
                kept.append(record)
        elif low < high:
            own = record.span and (record.span[0] + low - start, record.span[0] + high - start)
            kept.append(replace(record, text=record.text[low - start : high - start], span=own))
    return replace(document, records=tuple(kept))


def chunks_of(document: Document, chunking: Chunking, offsets: Offsets) -> tuple[Span, ...]:
    """Characters of each chunk in `document.text`. By structure, its records are the paragraphs: they know better than
    the joined text, in which no blank line is left."""
    if not chunking.structure:
        return chunking.cut(document.text, offsets).spans

    def count(text: str) -> int:
        return len(offsets(text))

    text, most = document.text, chunking.tokens
    spans = [
        piece
        for record, place in zip(document.records, _places(document), strict=True)
        # a question or statement is never cut
        for piece in (
            pieces(text, place, count, most, break_words=True) if record.form == "text" else [place]
        )
    ]
    return tuple(pack(spans, lambda start, end: count(text[start:end]) <= most))


def partition(
    source: Source,
    how: str,
    *,
    chunking: Chunking | None = None,
    offsets: Offsets | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> list[Part]:
    """Cut a source into parts: `corpus` (one), `document`, `chunk` (needs `chunking` and `offsets`) or `tokens:N` (needs
    `count_tokens`): consecutive records, a part ending with the record that first carries its count above N (the rule of
    the published slices, so 64K tokens in sectors of 8K are eight, not nine).

    Raises:
        InputError: an unknown way, or tokens:N without a positive number.
    """
    if how == "corpus":
        found = [_whole(document) for document in source.documents]
        return [Part("corpus", tuple(d for d, _ in found), tuple(s for _, s in found))]
    if how == "document":
        return [Part(d.id, (d,), ((0, len(d.text)),)) for d in source.documents]
    if how == "chunk":
        assert chunking is not None and offsets is not None, "partition chunk needs chunking and offsets"
        return [
            Part(f"{document.id}#{number}", (part,), (span,))
            for document in source.documents
            for number, span in enumerate(chunks_of(document, chunking, offsets))
            if (part := part_of(document, span)).records
        ]
    check_partition(how)
    assert count_tokens is not None, "partition tokens:N needs count_tokens"
    return list(_sectors(source, int(how.partition(":")[2]), count_tokens))


def dropped(source: Source, parts: Sequence[Part], offsets: Offsets) -> int:
    """Tokens of a source that no part holds whole: 0 unless the cutting is at fault (white space between chunks is none)."""
    spans: dict[str, list[Span]] = {}
    for part in parts:
        for document, span in zip(part.documents, part.spans, strict=True):
            spans.setdefault(document.id, []).append(span)
    lost = 0
    for document in source.documents:
        tokens = [strip(document.text, *span) for span in offsets(document.text)]
        lost += _dropped([span for span in tokens if span[0] < span[1]], sorted(spans.get(document.id, ())))
    return lost


def check_partition(how: str) -> str:
    """A partition's name. Raises `InputError` for an unknown way, or tokens:N without a positive number."""
    if how in ("corpus", "document", "chunk") or re.fullmatch(r"tokens:0*[1-9]\d{0,9}", how):
        return how
    raise InputError(
        f"partition {quoted(how)}: {nearest(how, ['corpus', 'document', 'chunk', 'tokens:N (N > 0)'])}"
    )


def _sectors(source: Source, most: int, count_tokens: Callable[[str], int]) -> Iterator[Part]:
    held: list[tuple[Document, Span]] = []
    number = total = 0

    def part() -> Part:
        return Part(f"tokens-{number}", tuple(d for d, _ in held), tuple(s for _, s in held))

    for document in source.documents:
        places, first = _places(document), 0
        for index, record in enumerate(document.records):
            total += count_tokens(record.text)
            last = index + 1 == len(document.records)
            if total > most or last:
                records = document.records[first : index + 1]
                held.append((replace(document, records=records), (places[first][0], places[index][1])))
                first = index + 1
            if total > most:
                yield part()
                held, total, number = [], 0, number + 1
    if held:
        yield part()
