"""Gold summaries: documents that have one carry it, their parts keep it, and no identity changes by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loramem.sources.almanac.digests import gold_digest
from loramem.sources.almanac.recovering import tellings_of
from loramem.sources.catalogue import load_source
from loramem.sources.chunking import Chunking, part_of, partition

STORIES = str(Path(__file__).parents[1] / "fixtures" / "narrativeqa")
BEFORE = {
    "chronicles": ({"name": "almanac-chronicles", "sizes": [1000]}, "92e56f26bbac", "1c9ba74a26f7"),
    "papers": ({"name": "almanac-papers", "documents": 3}, "6b1c9fbff50a", "c5153a27f879"),
    "stories": ({"name": "almanac-stories", "documents": 3}, "e81512a3b35c", "42dddd707f07"),
    "narrativeqa": ({"name": "narrativeqa", "path": STORIES}, "29cf0805eb82", "4bf6ce931eea"),
    "almanac": ({"name": "almanac", "sizes": [500]}, "2fdb181d29b9", "0a25ac7bf67e"),
    "counterfact": ({"name": "counterfact", "sizes": [500]}, "63384aa4e82f", "1fc1258cf13d"),
}
"""Sources with the hashes of their documents and probes as they were before documents had summaries."""


def words(text: str) -> int:
    return len(text.split())


def built(what: str):
    return load_source(BEFORE[what][0], words)[0]


@pytest.mark.parametrize("what", BEFORE)
def test_no_identity_changed(what):
    source = built(what)
    assert (source.documents_hash[:12], source.probes_hash[:12]) == BEFORE[what][1:]
    other = replace(source, documents=tuple(replace(d, summary="another") for d in source.documents))
    assert (other.hash, other.documents_hash) == (source.hash, source.documents_hash)


@pytest.mark.parametrize("what", ["chronicles", "papers", "stories"])
def test_twins_have_the_digest_of_their_first_facts(what):
    source = built(what)
    for telling, document in zip(tellings_of(source), source.documents, strict=True):
        facts = telling.gist()
        assert document.summary == gold_digest(facts) and 0 < len(document.summary) < len(document.text) / 2
        assert all(fact.entity in document.summary and fact.value in document.summary for fact in facts)
        assert len(facts) >= len(telling.sections) and {f for f in facts} <= set(telling.facts)


def test_a_longer_chronicle_is_summarised_in_full():
    short, long = load_source({"name": "almanac-chronicles", "sizes": [1000, 3000]}, words)
    assert len(long.documents[0].summary) > 1.5 * len(short.documents[0].summary)


def test_narrativeqa_stories_have_wikipedias_summary():
    config = BEFORE["narrativeqa"][0]
    summaries = load_source({**config, "text": "summary"}, words)[0].documents
    assert all(document.summary == "" for document in summaries), "there it is the text itself"
    known = {document.id: document.summary for document in built("narrativeqa").documents}
    assert known["aaa"] == "Ada lights a lamp."
    told = {document.id: document.text for document in summaries}
    assert {id: summary.split() for id, summary in known.items()} == {
        id: told.get(id, "").split() for id in known
    }


def test_a_summary_is_cleaned_as_the_text_is_and_a_passage_is_no_summary_of_itself(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"document": {"id": "a", "text": "It was dusk.", "kind": "gutenberg", "summary": {"text": " Baha\\u00e2\\u0080\\u0099i \\n", "title": "T"}},'
        ' "question": {"text": "When?"}, "answers": [{"text": "dusk"}]}\n'
    )
    config = {"name": "narrativeqa", "path": str(tmp_path)}
    assert [d.summary for d in load_source(config, words)[0].documents] == ["Baha’i"]
    raw = load_source({**config, "clean": False}, words)[0].documents
    assert raw[0].summary == "Baha\u00e2\u0080\u0099i"
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "When?", "answer": ["dusk"], "passage": "It was dusk."}\n'
    )
    assert [d.summary for d in load_source(config, words)[0].documents] == [""]


def test_parts_keep_the_summary_of_their_document():
    source = built("papers")
    whole = {d.id: d.summary for d in source.documents}

    def offsets(text: str) -> list[tuple[int, int]]:
        found, start = [], 0
        for word in text.split(" "):
            found.append((start, start + len(word)))
            start += len(word) + 1
        return found

    ways = [partition(source, how) for how in ("corpus", "document")]
    ways.append(partition(source, "chunk", chunking=Chunking(tokens=60), offsets=offsets))
    ways.append(partition(source, "tokens:100", count_tokens=words))
    assert [len(parts) > n for parts, n in zip(ways, (0, 2, 3, 3), strict=True)] == [True] * 4
    for parts in ways:
        assert all(document.summary == whole[document.id] for part in parts for document in part.documents)
    assert part_of(source.documents[0], (0, 20)).summary == whole[source.documents[0].id]
