"""SQuAD in its three forms: answers once each, impossible questions counted apart, every probe at the record of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.squad import SquadConfig, build

FIXTURES = Path(__file__).parents[1] / "fixtures" / "squad"


def words(text: str) -> int:
    return len(text.split())


def load(path: str | Path, **settings):
    (source,) = build(parse(SquadConfig, {"path": str(path), **settings}), words)
    return source


def test_the_official_form():
    source = load(FIXTURES / "v2.json")
    assert [(d.id, d.title) for d in source.documents] == [
        ("Rast-0", "Rast"),
        ("Rast-1", "Rast"),
        ("Soup_Salt-0", "Soup & Salt"),
    ]
    assert [(p.id, p.document, p.answers) for p in source.probes] == [
        ("q1", "Rast-0", ("1204", "in 1204")),
        ("q3", "Rast-1", ("lamp",)),
        ("q4", "Soup_Salt-0", ("soup",)),
    ]
    assert set(source.notes[1:]) == {
        "1 questions without an answer left out: they ask for abstention (in the whole file)",
        "1 answers do not stand word for word in their passage (in the whole file)",
    }


def test_articles_join_their_passages_and_probes_name_the_record_of_their_answer():
    source = load(FIXTURES / "v2.json", unit="article")
    assert [d.id for d in source.documents] == ["Rast", "Soup_Salt"] and len(source.documents[0].records) == 2
    records = {r.id: r for r in source.records}
    assert [records[p.case].text[:8] for p in source.probes] == ["Rast is ", "Its lamp", "Soup is "]
    assert source.settings == {"unit": "article"}


def test_flat_rows_and_parquet(tmp_path):
    source = load(FIXTURES / "flat.jsonl")
    assert len(source.documents) == 1 and [p.answers for p in source.probes] == [("a town", "town")]
    rows = [json.loads(line) for line in (FIXTURES / "flat.jsonl").read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").hash == source.hash


def test_a_list_of_passages():
    source = load(FIXTURES / "passages.json")
    assert [(p.id, p.prompt, p.answers) for p in source.probes] == [
        ("Rast-0-q0", "What is Rast?", ("a town",)),
        ("Rast-0-q1", "A what?", ("town",)),
    ]


def test_selection():
    assert [p.id for p in load(FIXTURES / "v2.json", ids=["Rast-1"]).probes] == ["q3"]
    assert len(load(FIXTURES / "v2.json", documents=2).documents) == 2
    with pytest.raises(Faults, match="Did you mean 'Rast-1'"):
        load(FIXTURES / "v2.json", ids=["Rast-11"])
    with pytest.raises(Faults, match="Did you mean 'unit'"):
        load(FIXTURES / "v2.json", units="article")


Q = {"id": "a", "question": "Q?", "answers": [{"text": "x", "answer_start": 0}]}
BAD = {
    "empty": ("", "empty file"),
    "not JSON": ('{"data": [\n}', ":2: not JSON"),
    "no form": ({"text": "x"}, "needs data (the official form)"),
    "no paragraphs": ({"data": [{"title": "T"}]}, "article 1: needs title (text) and paragraphs (list)"),
    "article no object": ({"data": [3]}, "article 1: needs"),
    "paragraph no object": ({"data": [{"paragraphs": [3]}]}, "article 1: paragraph 1: not an object"),
    "no context": ({"data": [{"paragraphs": [{"qas": []}]}]}, "paragraph 1: needs context (text)"),
    "no list": ([{"context": "x", "questions": {}}], "item 1: needs qas or questions (list)"),
    "question no object": ([{"context": "x", "questions": [1]}], "question 1: not an object"),
    "no answers": ([{"context": "x", "questions": [{"question": "Q?"}]}], "question 1: needs answers"),
    "answer no text": ([{"context": "x", "questions": [{"question": "Q?", "answers": [{"answer_start": 1}]}]}], "question 1: needs answers"),
    "lengths": ([{"context": "x", "question": "Q?", "answers": {"text": ["a"], "answer_start": []}}], "item 1: needs answers"),
    "duplicate ids": ([{"context": "x", "questions": [Q, Q]}], "question 2: question a stands already at"),
    "no passages": ({"version": "1.1", "data": []}, "no passages"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_files_are_named(case, tmp_path):
    content, pattern = BAD[case]
    path = tmp_path / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as caught:
        load(path)
    assert pattern in str(caught.value) and "squad.json" in str(caught.value)


def test_all_faults_come_at_once(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps([{"context": "x", "questions": [1, {}]}, {"a": 1}]))
    with pytest.raises(Faults) as caught:
        load(tmp_path / "s.json")
    assert len(caught.value.faults) == 3


def test_the_real_file(shared_data):
    source = load(shared_data / "squad/squad_val_500.json")
    assert len(source.documents) == 500 and len(source.probes) == 2887 and len(source.notes) == 1
    assert len({p.id for p in source.probes}) == 2887
    text = {r.id: r.text for r in source.records}
    assert sum(p.answers[0] in text[p.case] for p in source.probes) == 2887
    assert len(load(shared_data / "squad/squad_val_500.json", unit="article").documents) == 9
