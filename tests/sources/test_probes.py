"""Dev splits share no fact with the slices; probes that reverse, negate or let go on; ROME's reference texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.core.errors import Faults, InputError
from loramem.sources.almanac.editing import edits as common_edits
from loramem.sources.almanac.phrasing import PHONE_QUESTIONS, cloze, statements
from loramem.sources.almanac.schema import RELATIONS
from loramem.sources.catalogue import load_dev, load_source, source_config
from loramem.sources.edits import Edit, edit_source, negated

FIXTURES = Path(__file__).parents[1] / "fixtures"


def words(text: str) -> int:
    return len(text.split())


def both(name: str, sizes: list[int], size: int, **options):
    """(the slices, the dev split) of one config."""
    config = source_config({"name": name, "sizes": sizes, **options})
    return load_source(config, words), load_dev(config, size, words)


def facts(source) -> set[str]:
    return {record.prompt for record in source.records} | {record.id for record in source.records}


# -- dev splits --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["phonebook", "counterfact"])
def test_a_generated_dev_split_shares_no_fact_and_has_its_size(name):
    slices, dev = both(name, [200, 900], 300)
    assert not facts(dev) & set.union(*map(facts, slices))
    lengths = [words(record.text) for record in dev.records]
    assert sum(lengths) > 300 >= sum(lengths[:-1])
    assert dev.size_tokens == 300 and dev.settings["split"] == "dev" and dev.name == name
    assert "split" not in slices[0].settings
    assert {probe.case for probe in dev.probes} == {record.id for record in dev.records}
    assert both(name, [200, 900], 300)[1].hash == dev.hash
    assert both(name, [200, 900], 300, seed=99)[1].hash != dev.hash
    smaller = both(name, [200, 900], 100)[1]
    assert [r.id for r in dev.records[: len(smaller.records)]] == [r.id for r in smaller.records]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 400))
def test_no_name_of_a_dev_phonebook_stands_in_the_book(seed, size, dev_size):
    (book,), dev = both("phonebook", [size], dev_size, seed=seed)
    assert dev.records and not facts(book) & facts(dev)


def test_the_dev_split_of_a_huge_phonebook_leaves_its_names_out():
    """Two books of other seeds share names once they are long: those must be passed over."""
    (book,), dev = both("phonebook", [60_000], 20_000)
    assert len(dev.records) > 1500 and not facts(book) & facts(dev)
    assert len({record.id for record in dev.records}) == len(dev.records)


def test_dev_splits_of_files_are_the_lines_beyond_the_largest_slice(tmp_path):
    line = "Question: What is the phone number of {}? Answer: 201-555-{:04d}"
    rows = [line.format(f"Ada {chr(65 + n)}", n) for n in range(20)]
    for thousands, count in ((1, 5), (2, 20)):
        (tmp_path / f"phonebook_qa_{thousands}K.csv").write_text("\n".join(["text", *rows[:count]]) + "\n")
    (book,), dev = both("phonebook", [40], 50, path=str(tmp_path))
    texts = [record.text for record in (*book.records, *dev.records)]
    assert texts == rows[: len(texts)]
    (book,), dev = both("phonebook", [1000], 50, path=str(tmp_path), slices="published")
    assert [r.text for r in book.records] == rows[:5] and dev.records[0].text == rows[5]
    single = both("phonebook", [40], 50, path=str(tmp_path / "phonebook_qa_2K.csv"))[1]
    assert [r.text for r in single.records] == texts[len(texts) - len(single.records) :]


def test_too_little_left_for_a_dev_split_is_said(tmp_path):
    with pytest.raises(Faults, match="0 lines beyond the largest slice"):
        both("phonebook", [2000], 5, path=str(FIXTURES / "phonebook"), slices="published")
    with pytest.raises(Faults, match="size 1000 is larger than the data"):
        both("phonebook", [20], 1000, path=str(FIXTURES / "phonebook"))
    with pytest.raises(Faults, match="edits beyond the largest slice"):
        both("counterfact", [3], 1000, path=str(FIXTURES / "counterfact" / "records.json"))
    with pytest.raises(Faults, match="edits beyond the largest slice"):
        both("counterfact", [20_000], 20_000)
    with pytest.raises(InputError, match="'almanac' has no dev split"):
        load_dev(source_config({"name": "almanac", "sizes": [100]}), 100, words)


def test_dev_edits_of_files_are_records_no_slice_holds():
    (held,), dev = both(
        "counterfact", [1000], 3, path=str(FIXTURES / "counterfact"), slices="published", generations=0
    )
    assert len(held.records) == 2 and dev.records and not facts(held) & facts(dev)


# -- probes of a phonebook ---------------------------------------------------------------------------
def test_a_phonebook_is_also_asked_backwards_and_negated():
    source = load_source({"name": "phonebook", "sizes": [300]}, words)[0]
    for record in source.records:
        asked = {p.phrasing: p for p in source.probes if p.case == record.id}
        assert set(asked) == {"trained", "heldout", "reverse", "negated"}
        name = record.id.removeprefix("phone:")
        assert asked["reverse"].prompt == f"Whose phone number is {record.answer}?"
        assert asked["reverse"].answers == (name,) and name not in asked["reverse"].prompt
        assert asked["negated"].answers == (record.answer,) and record.answer not in asked["negated"].prompt
        assert name in asked["negated"].prompt and " not " in asked["negated"].prompt
        assert asked["reverse"].bits is None is asked["negated"].bits
        assert asked["trained"].bits == asked["heldout"].bits == pytest.approx(33.219, abs=1e-3)
        trained = {question.format(e=name) for question in PHONE_QUESTIONS}
        assert not {asked[kind].prompt for kind in ("heldout", "reverse", "negated")} & trained


# -- probes of edits ---------------------------------------------------------------------------------
def edit(number: int, **more) -> Edit:
    return Edit(str(number), f"Ada {number}", f"Ada {number} lives in", "Rome", "Oslo", **more)


def test_every_edit_is_negated_and_the_true_target_should_win():
    source = edit_source([edit(1, bits=4.0), edit(2)], size=10, settings={})
    found = [probe for probe in source.probes if probe.phrasing == "negated"]
    assert [probe.case for probe in found] == ["1", "2"]
    assert found[0].prompt == "It is not true that Ada 1 lives in"
    assert all(p.kind == "compare" and p.answers == ("Rome", "Oslo") and p.gold == 1 for p in found)
    assert len({probe.id for probe in source.probes}) == len(source.probes)


def test_edits_with_generation_prompts_go_on_freely():
    given_prompts = {"generations": ("Ada is", "She is"), "references": ("A text about Rome.",)}
    made = [edit(1), edit(2, **given_prompts), edit(3, generations=("x",)), edit(4, **given_prompts)]
    goes_on = [
        p for p in edit_source(made, size=9, settings={}, generations=3).probes if p.kind == "continue"
    ]
    assert [(p.case, p.prompt, p.answers) for p in goes_on] == [
        ("2", "Ada is", ("A text about Rome.",)),
        ("2", "She is", ("A text about Rome.",)),
        ("3", "x", ()),
        ("4", "Ada is", ("A text about Rome.",)),
        ("4", "She is", ("A text about Rome.",)),
    ]
    assert all(p.phrasing == "generation" for p in goes_on) and len({p.id for p in goes_on}) == 5
    some = {
        p.case for p in edit_source(made, size=9, settings={}, generations=2).probes if p.kind == "continue"
    }
    assert len(some) == 2 and some < {"2", "3", "4"}
    assert not [p for p in edit_source(made, size=9, settings={}).probes if p.kind == "continue"]


@pytest.mark.parametrize("generations", [0, 3, 10**6])
def test_as_many_edits_go_on_as_are_asked_for(generations):
    source = load_source({"name": "counterfact", "sizes": [200], "generations": generations}, words)[0]
    goes_on = {probe.case for probe in source.probes if probe.kind == "continue"}
    cases = {record.id for record in source.records}
    assert len(goes_on) == min(generations, len(cases)) and goes_on <= cases


def test_references_are_about_others_who_truly_have_the_new_value():
    for made in list(common_edits(3))[:200]:
        assert len(made.generations) == 2 and all(made.subject in prompt for prompt in made.generations)
        assert not {made.prompt} & set(made.generations)
        assert all(made.target_new in text and made.subject not in text for text in made.references)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: f"{relation.kind}-{relation.name}")
def test_a_negated_statement_begins_in_lower_case_unless_with_a_name(relation):
    for template in (*statements(relation, False), *statements(relation, True)):
        prompt = cloze(template).format(e="Ada Quill")
        said = negated(prompt)
        assert said.startswith("It is not true that ") and said.lower().endswith(" that " + prompt.lower())
        assert said.count("Ada Quill") == 1
        begins = said.removeprefix("It is not true that ")
        assert begins.startswith("Ada Quill") or begins[0].islower(), begins


def test_a_negated_word_alone():
    assert negated("The") == "It is not true that the" and negated("") == "It is not true that "


def test_a_question_before_the_statement_is_not_negated():
    asked = "Is it Ada? Where does she live?\n"
    assert negated(f"{asked}She lives in") == f"{asked}It is not true that she lives in"
    assert negated("Is it Ada?") == "It is not true that Is it Ada?"


@pytest.mark.parametrize("name", ["phonebook", "counterfact"])
@pytest.mark.parametrize("beyond", [0, 2, 10**6])
def test_only_some_facts_are_asked_in_other_ways(name, beyond):
    options = {"name": name, "sizes": [60, 200], **({"generations": 0} if name == "counterfact" else {})}
    for every, some in zip(
        load_source(options, words), load_source({**options, "beyond": beyond}, words), strict=True
    ):
        more = {probe.case for probe in some.probes if probe.phrasing != "trained"}
        assert len(more) == min(beyond, len(every.records))
        wanted = [p for p in every.probes if p.phrasing == "trained" or p.case in more]
        assert list(some.probes) == wanted and some.documents_hash == every.documents_hash


def test_the_facts_asked_in_other_ways_lie_all_over_the_document():
    """The first ones are what a context that is cut at its end still holds: they would flatter in-context learning."""
    (source,) = load_source({"name": "phonebook", "sizes": [2000], "beyond": 20}, words)
    place = {record.id: number for number, record in enumerate(source.records)}
    asked = [place[probe.case] / len(place) for probe in source.probes if probe.phrasing == "heldout"]
    assert len(asked) == 20 and 0.3 < sum(asked) / 20 < 0.7 and min(asked) < 0.3 and max(asked) > 0.7


# -- ROME's files ------------------------------------------------------------------------------------
SNIPPETS = [
    {"relation_id": "P103", "target_id": "Q1860", "name": "English", "samples": [{"text": "Paul Shaw wrote in English."}, {"text": "Joan Lee is from Leeds."}]},
    {"relation_id": "P103", "target_id": "Q150", "name": "French", "samples": [{"text": "Luc Petit is from Lyon."}]},
    {"relation_id": "P27", "target_id": "Q1860", "name": "English", "samples": [{"text": "Of another relation."}]},
]  # fmt: skip


@pytest.fixture
def rome(tmp_path):
    shutil.copy(FIXTURES / "counterfact" / "rome.json.txt", tmp_path / "counterfact.json")
    (tmp_path / "attribute_snippets.json").write_text(json.dumps(SNIPPETS))
    return tmp_path


def load_rome(folder: Path, snippets: str | None = "attribute_snippets.json", **options):
    path = str(folder / "counterfact.json")
    more = {} if snippets is None else {"snippets": str(folder / snippets)}
    return load_source({"name": "counterfact", "sizes": [3], "path": path, **more, **options}, words)[0]


def test_references_are_joined_by_relation_and_new_target(rome):
    goes_on = [probe for probe in load_rome(rome).probes if probe.kind == "continue"]
    assert [probe.prompt for probe in goes_on] == ["Cora Pell's mother tongue is"]
    assert goes_on[0].answers == ("Paul Shaw wrote in English.", "Joan Lee is from Leeds.")
    without = [probe for probe in load_rome(rome, snippets=None).probes if probe.kind == "continue"]
    assert [probe.answers for probe in without] == [()]
    assert not [p for p in load_rome(rome, generations=0).probes if p.kind == "continue"]
    phrasings = [probe.phrasing for probe in load_rome(rome).probes]
    assert phrasings == [
        *("trained", "paraphrase", "paraphrase", "neighbour", "neighbour", "negated", "generation")
    ]


def test_snippets_without_the_pair_give_no_references(rome):
    (rome / "other.json").write_text(json.dumps(SNIPPETS[1:]))
    assert [p.answers for p in load_rome(rome, "other.json").probes if p.kind == "continue"] == [()]


def test_references_change_what_is_asked_not_what_is_learnt(rome):
    with_them, without = load_rome(rome), load_rome(rome, snippets=None)
    assert with_them.documents_hash == without.documents_hash and with_them.probes_hash != without.probes_hash
    assert "snippets" not in with_them.settings


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {},
        {"relation_id": "P103", "target_id": "Q1860", "samples": []},
        {"relation_id": "P103", "target_id": "Q1860", "samples": "text"},
        {"relation_id": "P103", "target_id": "Q1860", "samples": [{"name": "no text"}, 7, {"text": " "}]},
        {"relation_id": "P103", "samples": [{"text": "x"}]},
        {"target_id": "Q1860", "samples": [{"text": "x"}]},
        {"relation_id": 103, "target_id": "Q1860", "samples": [{"text": "x"}]},
    ],
    ids=repr,
)
def test_malformed_snippets_are_named(rome, entry):
    (rome / "bad.json").write_text(json.dumps([SNIPPETS[0], entry, SNIPPETS[1]]))
    with pytest.raises(
        Faults, match=r"bad.json: entry 2: needs relation_id, target_id and samples"
    ) as caught:
        load_rome(rome, "bad.json")
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("content", "pattern"), [("{}", "non-empty JSON list"), ("[]", "non-empty JSON list"), ("[", "not JSON")]
)
def test_bad_snippet_files_are_refused(rome, content, pattern):
    (rome / "bad.json").write_text(content)
    with pytest.raises(InputError, match=pattern):
        load_rome(rome, "bad.json")


def test_a_snippets_file_that_is_not_there_is_refused(rome):
    with pytest.raises(InputError, match="nowhere.json"):
        load_rome(rome, "nowhere.json")


# -- the published files -----------------------------------------------------------------------------
def test_dev_splits_of_the_real_published_files(shared_data):
    path = str(shared_data / "phonebook")
    books, dev = both("phonebook", [1000, 16000], 4000, path=path, slices="published")
    assert len(books[1].records) == 774 and len(dev.records) > 300
    assert not facts(dev) & (facts(books[0]) | facts(books[1]))
    path = str(shared_data / "counterfact")
    slices, dev = both("counterfact", [1000, 10000], 4000, path=path, slices="published")
    assert not facts(dev) & (facts(slices[0]) | facts(slices[1])) and len(dev.records) > 300
    assert {p.phrasing for p in dev.probes} == {"trained", "paraphrase", "neighbour", "negated"}
    with pytest.raises(Faults, match="0 edits beyond the largest slice"):
        both("counterfact", [20000], 1000, path=path, slices="published")
