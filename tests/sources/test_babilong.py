"""BABILong: published rows, bAbI's files laid in a background, and the metric's rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.babilong import LABELS, BabilongConfig, build, exact_match

FIXTURES = Path(__file__).parents[1] / "fixtures" / "babilong"
BABI = FIXTURES / "babi"


def words(text: str) -> int:
    return len(text.split())


def load(path: str | Path, **settings):
    (source,) = build(parse(BabilongConfig, {"path": str(path), **settings}), words)
    return source


def test_published_rows_by_task_and_length():
    source = load(FIXTURES / "data")
    assert [d.id for d in source.documents] == ["qa1-0k-0", "qa1-0k-1", "qa1-4k-0", "qa5-0k-0"]
    assert [(p.id, p.prompt, p.answers, p.level) for p in source.probes][-1] == (
        "qa5-0k-0-q", "What did Bill give to Mary?", ("milk",), "qa5",
    )  # fmt: skip
    assert source.notes[1] == "in the files: 2 qa1-0k, 1 qa1-4k, 1 qa5-0k"
    assert [d.id for d in load(FIXTURES / "data", tasks=["qa1"], length="4k").documents] == ["qa1-4k-0"]
    assert len(load(FIXTURES / "data/qa1/0k.json").documents) == 2
    with pytest.raises(InputError, match="at length 8k"):
        load(FIXTURES / "data", length="8k")


def test_a_question_of_a_babi_file_knows_the_facts_before_it():
    source = load(BABI)
    assert [
        (d.text, p.prompt, p.answers[0]) for d, p in zip(source.documents, source.probes, strict=True)
    ] == [
        ("Mary moved to the bathroom.\nJohn went to the hallway.", "Where is Mary?", "bathroom"),
        (
            "Mary moved to the bathroom.\nJohn went to the hallway.\nDaniel went back to the garden.",
            "Where is Daniel?",
            "garden",
        ),
        ("Ada slept in the office.", "Where is Ada?", "office"),
    ]


@pytest.mark.parametrize("tokens", [10, 60, 300, 2000])
def test_facts_lie_in_order_in_a_context_of_the_length(tokens):
    source = load(BABI, background=str(FIXTURES / "noise.txt"), context_tokens=tokens)
    for document in source.documents:
        facts = [line for line in document.text.split("\n") if "day" not in line and "Nobody" not in line]
        assert document.text.count("Mary moved") == (document.id != "qa1-2")
        assert facts == next(d for d in load(BABI).documents if d.id == document.id).text.split("\n")
        size = sum(words(line) for line in document.text.split("\n"))
        least = sum(map(words, facts))
        assert max(least, tokens - 12) <= size <= max(least, tokens)


def test_a_context_is_seeded():
    noise = {"background": str(FIXTURES / "noise.txt"), "context_tokens": 200}
    assert load(BABI, **noise).hash == load(BABI, **noise).hash != load(BABI, seed=1, **noise).hash
    assert load(BABI, seed=1, **noise).settings == {"context_tokens": 200, "seed": 1}


@pytest.mark.parametrize(
    ("prediction", "target", "question", "task", "expected"),
    [
        ("kitchen", "kitchen", "Where is Mary?", "qa1", True),
        ("Mary is in the KITCHEN.", "kitchen", "Where is Mary?", "qa1", True),
        ("In the kitchen. Not in the garden.", "kitchen", "Where is Mary?", "qa1", True),
        ("Not in the garden. In the kitchen.", "kitchen", "Where is Mary?", "qa1", False),
        ("kitchen or garden", "kitchen", "Where is Mary?", "qa1", False),
        ("From the garden to the office", "office", "Where was it before the garden?", "qa3", True),
        ("Bill gave it to Fred", "fred", "Who did Bill give the milk to?", "qa5", True),
        ("the bathrooms", "bathroom", "Where is Mary?", "qa1", False),
        ("I know", "no", "Is Mary in the garden?", "qa6", False),
        ("None", "none", "How many things does Mary carry?", "qa7", True),
        ("three", "three", "How many?", "qa7", True),
        ("Milk and the apple", "apple,milk", "What does Mary carry?", "qa8", True),
        ("milk", "apple,milk", "What does Mary carry?", "qa8", False),
        ("milk, apple, football", "apple,milk", "What does Mary carry?", "qa8", False),
        ("maybe\nQuestion: is it? yes", "maybe", "Is Bill there?", "qa10", True),
        ("kitchen <example> garden", "kitchen", "Where is Mary?", "qa1", True),
        ("kitchen <context> garden", "kitchen", "Where is Mary?", "qa1", True),
        ("", "kitchen", "Where is Mary?", "qa1", False),
        (".kitchen", "kitchen", "Where is Mary?", "qa1", False),
    ],
)  # fmt: skip
def test_the_metric(prediction, target, question, task, expected):
    assert exact_match(prediction, target, question, task) is expected


@given(st.text(max_size=60), st.sampled_from(sorted(LABELS)), st.data())
def test_the_bare_target_is_right_and_any_text_is_scored(text, task, data):
    target = data.draw(st.sampled_from(sorted(LABELS[task])))
    assert exact_match(target.upper(), target, "?", task)
    assert exact_match(text, target, "?", task) in (True, False)


def test_a_task_without_labels_is_refused_and_noted(tmp_path):
    with pytest.raises(InputError, match="'qa11' has no list of labels"):
        exact_match("a", "a", "?", "qa11")
    (tmp_path / "qa11.json").write_text(json.dumps([{"input": "a", "question": "q", "target": "t"}]))
    assert "no list of labels for qa11" in load(tmp_path).notes[-1]


BAD = {
    "empty": ("qa1.json", "", "empty file"),
    "wrong keys": ("qa1.json", '[{"input": "a"}]', "item 1: needs question (text), target (text)"),
    "not JSON": ("qa1.jsonl", '{"input": "a", "question": "q", "target": "t"}\n{', ":2: not JSON"),
    "no task": ("facts.json", "[]", "neither its name nor its folder says the task"),
    "babi line": ("qa1.txt", "1 Mary is here.\nJohn is there.\n", ":2: not 'NUMBER FACT'"),
    "babi answer": ("qa1.txt", "1 Mary is here.\n2 Where?\t\t1\n", ":2: not 'NUMBER FACT'"),
    "question first": ("qa1.txt", "1 Where is Mary?\tkitchen\t1\n", ":1: a question before any fact"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_files_are_named(case, tmp_path):
    name, content, pattern = BAD[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        load(tmp_path / name)
    assert pattern in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"background": str(FIXTURES / "noise.txt")}, "go together"),
        ({"context_tokens": 5}, "go together"),
        ({"background": "nowhere", "context_tokens": 5}, "no such file"),
        ({"path": str(FIXTURES / "data"), "background": str(FIXTURES / "noise.txt"), "context_tokens": 5}, "only bAbI's task files"),
        ({"tasks": ["q1"]}, "pattern"),
        ({"lenght": "4k"}, "Did you mean 'length'"),
    ],
)  # fmt: skip
def test_impossible_settings(settings, pattern):
    with pytest.raises(InputError, match=pattern):
        load(**{"path": BABI, **settings})


def test_all_faults_come_at_once(tmp_path):
    (tmp_path / "qa1.json").write_text("[1, {}]")
    (tmp_path / "qa2.txt").write_text("x\n")
    with pytest.raises(Faults) as caught:
        load(tmp_path)
    assert len(caught.value.faults) == 3
