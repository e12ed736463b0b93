"""Repetitions: the first stays, another answer is no repetition, and spelling makes no difference."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.metrics.text import same
from loramem.synthesis import Example
from loramem.synthesis.dedupe import repeated


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
    assert repeated(examples) == {2, 4, 5}


def test_another_answer_to_the_same_question_is_no_repetition():
    examples = [one("Who?", "Ada"), one("who?", "Bela"), one("Who?", "Bela"), one("Who?", "ada")]
    assert repeated(examples) == {2, 3}


def test_questions_that_name_their_document_are_different():
    asked = ("[Paper ID: 3] What is new?", "[Paper ID: 5] What is new?", "What is new?")
    assert repeated([one(question, "A") for question in asked]) == set()


def test_texts():
    examples = [
        one("", "Ada left.", "text"),
        one("", "Bela left.", "text"),
        one("", "ADA LEFT", "text"),
        one(" ", "?", "chat"),
    ]
    assert repeated(examples) == {2}


def test_spellings():
    assert repeated([one("Zoë?", "ﬁne"), one("ZOE\u0308", "FINE"), one("zoë\u200b", "ｆｉｎｅ")]) == {1, 2}
    others = [one("Zoe?", "fine"), one("🙂", "x"), one("?!", "x"), one("東京", "x"), one("京東", "x")]
    assert repeated(others) == set() == repeated([]) == repeated([one("", "")])


sentences = st.lists(st.sampled_from(("what", "of", "the", "is", "Ada", "1923", "zoë")), max_size=6).map(
    " ".join
)
drawn = st.lists(st.builds(one, sentences, sentences, st.sampled_from(("chat", "text"))), max_size=10)


@settings(deadline=None, max_examples=120)
@given(drawn)
def test_as_by_comparing_each_with_those_before(examples):
    keys = [(e.form, same(e.prompt), same(e.answer)) for e in examples]
    assert repeated(examples) == {n for n, key in enumerate(keys) if key in keys[:n]}
    kept = [e for n, e in enumerate(examples) if n not in repeated(examples)]
    assert repeated(kept) == set(), "once is enough"


def test_huge_lines_and_many():
    line = " ".join(f"w{n}" for n in range(60_000))
    assert repeated([one(line, line), one(line.upper(), line), one("Who?", line)]) == {1}
    many = [one(f"What did W{n % 2_000} do in {n % 2_000}?", "left") for n in range(4_000)]
    assert repeated(many) == set(range(2_000, 4_000))
