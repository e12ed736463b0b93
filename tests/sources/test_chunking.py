"""Chunks cover their text, keep their limit and overlap as told; a partition loses no record."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from loramem.base import embedded
from loramem.core.errors import InputError
from loramem.sources.catalogue import load_source
from loramem.sources.chunking import (
    Chunking,
    Cut,
    by_structure,
    offsets_of,
    part_of,
    partition,
    windows,
)
from loramem.sources.text import document
from loramem.sources.types import Document, Probe, Record, Source

MIXED = [
    "one",
    "two ",
    "three. ",
    "\n\n",
    "# Head\n",
    "👩‍🚀",
    "🚀🚀",
    "你好。",
    "世界",
    "é",
    "\u0301",
    " ",
    "\t",
    "x" * 30,
    "Zoë ",
]
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(MIXED), max_size=30).map("".join))
sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))


def words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def byte_tokens(text: str) -> list[tuple[int, int]]:
    """A token a byte, as byte-level tokenizers have it at worst: several tokens of one character share its offsets."""
    return [(n, n + 1) for n, c in enumerate(text) for _ in c.encode("utf-8", "surrogatepass")]


@pytest.fixture(scope="module")
def bpe():
    return offsets_of(AutoTokenizer.from_pretrained(str(embedded.__path__[0])))


def check_windows(text: str, offsets, tokens: int, overlap: int) -> Cut:
    cut = windows(text, offsets, tokens=tokens, overlap=overlap)
    found = list(offsets(text))
    assert cut.tokens == len(found) and cut.dropped == 0
    covered = 0
    for start, end in cut.spans:
        assert start <= covered < end, "a character is in no chunk, or a chunk brings nothing new"
        covered = end
    assert covered == len(text)
    held = [[n for n, (a, b) in enumerate(found) if a >= s and b <= e and a < b] for s, e in cut.spans]
    over = sum(len(inside) > tokens for inside in held)
    assert over == cut.over
    return cut


@given(texts, sizes)
@example("", (5, 2))
@example("w" * 500, (5, 2))
@example("a 👩‍🚀🚀 b", (2, 1))
def test_windows_cover_every_character_for_any_tokenizer(text, size):
    for offsets in (words, byte_tokens):
        check_windows(text, offsets, *size)


@given(texts, sizes)
def test_windows_of_a_real_tokenizer(bpe, text, size):
    text = text.encode("utf-8", "ignore").decode()  # a lone surrogate is no text to a tokenizer
    check_windows(text, bpe, *size)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60), sizes)
def test_limit_and_overlap_are_exact_where_a_character_is_at_most_one_token(parts, size):
    tokens, overlap = size
    text = " ".join(parts)
    cut = windows(text, words, tokens=tokens, overlap=overlap)
    counts = [len(words(text[a:b])) for a, b in cut.spans]
    assert all(count == tokens for count in counts[:-1]) and all(count <= tokens for count in counts)
    for (_, before), (start, _) in zip(cut.spans, cut.spans[1:], strict=False):
        assert len(words(text[start:before])) == overlap
    if not overlap:
        assert "".join(text[a:b] for a, b in cut.spans) == text
    assert cut.over == 0


def test_a_character_of_several_tokens_is_never_cut():
    cut = windows("ab🚀cd", byte_tokens, tokens=4)
    assert ["ab🚀cd"[a:b] for a, b in cut.spans] == ["ab", "🚀", "cd"] and cut.over == 0
    assert windows("a🚀", byte_tokens, tokens=2).over == 1


@given(texts, st.integers(1, 30))
@example("x" * 500, 7)
@example("# A\n\n# B\n\ntext", 2)
def test_structure_loses_white_space_only_and_keeps_the_limit(text, tokens):
    for offsets in (words, byte_tokens):
        cut = by_structure(text, lambda part, offsets=offsets: len(offsets(part)), tokens, offsets=offsets)
        place = 0
        for start, end in cut.spans:
            assert place <= start < end and not text[place:start].strip()
            place = end
        assert not text[place:].strip() and cut.dropped == 0
        sizes_ = [len(offsets(text[a:b])) for a, b in cut.spans]
        longest = max((len(c.encode("utf-8", "surrogatepass")) for c in text), default=0)
        assert cut.over == sum(n > tokens for n in sizes_) and (not cut.over or longest > tokens)


def test_structure_keeps_headings_with_their_text():
    text = "# A\n\none two three four\n\n# B\n\nfive six. Seven eight nine ten eleven.\n\nlast"
    cut = Chunking.parse("structure:7").cut(text, words)
    assert [text[a:b] for a, b in cut.spans] == [
        "# A\n\none two three four",
        "# B\n\nfive six.",
        "Seven eight nine ten eleven.\n\nlast",
    ]


def test_what_is_dropped_is_counted(monkeypatch):
    from loramem.sources import chunking

    assert chunking._dropped([(0, 1), (2, 3), (4, 5)], [(0, 1), (4, 5)]) == 1
    assert chunking._dropped([(0, 1), (2, 5)], [(0, 3), (3, 5)]) == 0
    assert chunking._dropped([(0, 1)], []) == 1


@pytest.mark.parametrize(("text", "expected"), [("2048/200", (2048, 200, False)), ("768/77", (768, 77, False)), ("512", (512, 0, False)), ("structure:512", (512, 0, True))])  # fmt: skip
def test_chunkings(text, expected):
    found = Chunking.parse(text)
    assert (found.tokens, found.overlap, found.structure) == expected


@pytest.mark.parametrize("text", ["", "0", "5/5", "5/6", "-1", "structure:5/2", "many", "1.5"])
def test_bad_chunkings_are_refused(text):
    with pytest.raises(InputError, match="chunks"):
        Chunking.parse(text)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(InputError, match="fast tokenizer"):
        offsets_of(object())


def test_a_special_token_in_a_text_is_ordinary_text(bpe):
    assert len(bpe("</s> and <|endoftext|>")) > 4


# -- partition -----------------------------------------------------------------------------------------------
def count(text: str) -> int:
    return len(text.split())


def source_of(*texts: str) -> Source:
    documents = tuple(document(f"d{n}", text, "", count, most=6) for n, text in enumerate(texts))
    probes = tuple(
        Probe(f"{d.id}-q", d.records[-1].id, d.id, "generate", "heldout", "?", ("a",))
        for d in documents
        if d.records
    )
    return Source("t", documents, probes)


TWO = ("# A\n\none two three four. Five six seven.\n\neight nine", "ten eleven")


def test_corpus_and_document():
    source = source_of(*TWO)
    (whole,) = partition(source, "corpus")
    assert (
        whole.id == "corpus" and whole.documents == source.documents and whole.asked(source) == source.probes
    )
    parts = partition(source, "document")
    assert [(part.id, part.spans) for part in parts] == [
        (d.id, ((0, len(d.text)),)) for d in source.documents
    ]
    assert [p.id for p in parts[1].asked(source)] == ["d1-q"]


@given(st.lists(texts, max_size=4), sizes)
def test_chunks_of_a_source_are_exact_pieces_of_its_documents(texts_, size):
    source = source_of(*texts_)
    parts = partition(source, "chunk", chunking=Chunking(*size), offsets=words)
    seen: dict[str, int] = {}
    for part in parts:
        (piece,), ((start, end),) = part.documents, part.spans
        whole = next(d for d in source.documents if d.id == piece.id)
        assert part.id.startswith(f"{piece.id}#")
        assert "".join(piece.text.split()) == "".join(whole.text[start:end].split())
        for record in piece.records:
            original = next(r for r in whole.records if r.id == record.id)
            a, b = original.span
            assert record.span[0] >= a and record.span[1] <= b
            assert original.text[record.span[0] - a : record.span[1] - a] == record.text
        assert start <= seen.get(piece.id, 0)
        seen[piece.id] = max(end, seen.get(piece.id, 0))
    assert seen == {d.id: len(d.text) for d in source.documents if d.records}


def test_a_question_is_never_cut_and_stands_in_the_chunk_where_it_begins():
    (book,) = load_source({"name": "phonebook", "sizes": [100]}, count)
    parts = partition(book, "chunk", chunking=Chunking(17), offsets=words)
    assert [r for part in parts for r in part.documents[0].records] == book.records
    assert sum(len(part.asked(book)) for part in parts) == len(book.probes)


def test_sectors_of_a_published_book_are_as_many_as_they_should_be():
    (book,) = load_source({"name": "phonebook", "sizes": [6400]}, count)
    parts = partition(book, "tokens:800", count_tokens=count)
    assert len(parts) == 8 and [p.id for p in parts][:2] == ["tokens-0", "tokens-1"]
    assert [r for part in parts for d in part.documents for r in d.records] == book.records
    text = book.documents[0].text
    for part in parts:
        ((start, end),) = part.spans
        assert text[start:end] == part.text and count(part.text) <= 800 + 12
    assert sum(len(part.asked(book)) for part in parts) == len(book.probes)


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=6), st.integers(1, 30))
def test_sectors_lose_no_record_and_end_where_the_count_first_exceeds_the_size(lengths, most):
    documents = tuple(
        Document(f"d{n}", tuple(Record(f"d{n}:{m}", " ".join("x" * size)) for m, size in enumerate(row)))
        for n, row in enumerate(lengths)
    )
    source = Source("t", documents, ())
    parts = partition(source, f"tokens:{most}", count_tokens=count)
    groups = [[r for d in part.documents for r in d.records] for part in parts]
    assert [r for group in groups for r in group] == source.records
    for group in groups[:-1]:
        assert sum(count(r.text) for r in group) > most >= sum(count(r.text) for r in group[:-1])
    for part in parts:
        for piece, span in zip(part.documents, part.spans, strict=True):
            whole = next(d for d in documents if d.id == piece.id)
            assert whole.text[slice(*span)] == piece.text


@pytest.mark.parametrize("how", ["documnet", "tokens", "tokens:0", "tokens:-5", ""])
def test_unknown_partitions_are_refused(how):
    with pytest.raises(InputError, match="allowed: chunk, corpus, document, tokens:N"):
        partition(source_of(*TWO), how)


def test_a_part_of_nothing_is_nothing():
    assert part_of(source_of("a b").documents[0], (0, 0)).records == ()
    assert partition(source_of(), "corpus")[0].documents == () and partition(source_of(), "document") == []


def test_a_question_that_begins_where_a_chunk_ends_is_in_the_next_one_only():
    records = tuple(Record(str(n), f"q{n} a{n}", "chat", f"q{n}", f"a{n}") for n in range(3))
    source = Source("t", (Document("d", records),), ())
    parts = partition(source, "chunk", chunking=Chunking(2), offsets=words)
    assert [[r.id for r in part.documents[0].records] for part in parts] == [["0"], ["1"], ["2"]]
