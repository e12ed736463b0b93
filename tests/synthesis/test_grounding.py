"""Grounding: made-up values, numbers and names are found, what the text says passes, and what cannot be judged is said so."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loramem.sources.almanac import introductions
from loramem.sources.almanac.recovering import facts_of
from loramem.sources.almanac.supervision import render
from loramem.synthesis.grounding import grounded, names

TEXT = (
    "Ada Lorn's house stands in Rellin, near the Kiaseack river. In 1923 she sold 1,250 violins, at 3.5 crowns each, to three "
    "firms. Her number is 603-556-7631. The Open University of Zürich paid from 1990 to 1994."
)


def verdict(answer: str, question: str = "", text: str = TEXT, **settings) -> str:
    return grounded(question, answer, text, **settings).verdict


# -- numbers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("1923", ()),
        ("1924", ("1924",)),
        ("192", ("192",)),
        ("1250 violins", ()),
        ("1,250", ()),
        ("250", ("250",)),
        ("3.5 crowns", ()),
        ("3", ()),  # three
        ("5", ("5",)),
        ("603-556-7631", ()),
        ("(603) 556 7631", ()),
        ("556-603-7631", ("556 603 7631",)),
        ("603-556-763", ("603 556 763",)),
        ("1990-1994", ()),
        ("1990,1994", ()),
        ("1923-1994", ("1923 1994",)),
        ("１９２３", ()),
        ("١٩٢٣", ()),
        ("the 1990s", ()),
    ],
)
def test_numbers(answer, missing):
    found = grounded("", answer, TEXT)
    assert found.missing == missing and found.ok == (not missing)


def test_small_numbers_in_words_and_digits():
    assert verdict("three", text="There were 3 of them.") == verdict("3", text="Three of them.") == "grounded"
    assert (
        verdict("four", text="There were 3 of them.") == verdict("4", text="Three of them.") == "ungrounded"
    )


def test_a_number_in_the_question_is_not_given_to_the_answer():
    assert grounded("Was it 1923 or 1932?", "In 1932.", TEXT).missing == ("1932",)


# -- names -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The mayor Ada met Cid.", ["ada", "cid"]),
        ("Houses burnt. Rivers rose.", []),
        ("Ada Lorn slept. Mayor Bela woke", ["ada", "lorn", "mayor", "bela"]),
        ("Ada, Bela and Cid", ["ada", "bela", "cid"]),
        ("In Rellin", ["rellin"]),
        ("Yes, the NASA did. YES", ["nasa"]),
        ("NASA slept, iPhones rang", ["nasa", "iphones"]),
        ("He met Dr. Ada, J. Orr and St. Eve", ["dr", "ada", "orr", "st", "eve"]),
        ("He is Jean-Luc's friend from Paris-based AT&T", ["jean", "luc", "paris"]),
        ('« Ada » ran; "Bela" did', []),
        ("the Zu\u0308rich Stra\u00adße", ["zürich", "strasse"]),
        ("the ΟΔΥΣΣΕΎΣ of Москва", ["οδυσσεύσ", "москва"]),
        ("the GPT4 and the 3B", ["gpt4"]),
        ("", []),
        ("東京へ", []),
    ],
)
def test_which_words_are_names(text, found):
    assert names(text) == found


def test_a_name_must_be_in_the_text_or_in_the_question():
    assert grounded("", "It is Ada Orr, of Rellin", TEXT).missing == ("orr",)
    assert grounded("Did Orr know Ada?", "She, as Orr, sold violins", TEXT).missing == ()
    assert verdict("all LORNS of the house") == "grounded", "a plural, another case"
    assert verdict("open university, ZU\u0308RICH") == "grounded"


def test_short_answers_of_one_made_up_word():
    assert verdict("Corran") == "ungrounded" and verdict("Rellin.") == "grounded"
    assert verdict("a badger") == "ungrounded" and verdict("the river") == "grounded"


# -- the share of words ------------------------------------------------------------------------------
def test_support_by_hand():
    found = grounded("", "She bought 7 violins for the firms", TEXT)
    assert found.support == 2 / 4 and found.missing == ("7",), "of bought, violins, firms and 7"
    assert grounded("", "houses and violins", TEXT).support == 1.0
    assert grounded("", "red green violins", TEXT).support == 1 / 3
    assert verdict("red violins") == "grounded" and verdict("red violins", least=0.6) == "ungrounded"


def test_verbatim_is_in_a_row():
    assert (
        grounded("", "near the KIASEACK river", TEXT).verbatim
        and not grounded("", "near Kiaseack", TEXT).verbatim
    )
    assert not grounded("", "iver", TEXT).verbatim and not grounded("", "", TEXT).verbatim
    # the words of it stand there, the number does not
    assert grounded("", "5", TEXT).verbatim and not grounded("", "5", TEXT).ok


# -- what cannot be judged ---------------------------------------------------------------------------
@pytest.mark.parametrize("answer", ["Yes", "no.", "No, they are not.", "TRUE", "", " ", "?!", "It is.", "🙂"])
def test_unknown(answer):
    found = grounded("Is it so?", answer, TEXT)
    assert (found.verdict, found.support, found.ok) == ("unknown", 0.0, True)


def test_a_yes_with_reasons_is_judged_by_them():
    assert verdict("Yes, she sold violins.") == "grounded" and verdict("Yes, in 1932.") == "ungrounded"


def test_an_empty_text_bears_nothing_out():
    assert (
        verdict("Rellin", text="") == verdict("7", text="") == "ungrounded"
        and verdict("no", text="") == "unknown"
    )


def test_known_limits():
    """What the documentation says is not seen."""
    assert verdict("Kiaseack stands in Ada") == "grounded", "relations are not checked"
    assert verdict("Zürich did not pay") == "grounded", "nor is what is denied"
    assert verdict("7", text="Ada and six others.") == "ungrounded", "nothing is counted"


# -- any text ----------------------------------------------------------------------------------------
pieces = st.lists(
    st.sampled_from(("Ada", "LORN,", "1,250", "603-556", "3.5", "é", "e\u0301.", "ß", "Q\u0303a", "東京", "x\u00ady", "No.", "ﬁne", "İ", "²"))
    | st.text(max_size=4),
    max_size=12,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@example(["東京A"], 0, 9)
@given(pieces, st.integers(0, 12), st.integers(0, 12))
def test_a_text_bears_out_all_that_it_says(parts, start, stop):
    found = grounded("", " ".join(parts[start:stop]), " ".join(parts))
    assert found.verdict != "ungrounded" and found.missing == ()
    assert found.support == (1.0 if found.verdict == "grounded" else 0.0)


@settings(deadline=None, max_examples=120)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_text_gives_a_verdict(question, answer, text):
    found = grounded(question, answer, text)
    assert 0 <= found.support <= 1
    assert found.verdict == "unknown" or (found.verdict == "grounded") == (
        not found.missing and found.support >= 0.5
    )


def test_huge_lines():
    text = " ".join(f"w{n} Ada" for n in range(100_000))
    began = time.process_time()
    assert verdict(text, text=text) == "grounded" and verdict("W77 Ada", text=text) == "grounded"
    for n in range(200):  # the text is read once
        assert verdict(f"the W{n + 100_000}", text=text) == "ungrounded"
    assert verdict("A" * 1_000_000, text="-" * 1_000_000) == "ungrounded"
    assert time.process_time() - began < 15


# -- against known facts ------------------------------------------------------------------------------
def test_perfect_supervision_passes_and_a_bad_one_is_found():
    """Documents whose facts are known: no alarm at what is true, and most wrong values seen."""
    (source,) = introductions.build(introductions.IntroductionsConfig(documents=6), len)
    facts = facts_of(source)
    among = [fact for found in facts.values() for fact in found]

    def verdicts(recipe: str, rate: float) -> list[tuple[bool, bool]]:
        return [
            (item.wrong, grounded(item.prompt, item.answer, document.text).ok)
            for document in source.documents
            for item in render(facts[document.id], recipe, 12, seed=1, error_rate=rate, among=among).items
        ]

    for recipe in ("qa", "facts", "summary"):
        assert all(ok for _, ok in verdicts(recipe, 0.0)), recipe
    for recipe, least in (("qa", 0.9), ("summary", 0.9), ("facts", 0.5)):
        wrong = [ok for bad, ok in verdicts(recipe, 1.0) if bad]
        assert sum(not ok for ok in wrong) / len(wrong) > least, recipe
