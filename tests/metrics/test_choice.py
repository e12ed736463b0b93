"""Replies to lettered questions: a letter is read where it is the answer, and nowhere else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.core.errors import InputError
from loramem.metrics.choice import MOST_OPTIONS, letters_prompt, parse_letter
from loramem.metrics.scorers import METRICS, score
from loramem.sources.types import Probe

GIVEN = {
    0: ["A", "A.", "(A)", "A. man", "A) a man", "Answer: A", "The answer is A.", "The answer is A because it says so", "A, a man"],
    1: [
        "B", "b", "B.", "(B)", "(b)", "[b]", "b.", "B)", "B:", "B!", "  B  ", '"B"', "'B'", "**B**", "**B.** red", "`B`", "Ｂ", "（B）",
        "The answer is B", "The answer is B.", "The answer is: B", "The answer is\nB", "Answer: B", "answer: B.", "ANSWER: B", "Answer:\nB",
        "Answer: (B) red", "Answer: **B**", "The answer is **(B)**.", "Answer B", "option B", "Option B.", "The answer is option B",
        "The correct option is B.", "Choice (b)", "B is correct.", "B is the right answer", "Option B is correct.", "B. text of option",
        "B) the red lamp", "(B) the red lamp", "B: red", "B - red", "B, the red one", "B\nThe lamp is red.", "B because the lamp is red",
        "I think the answer is B.", "The answer is B. A man did it.", "B. I think so.", "Answer: B\nAnswer: B", "B. B is right.",
    ],
    2: ["The correct answer is (C).", "My choice: C", "Answer = C", "The letter is C"],
    3: ["Answer: D", "answer: **D", "D. I think so.", "D"],
}  # fmt: skip
NOT_GIVEN = [
    "", " ", "red", "A man did it.", "An apple", "I think", "I think it is late", "Both", "Bob", "None of them", "Because", "1", "...", "?",
    "B or C", "B and C", "B & C", "A, B", "Answer: A, B", "A. B.", "A.B.", "(A) (B)", "the option (a) or (b)", "The answer is B, not C",
    "B. no, C", "Answer: B. Answer: C", "Answer: B. Answer: E", "Question: x A. r B. s", "A. red\nB. blue\nC. green\nD. grey",
    "The answer is a man", "The answer is A man", "Answer: A man", "the answer is a", "The answer is I think",
    "It is not B", "The answer is not B", "It is not option B", "I don't think the answer is B", "Option B is wrong", "B is wrong", "B?", "(B)?",
    "Option B?", "E", "(E)", "Answer: E", "ABCD", "A/B", "A-D", "B-movie", "B's", "B red lamp", "Vitamin C", "B. Vitamin C", "C++", "U.S.",
]  # fmt: skip


def test_the_two_replies_that_the_published_code_gets_wrong():
    assert parse_letter("The answer is B", 4) == 1 and parse_letter("Answer: D", 4) == 3


@pytest.mark.parametrize(("text", "index"), [(text, index) for index in GIVEN for text in GIVEN[index]])
def test_a_letter_that_is_the_answer_is_read(text, index):
    assert parse_letter(text, 4) == index


@pytest.mark.parametrize("text", NOT_GIVEN)
def test_whatever_is_not_clearly_one_letter_is_unparsed(text):
    assert parse_letter(text, 4) is None


FORMS = [
    "{}", "{}.", "({})", "**{}**", "Answer: {}", "The answer is {}.", "The correct answer is ({}).", "option {}", "{}. some words", "{}\nwhy",
    "{} is correct",
]  # fmt: skip


@given(st.integers(2, MOST_OPTIONS), st.sampled_from(FORMS), st.data())
def test_every_letter_in_every_form_and_none_beyond_the_options(count, form, data):
    index = data.draw(st.integers(0, MOST_OPTIONS - 1))
    found = parse_letter(form.format(string.ascii_uppercase[index]), count)
    assert found == (index if index < count else None)


@given(st.integers(2, MOST_OPTIONS), st.sampled_from(FORMS), st.sampled_from(FORMS), st.data())
def test_two_letters_are_none(count, one, other, data):
    first, second = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
    text = f"{one.format(string.ascii_uppercase[first])}\n{other.format(string.ascii_uppercase[second])}"
    assert parse_letter(text, count) is None


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(2, MOST_OPTIONS))
def test_any_text_gives_an_option_or_nothing(text, count):
    found = parse_letter(text, count)
    assert found is None or 0 <= found < count


@given(
    st.text(string.ascii_lowercase + " ,.", min_size=2, max_size=60).filter(lambda t: len(t.strip(" .,")) > 1)
)
def test_words_alone_give_nothing(text):
    assert parse_letter(text, MOST_OPTIONS) is None


def test_the_text_of_the_option_does_not_make_it_unclear():
    options = ["zinc", "Vitamin C", "not A, but D", "iron"]
    for text, index in (
        ("B. Vitamin C", 1),
        ("B) vitamin c.", 1),
        ("B. Vita", 1),
        ("C. not A, but D", 2),
        ("C. not A, b", 2),
    ):
        assert parse_letter(text, 4, options) == index, text
        assert parse_letter(text, 4) is None or "C" not in text
    assert parse_letter("A. Vitamin C", 4, options) is None, "another option's text, with a letter in it"
    assert parse_letter("The answer is A.", 4, options) == 0
    with pytest.raises(InputError, match="3 options, but count is 4"):
        parse_letter("B", 4, options[:3])


def test_long_replies_are_read_in_no_time():
    assert parse_letter("the answer " * 5000 + "is B", 4) == 1
    assert parse_letter("A. " + "( [ answer : option " * 5000, 4) == 0


@given(st.integers(2, MOST_OPTIONS))
def test_a_prompt_shows_every_option_once_under_its_letter(count):
    options = [f"thing\n number {n}" for n in range(count)]
    lines = letters_prompt("What is it?\nSay.", options).split("\n")
    assert lines[:2] == ["What is it?", "Say."] and "letter" in lines[-1]
    assert lines[2:-1] == [f"{string.ascii_uppercase[n]}. thing number {n}" for n in range(count)]


def test_letters_are_enough_or_it_is_said():
    for count in (0, 1, 27):
        with pytest.raises(InputError, match=f"{count} options: allowed are 2 to 26"):
            letters_prompt("?", ["x"] * count)
        with pytest.raises(InputError, match=f"{count} options"):
            parse_letter("A", count)


# -- metrics ---------------------------------------------------------------------------------------
def choice(hard: bool = False, gold: int = 1) -> Probe:
    return Probe("p", "c", "d", "choice", "heldout", "?", ("red", "blue", "grey"), gold, hard=hard)


def scored(name: str, said: str | None, *, hard: bool = True, failure: str | None = None):
    return score(METRICS.get(name), choice(hard), {"letter_prediction": said, "failure": failure})


@pytest.mark.parametrize("name", ["accuracy_parsed", "accuracy_parsed_hard"])
def test_an_unparsed_reply_is_wrong_and_a_failed_one_has_failed_in_the_hard_subset_too(name):
    assert scored(name, "The answer is B") == 1.0 and scored(name, "A. red") == 0.0
    assert scored(name, "B. blue") == 1.0 and scored(name, "B or C") == 0.0 == scored(name, "")
    assert scored(name, None, failure="out of memory") is None
    metric = METRICS.get(name)
    assert (
        metric.measured({"letter_prediction": ""})
        and metric.measured({"failure": "x"})
        and not metric.measured({"prediction": "B"})
    )


def test_what_could_be_parsed_is_counted_and_the_hard_subset_is_the_hard_questions():
    assert [scored("parsed", said) for said in ("C", "Answer: A", "A man", "")] == [1.0, 1.0, 0.0, 0.0]
    assert scored("parsed", None, failure="x") is None
    easy, hard = choice(), choice(hard=True)
    assert METRICS.get("accuracy_parsed").applies(easy) and METRICS.get("accuracy_parsed").applies(hard)
    assert not METRICS.get("accuracy_parsed_hard").applies(easy) and METRICS.get(
        "accuracy_parsed_hard"
    ).applies(hard)
