"""PhoneBook and CounterFact: generated at any size, read from every published form; bad rows are named by line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import Faults, InputError, LoramemError
from loramem.sources.catalogue import load_source
from loramem.sources.slicing import nested_slices

FIXTURES = Path(__file__).parents[1] / "fixtures"


def words(text: str) -> int:
    return len(text.split())


def load(name: str, sizes: list[int], **settings):
    return load_source({"name": name, "sizes": sizes, **settings}, words)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=40), st.lists(st.integers(1, 60), min_size=1, max_size=4)
)
def test_slices_are_nested_and_end_where_the_count_first_exceeds_the_size(lengths, sizes):
    lines = [" ".join(["x"] * length) for length in lengths]
    try:
        cut = nested_slices(lines, sizes, words, what="lines")
    except Faults:
        assert max(sizes) >= sum(lengths)
        return
    for size, count in cut.items():
        assert sum(lengths[:count]) > size >= sum(lengths[: count - 1])


@pytest.mark.parametrize("name", ["phonebook", "counterfact"])
def test_generated_slices_are_nested_seeded_and_sized(name):
    small, large = load(name, [200, 900])
    assert [r.id for r in large.records[: len(small.records)]] == [r.id for r in small.records]
    assert sum(words(r.text) for r in small.records) > 200 >= sum(words(r.text) for r in small.records[:-1])
    assert load(name, [200])[0].hash == small.hash != load(name, [200], seed=99)[0].hash
    assert len({p.id for p in large.probes}) == len(large.probes)
    assert {p.case for p in large.probes} == {r.id for r in large.records}


def test_every_fact_is_asked_in_trained_and_heldout_words():
    source = load("phonebook", [300])[0]
    for record in source.records:
        asked = {p.phrasing: p for p in source.probes if p.case == record.id}
        assert asked["trained"].prompt == record.prompt != asked["heldout"].prompt
        for phrasing in ("trained", "heldout"):
            probe = asked[phrasing]
            assert probe.answers == (record.answer,) and probe.bits == pytest.approx(33.219, abs=1e-3)


def test_a_huge_phonebook_has_distinct_names():
    source = load("phonebook", [900_000])[0]
    assert len(source.records) > 70_000 and len({r.id for r in source.records}) == len(source.records)


def test_published_phonebook_slices():
    one, two = load("phonebook", [1000, 2000], path=str(FIXTURES / "phonebook"), slices="published")
    assert [len(one.records), len(two.records)] == [3, 5]
    assert (
        one.records[1].prompt == "What is the phone number of Bela Zoë Rast?"
        and one.records[1].answer == "202-555-0102"
    )
    assert any("asks 2 of 5 facts" in note for note in two.notes)
    recut = load("phonebook", [20], path=str(FIXTURES / "phonebook"))[0]
    assert [r.id for r in recut.records] == [r.id for r in two.records[: len(recut.records)]]


def test_published_counterfact_forms():
    folder = FIXTURES / "counterfact"
    source = load("counterfact", [1000], path=str(folder), slices="published")[0]
    assert [r.text for r in source.records] == [
        "The Quill Tower stands in Rome",
        "Emil Grau, a native of Chile",
    ]
    by = {p.id: p for p in source.probes}
    assert by["7-trained"].answers == ("Rome", "Oslo") and by["7-trained"].gold == 0
    assert by["7-neighbour-0"].prompt == "The Rast Bridge stands in" and by["7-neighbour-0"].gold == 1
    whole = load("counterfact", [10], path=str(folder / "records.json"))[0]
    assert "7-neighbour-0" not in {p.id for p in whole.probes}, (
        "a neighbour that is edited itself is left out"
    )
    assert "1 neighbours left out" in whole.notes[0]


def test_rome_form(tmp_path):
    shutil.copy(FIXTURES / "counterfact" / "rome.json.txt", tmp_path / "counterfact.json")
    source = load("counterfact", [3], path=str(tmp_path / "counterfact.json"))[0]
    assert source.records[0].text == "The mother tongue of Cora Pell is English"
    phrasings = [p.phrasing for p in source.probes]
    assert phrasings == [
        *("trained", "paraphrase", "paraphrase", "neighbour", "neighbour", "negated", "generation")
    ]
    by = {p.id: p for p in source.probes}
    neighbours = [p for p in source.probes if p.phrasing == "neighbour"]
    assert len(by) == len(source.probes) and {p.answers for p in neighbours} == {("English", "French")}


LINE = "Question: What is the phone number of {}? Answer: {}\n"
BAD = {
    "empty file": (b"", "empty file"),
    "header only": (b"text\n", "no rows below"),
    "no column": (b"words\nhello\n", "no 'text' column"),
    "not utf-8": ("text\nQuestion: What is the phone number of Zo\xeb? Answer: 201-555-0101\n".encode("latin-1"), "not UTF-8"),
    "nul": (b"text\nab\0c\n", ":2: holds a NUL byte"),
    "other words": (b"text\nAda: 201-555-0101\nhello\n", ":2: not 'Question"),
    "short number": (("text\n" + LINE.format("Ada", "201-555-010")).encode(), ":2: not"),
    "two numbers": (("text\n" + LINE.format("Ada", "201-555-0101") + LINE.format("Ada", "201-555-0102")).encode(), ":3: 'Ada' has another number in line 2"),
    "extra field": (b"text\na,b\n", ":2: 2 fields, expected 1"),
    "open quote": (b'text\n"abc\n', "not CSV"),
    "empty cell": (b'text\n""\n', ":2: empty 'text'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_phonebook_files_are_named(case, tmp_path):
    content, pattern = BAD[case]
    path = tmp_path / "phonebook_qa_1K.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load("phonebook", [5], path=str(path))
    assert pattern in str(caught.value) and path.name in str(caught.value)


def test_all_faults_of_a_file_come_at_once(tmp_path):
    path = tmp_path / "phonebook_qa_1K.csv"
    path.write_text("text\n" + "wrong\n" * 30)
    with pytest.raises(Faults) as caught:
        load("phonebook", [5], path=str(path))
    assert len(caught.value.faults) == 21 and "10 more" in caught.value.faults[-1]


def test_bom_crlf_and_repeated_lines_are_fine(tmp_path):
    path = tmp_path / "phonebook_qa_1K.csv"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + ("text\r\n" + LINE.format("Ada Q", "201-555-0101").replace("\n", "\r\n") * 2).encode()
    )
    assert len(load("phonebook", [5], path=str(path))[0].records) == 1


def test_an_evaluation_answer_that_contradicts_the_slice_is_a_fault(tmp_path):
    shutil.copytree(FIXTURES / "phonebook", tmp_path / "p")
    (tmp_path / "p" / "phonebook_eval_qa_1K.json").write_text(
        '[{"question": "What is the phone number of Ada Quill", "answer": "999-999-9999"}]'
    )
    with pytest.raises(Faults, match="the slice says '201-555-0101'"):
        load("phonebook", [1000], path=str(tmp_path / "p"), slices="published")


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"path": "nowhere"}, "no such file"),
        ({"slices": "published"}, "needs path"),
        (
            {"path": str(FIXTURES / "phonebook"), "slices": "published", "sizes": [3000]},
            "allowed: 1000, 2000",
        ),
        ({"path": str(FIXTURES / "phonebook"), "sizes": [10**6]}, "size 1000000 is larger than the data"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [0]}, "greater than 0"),
        ({"sizes": [5], "sise": 3}, "Did you mean"),
    ],
)
def test_impossible_settings_are_refused(settings, pattern):
    with pytest.raises(LoramemError, match=pattern):
        load_source({"name": "phonebook", "sizes": [5], **settings}, words)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("{}", "non-empty JSON list"),
        ("[]", "non-empty JSON list"),
        ("[1]", "record 1: needs a case_id"),
        ('[{"case_id": 1, "prompt": "x"}]', "needs prompt, subject"),
        (
            '[{"case_id": 1, "requested_rewrite": {"prompt": "no braces", "subject": "s"}}]',
            "needs requested_rewrite",
        ),
        ("[", "not JSON"),
    ],
)
def test_bad_counterfact_records_are_named(content, pattern, tmp_path):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match=pattern):
        load("counterfact", [5], path=str(tmp_path / "r.json"))


def test_a_slice_line_without_its_record_is_named(tmp_path):
    shutil.copytree(FIXTURES / "counterfact", tmp_path / "c")
    (tmp_path / "c" / "counterfact_edit_1K.csv").write_text(
        "text\nThe Quill Tower stands in Rome\nThe moon is cheese\n"
    )
    with pytest.raises(Faults, match="counterfact_edit_1K.csv:3: no records say 'The moon is cheese'"):
        load("counterfact", [1000], path=str(tmp_path / "c"), slices="published")


def test_a_size_larger_than_the_common_world_is_refused():
    with pytest.raises(Faults, match="larger than the data: 2572 common facts"):
        load("counterfact", [10**7])


def test_the_real_published_files(shared_data):
    found = load("phonebook", [1000, 4000, 16000], path=str(shared_data / "phonebook"), slices="published")
    assert [len(s.records) for s in found] == [48, 193, 774]
    assert [s.notes[1].split("asks ")[1].split(" facts")[0] for s in found] == [
        "37 of 48",
        "150 of 193",
        "600 of 774",
    ]
    edits = load("counterfact", [1000, 20000], path=str(shared_data / "counterfact"), slices="published")
    assert [len(s.records) for s in edits] == [106, 2154]
