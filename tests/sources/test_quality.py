"""QuALITY in its three forms: records of one article joined, options and labels as published, the hard subset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.quality import QualityConfig, build, is_hard, plain

FIXTURES = Path(__file__).parents[1] / "fixtures" / "quality"


def words(text: str) -> int:
    return len(text.split())


def load(path: str | Path, **settings):
    (source,) = build(parse(QualityConfig, {"path": str(path), **settings}), words)
    return source


def test_the_official_form():
    source = load(FIXTURES / "official.jsonl")
    assert [(d.id, d.title) for d in source.documents] == [("100", "The Quill Tower"), ("200", "Soup")]
    assert (
        source.documents[0].text
        == "THE QUILL TOWER\nIt stood in Rast.\nIt leant to the north.\nZoë climbed it & fell."
    )
    assert source.documents[1].text == "Soup is wet.\nIt is also warm."
    assert [(p.id, p.gold, p.hard, len(p.answers)) for p in source.probes] == [
        ("100_AAAA_1", 1, False, 4),
        ("100_AAAA_2", 3, True, 4),
        ("100_BBBB_1", 0, True, 4),
        ("200_CCCC_1", 0, False, 2),
    ]
    assert all(p.kind == "choice" and p.phrasing == "heldout" for p in source.probes)
    assert source.notes[1:] == (
        "2 of 4 questions are in the hard subset",
        "1 questions without a gold label left out",
    )


def test_the_hard_subset_is_asked_alone_and_whole():
    source = load(FIXTURES / "official.jsonl", hard=True)
    assert [p.id for p in source.probes] == ["100_AAAA_2", "100_BBBB_1"] and len(source.documents) == 2
    assert source.settings == {"hard": True}
    with pytest.raises(InputError, match="none of 2 questions is marked hard"):
        load(FIXTURES / "leval.jsonl", hard=True)


def test_the_flat_form_and_a_repeated_record():
    source = load(FIXTURES / "flat.jsonl")
    assert source.documents[0].text == "Boats float.\nMostly."
    assert [(p.id, p.gold, p.hard) for p in source.probes] == [
        ("300_DDDD_Q1", 0, False),
        ("300_DDDD_Q2", 2, True),
    ]
    assert source.notes[-1] == "2 questions stood there twice, word for word; kept once"


def test_the_leval_form():
    source = load(FIXTURES / "leval.jsonl")
    assert source.documents[0].title == "SOUP TALK"
    assert source.documents[0].records[-1].text == (
        "Soup is wet, as everybody in the town of Rast has always known, and it is warm."
    )
    assert [(p.prompt, p.answers, p.gold) for p in source.probes] == [
        ("What is wet?", ("Soup.", "Sand."), 0),
        ("What is (mostly) warm？", ("Ice", "Soup", "Both"), 1),
    ]


@pytest.mark.parametrize(
    ("record", "speed", "expected"),
    [
        ({"difficult": 1}, None, True),
        ({"difficult": 0, "gold_label": 1}, [2, 2], False),
        ({"gold_label": 1}, [1, 2, 2], True),
        ({"gold_label": 1}, [1, 2], False),  # half right is not fewer than half
        ({"gold_label": 1}, [], False),
        ({}, [1], False),
    ],
)
def test_what_is_hard(record, speed, expected):
    assert is_hard(record, speed) is expected


def test_html_is_told_from_text():
    assert plain("a <b> c") == "a <b> c" and plain("<p>a</p><p>b</p>") == "a\n\nb"
    assert plain("<!-- $Id -->\nA  b") == "A b"


Q = {"question": "Q?", "options": ["a", "b"], "gold_label": 1, "question_unique_id": "q1"}
A = {"article_id": "1", "article": "Text.", "questions": [Q]}
L = {"input": "Text.", "instructions": ["Q?\n(A) a\n(B) b"], "outputs": ["(A) a"]}
BAD = {
    "empty": ("", "empty file"),
    "not JSON": ('{"article_id": 1,\n', ":1: not JSON"),
    "second line": (json.dumps(A) + "\n{]\n", ":2: not JSON"),
    "wrong keys": ([{"id": 1}], ":1: needs article_id (text), article (text)"),
    "no questions": ([{**A, "questions": []}], "needs questions (list)"),
    "no flat questions": ([{"article_id": 1, "article": ["a"]}], "needs questions (list)"),
    "one option": ([{**A, "questions": [{**Q, "options": ["a"]}]}], "two texts or more"),
    "label too large": ([{**A, "questions": [{**Q, "gold_label": 3}]}], "gold_label 3: needs a number from 1 to 2"),
    "label zero": ([{**A, "questions": [{**Q, "gold_label": 0}]}], "gold_label 0"),
    "no object": ([{**A, "questions": [5]}], "question 1: not an object"),
    "one id, two questions": ([A, {**A, "questions": [{**Q, "question": "Other?"}]}], ":2: question q1 is another one at"),
    "one id, two texts": ([A, {**A, "article": "Other.", "questions": [{**Q, "question_unique_id": "q2"}]}], ":2: article 1 has another text than at"),
    "no text": ([{**A, "article": "<p></p>"}], "holds no text"),
    "lengths": ([{**L, "outputs": []}], "1 instructions, 0 outputs"),
    "no options": ([{**L, "instructions": ["Q?"]}], "instruction 1: needs a question and options"),
    "options out of order": ([{**L, "instructions": ["Q?\n(A) a\n(C) b"]}], "instruction 1"),
    "answer in words": ([{**L, "outputs": ["The answer is A"]}], "output 1: needs one of the options A, B"),
    "answer beyond": ([{**L, "outputs": ["(D) d"]}], "output 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_files_are_named(case, tmp_path):
    content, pattern = BAD[case]
    path = tmp_path / "quality.jsonl"
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
    with pytest.raises(InputError) as caught:
        load(path)
    assert pattern in str(caught.value) and "quality.jsonl" in str(caught.value)


def test_all_faults_come_at_once_and_the_official_name_without_suffix_is_read(tmp_path):
    path = tmp_path / "QuALITY.v1.0.1.dev"
    path.write_text("\n".join(json.dumps(row) for row in [{"id": 1}, {**A, "questions": [5, {}]}]))
    with pytest.raises(Faults) as caught:
        load(path)
    assert len(caught.value.faults) == 3
    path.write_text(
        "\n".join(
            json.dumps({**A, "article_id": n, "questions": [{**Q, "question_unique_id": f"q{n}"}]})
            for n in range(2)
        )
    )
    assert len(load(path).documents) == 2
    with pytest.raises(Faults, match="no document '7'"):
        load(path, ids=["7"])
    with pytest.raises(Faults, match="Did you mean 'hard'"):
        load(path, hardd=True)


def test_the_real_files(shared_data):
    source = load(shared_data / "quality/leval_quality_10.jsonl")
    assert len(source.documents) == 10 and len(source.probes) == 119
    assert all(len(p.answers) == 4 for p in source.probes) and {p.gold for p in source.probes} == {0, 1, 2, 3}
    assert source.notes[1] == "0 of 119 questions are in the hard subset"
    example = load(shared_data / "quality/nyu_quality_example.jsonl")  # one record twice
    assert len(example.documents) == 1 and [p.hard for p in example.probes] == [True, True, True, True, False]
    assert example.notes[-1].startswith("5 questions stood there twice")
    assert (
        "<" not in example.documents[0].text
        and "THE GIRL IN HIS MIND\nBy ROBERT F. YOUNG" in example.documents[0].text
    )
    assert [p.gold for p in example.probes] == [1, 2, 3, 0, 3]
