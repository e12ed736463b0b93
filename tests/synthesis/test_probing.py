"""Evaluation questions: levels, splits, what is not asked, and who must not ask."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import InputError, RunFailed
from loramem.core.files import write_jsonl
from loramem.sources.probe_file import SPLITS, read_probes
from loramem.synthesis.completing import Failure
from loramem.synthesis.probing import CHECKED, LEVELS, portion_of, refuse_same, split_of, write_probes
from loramem.synthesis.units import as_units
from loramem.synthesis.writing import ModelWriter
from synthesis.scripts import Scribe, document, facts, good, lamps, pair, wanted

SHARES = (0.0, 0.2, 0.8)
shares = st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(1, 10)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


def probes(scribe: Scribe, *documents, n: int = 5, levels=("recall",), shares=SHARES, exclude=()):
    writers = {level: ModelWriter(scribe, check=level in CHECKED) for level in levels}
    return write_probes(as_units(documents), writers, n, shares=shares, exclude=exclude)


# -- splits ----------------------------------------------------------------------------------------------------
@given(st.integers(0, 60), shares, st.text(max_size=5))
def test_splits_have_their_shares_of_every_document(count, shares, name):
    found = split_of(count, shares, name, "recall")
    counts = Counter(found)
    assert len(found) == count and set(found) <= set(SPLITS)
    for split, share in zip(SPLITS, shares, strict=True):
        assert abs(counts[split] - share * count) <= 1
        assert share > 0 or not counts[split]
    assert found == split_of(count, shares, name, "recall"), "the same every time"


def test_the_order_is_drawn_for_each_document():
    orders = {tuple(split_of(10, (0.2, 0.2, 0.6), name, "recall")) for name in "abcdef"}
    assert len(orders) > 1
    assert {tuple(sorted(order)) for order in orders} == {("dev",) * 2 + ("test",) * 6 + ("train",) * 2}
    assert split_of(10, SHARES, "a", "recall") != split_of(10, SHARES, "a", "structure")


def test_splits_of_small_counts():
    assert split_of(1, SHARES, "a") == ["test"] and split_of(0, SHARES, "a") == []
    assert split_of(3, (0.0, 0.0, 1.0), "a") == ["test"] * 3
    assert split_of(3, (1.0, 0.0, 0.0), "a") == ["train"] * 3


# -- writing ---------------------------------------------------------------------------------------------------
def test_rows_of_every_level_are_a_probe_file(tmp_path):
    names = {"recall": "x", "comprehension": "y", "structure": "z"}

    def say(ask, number):
        (level,) = [level for level in LEVELS if LEVELS[level].split("{n}")[1] in ask.user]
        return [(f"{question} ({names[level]})", said) for question, said in lamps(ask.user)[: wanted(ask)]]

    documents = facts("d1", 30), facts("ü/2.md", 30)
    rows, accounts = probes(Scribe(say), *documents, n=10, levels=tuple(LEVELS))
    assert [(one.unit, one.recipe, one.written) for one in accounts] == [
        (d.id, level, 10) for level in LEVELS for d in documents
    ]
    assert Counter((r["document"], r["level"], r["split"]) for r in rows) == {
        (d.id, level, split): count
        for d in documents
        for level in LEVELS
        for split, count in (("dev", 2), ("test", 8))
    }
    assert len({row["id"] for row in rows}) == len(rows) == 60
    assert {row["generator"] for row in rows} == {"scribe"} and all(
        row["prompt_hash"] and row["tokens_spent"] == 10 for row in rows
    )
    write_jsonl(tmp_path / "p.jsonl", rows)
    found, writers = read_probes(tmp_path / "p.jsonl", documents, "test")
    assert writers == ["scribe"] and len(found) == 48 and {p.level for p in found} == set(LEVELS)
    assert {p.document for p in found} == {d.id for d in documents}
    assert len(read_probes(tmp_path / "p.jsonl", documents, "all")[0]) == 60


def test_what_the_supervision_asks_is_not_asked_again():
    taught = {"where does LAMP x-0 hang", pair("x", 2)[0]}
    scribe = Scribe(lambda ask, number: [pair("x", n) for n in range(6)])
    rows, (account,) = probes(scribe, facts("x", 9), n=6, exclude=taught)
    assert [row["question"] for row in rows] == [pair("x", n)[0] for n in (1, 3, 4, 5)]
    assert account.shortfall == 2 and account.duplicates >= 2


def test_no_question_stands_at_two_levels():
    rows, accounts = probes(
        Scribe(lambda ask, number: [pair("x", 0), pair("x", 1)]), facts("x", 9), n=2, levels=tuple(LEVELS)
    )
    assert len({row["question"] for row in rows}) == len(rows) == 2
    assert [account.written for account in accounts] == [2, 0, 0]


def test_recall_must_stand_in_the_text_and_understanding_need_not():
    made_up = [("Why is lamp x-0 lit?", "Because Ada Lorn fears the dark.")]
    rows, accounts = probes(
        Scribe(lambda ask, number: made_up if wanted(ask) else []),
        facts("x", 9),
        n=1,
        levels=("recall", "comprehension"),
    )
    assert [row["level"] for row in rows] == ["comprehension"]
    assert [account.ungrounded for account in accounts] == [1, 0]


def test_one_document_may_fail_and_all_may_not():
    scribe = Scribe(lambda ask, number: Failure("timeout", "too late") if "Lamp y-0" in ask.user else good(ask, number))  # fmt: skip
    rows, accounts = probes(scribe, facts("x", 9), facts("y", 9))
    assert {row["document"] for row in rows} == {"x"} and accounts[1].failures == {"timeout": 2}
    with pytest.raises(RunFailed, match=r"no question was written \(y recall: 2 calls failed \(timeout: too late\)\)"):  # fmt: skip
        probes(scribe, facts("y", 9))
    with pytest.raises(RunFailed, match="no question was written"):
        probes(Scribe(), document("x", "Nothing is lit."))


def test_each_level_asks_in_its_own_words():
    for level in LEVELS:
        portion = portion_of(level, 7)
        assert portion.label == f"{level}:7" and portion.kind.form == "chat"
        assert "Write 3 examination questions" in portion.kind.instruction.format(n=3)
    assert len({portion_of(level, 1).kind.instruction for level in LEVELS}) == 3


# -- who asks --------------------------------------------------------------------------------------------------
def test_who_taught_does_not_examine():
    for others in (set(), {"source"}, {"gpt-a", "source"}, ["gpt-b-mini"]):
        refuse_same(others, "gpt-b")
    with pytest.raises(InputError, match="gpt-b would write both.*--force.*same_examiner: true"):
        refuse_same({"source", "gpt-b"}, "gpt-b")
