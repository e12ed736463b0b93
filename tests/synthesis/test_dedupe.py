"""Repetitions: the first stays, a contradiction is no repetition, and near ones go only where that is asked."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from loramem.core.errors import InputError
from loramem.metrics.text import same, words
from loramem.synthesis import Example
from loramem.synthesis.dedupe import Dropped, dedupe, particulars


def one(prompt: str, answer: str, form="chat", document="d") -> Example:
    return Example(form, prompt, answer, document, "r")


def test_the_first_of_equal_ones_stays():
    examples = [
        one("Who?", "Ada"),
        one("When?", "1923"),
        one("who", "ADA."),
        one("Who?", "Ada", "cloze"),
        one("Who?", "Ada", document="e"),
        one("WHO ?", " Ada "),
    ]
    kept, dropped = dedupe(examples)
    assert kept == (examples[0], examples[1], examples[3])
    assert dropped == Dropped(duplicates=(2, 4, 5)) and dropped.count == 3


def test_another_answer_to_the_same_question_is_a_conflict():
    examples = [one("Who?", "Ada"), one("who?", "Bela"), one("Who?", "Bela"), one("Who?", "ada")]
    kept, dropped = dedupe(examples)
    assert kept == (examples[0],) and dropped == Dropped(duplicates=(3,), conflicts=(1, 2))


def test_questions_that_name_their_document_are_different():
    examples = [
        one("[Paper ID: 3] What is new?", "A"),
        one("[Paper ID: 5] What is new?", "B"),
        one("What is new?", "C"),
    ]
    assert dedupe(examples) == (tuple(examples), Dropped())


def test_texts_contradict_nothing():
    examples = [
        one("", "Ada left.", "text"),
        one("", "Bela left.", "text"),
        one("", "ADA LEFT", "text"),
        one(" ", "?", "chat"),
    ]
    kept, dropped = dedupe(examples)
    assert kept == (examples[0], examples[1], examples[3]) and dropped == Dropped(duplicates=(2,))


def test_spellings():
    same_ones = [one("Zoë?", "ﬁne"), one("ZOE\u0308", "FINE"), one("zoë\u200b", "ｆｉｎｅ")]
    assert dedupe(same_ones) == ((same_ones[0],), Dropped(duplicates=(1, 2)))
    others = [one("Zoe?", "fine"), one("🙂", "x"), one("?!", "x"), one("東京", "x"), one("京東", "x")]
    assert dedupe(others) == (tuple(others), Dropped())


def test_nothing():
    assert dedupe([]) == ((), Dropped()) == dedupe([], ratio=90)
    assert dedupe([one("", "")], ratio=90) == ((one("", ""),), Dropped())


def test_near_ones_go_where_that_is_asked():
    examples = [
        one("What is the mascot of Briodra Company?", "a fox"),
        one("What is the mascot for Briodra Company?", "a fox"),
        one("What is the mascot of Flolur Company?", "a fox"),
        one("What is the mascot of Briodra Company?", "a fox", "cloze"),
    ]
    assert dedupe(examples)[1] == Dropped()
    kept, dropped = dedupe(examples, ratio=90)
    assert kept == (examples[0], *examples[2:]) and dropped == Dropped(near=(1,))


@pytest.mark.parametrize("ratio", [0, -1, 100.5, float("nan")])
def test_a_ratio_out_of_range(ratio):
    with pytest.raises(InputError, match="ratio"):
        dedupe([], ratio=ratio)


sentences = st.lists(st.sampled_from(("what", "of", "the", "is", "Ada", "1923", "zoë")), max_size=6).map(
    " ".join
)
drawn = st.lists(st.builds(one, sentences, sentences, st.sampled_from(("chat", "text"))), max_size=10)


@settings(deadline=None, max_examples=120)
@given(drawn, st.sampled_from((None, 60, 85)))
def test_as_by_comparing_each_with_those_that_stay(examples, ratio):
    def close(a: Example, b: Example) -> bool:
        one, other = f"{a.prompt} {a.answer}", f"{b.prompt} {b.answer}"
        texts = same(one), same(other)
        score = max(fuzz.ratio(*texts), fuzz.ratio(*(" ".join(sorted(text.split())) for text in texts)))
        about = particulars(one) <= set(words(other)) and particulars(other) <= set(words(one))
        return score >= ratio and about

    first: list[int] = []
    duplicates, conflicts = [], []
    for index, e in enumerate(examples):
        keys = (e.form, same(e.prompt), same(e.answer))
        for before in first:
            b = examples[before]
            if (b.form, same(b.prompt), same(b.answer)) == keys:
                duplicates.append(index)
                break
            if keys[1] and (b.form, same(b.prompt)) == keys[:2]:
                conflicts.append(index)
                break
        else:
            first.append(index)
    stay: list[int] = []
    for index in first:
        e = examples[index]
        if ratio is None or not any(examples[b].form == e.form and close(e, examples[b]) for b in stay):
            stay.append(index)
    kept, dropped = dedupe(examples, ratio=ratio)
    assert kept == tuple(examples[index] for index in stay)
    assert dropped == Dropped(
        tuple(duplicates), tuple(conflicts), tuple(index for index in first if index not in stay)
    )
    assert dedupe(kept, ratio=ratio) == (kept, Dropped()), "once is enough"


def test_huge_lines_and_many():
    began = time.process_time()
    line = " ".join(f"w{n}" for n in range(60_000))
    kept, dropped = dedupe([one(line, line), one(line.upper(), line), one("Who?", line)], ratio=90)
    assert len(kept) == 2 and dropped == Dropped(duplicates=(1,))
    many = [one(f"What did W{n % 2_000} do in {n % 2_000}?", "left") for n in range(4_000)]
    kept, dropped = dedupe(many, ratio=90)
    assert len(kept) == len(dropped.duplicates) == 2_000
    assert time.process_time() - began < 15
