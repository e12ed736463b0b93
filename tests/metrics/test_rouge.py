"""ROUGE and BLEU: values reckoned by hand, several references, and texts that the package's own tokenizer would empty."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from loramem.metrics.rouge import UnicodeWords, bleu, rouge
from loramem.metrics.scorers import METRICS, score
from loramem.sources.types import Probe

KINDS = ("rouge1", "rouge2", "rougeL")
ascii_texts = st.text(st.characters(max_codepoint=127), max_size=60)
WORDS = ("The", "mayors", "were", "walking", "home;", "it's", "1990,", "(un)happily!", "a_b", "ox")
sentences = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def all_rouge(prediction: str, *references: str) -> tuple[float, ...]:
    return tuple(rouge(prediction, references, kind) for kind in KINDS)


# -- ROUGE -------------------------------------------------------------------------------------------
def test_rouge_by_hand():
    # words: the cat lay on red mats | the cat sat on mats: common the, cat, on, mat(s) = 4 of 6 and of 5
    # pairs: only "the cat" of 5 and 4; longest common subsequence: the cat on mats = 4
    found = all_rouge("The cat lay on red mats.", "the cat sat on mats")
    assert found == pytest.approx((8 / 11, 2 / 9, 8 / 11))
    # order matters to the subsequence alone: b a against a b
    assert all_rouge("b a", "a b") == pytest.approx((1.0, 0.0, 0.5))
    # a word counts as often as both have it: two of four and of two
    assert all_rouge("no no no no", "no no") == pytest.approx((4 / 6, 2 / 4, 4 / 6))


def test_the_stemmer_is_on():
    assert all_rouge("walked houses", "walking house") == (1.0, 1.0, 1.0)
    assert all_rouge("cats", "cat") == (1.0, 0.0, 1.0), "one word has no pair of words"
    assert all_rouge("his", "hi") == (0.0, 0.0, 0.0), "words of three letters are not stemmed"


def test_the_best_reference_counts_for_each_score():
    # against "x a b" the pair a b is found, against "b a" all words are
    assert all_rouge("a b", "x a b", "b a") == pytest.approx((1.0, 2 / 3, 0.8))
    assert all_rouge("a b", "b a", "x a b") == all_rouge("a b", "x a b", "b a")


@pytest.mark.parametrize("text", ["", "  \n", "?!", "…", "\ufe0f", "🙂"])
def test_without_words_the_score_is_zero(text):
    assert all_rouge(text, "yes") == (0.0, 0.0, 0.0) == all_rouge("yes", text)
    assert all_rouge(text, text) == (0.0, 0.0, 0.0)
    assert all_rouge("yes it is", text, "yes it is") == (1.0, 1.0, 1.0)


@settings(deadline=None, max_examples=150)
@example("I\x1cI", "I I")
@given(ascii_texts | sentences, ascii_texts | sentences)
def test_ascii_text_scores_as_in_the_package(prediction, reference):
    tokenizer = DefaultTokenizer(use_stemmer=True)
    assert UnicodeWords().tokenize(prediction) == tokenizer.tokenize(prediction)
    package = RougeScorer(KINDS, use_stemmer=True).score(reference, prediction)
    assert all_rouge(prediction, reference) == tuple(package[kind].fmeasure for kind in KINDS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Zoë’s naïve ﬁancé", ["zoë", "s", "naïve", "fiancé"]),
        ("Zoe\u0308", ["zoë"]),
        ("ΑΘΗΝΑ: 42 μ.", ["αθηνα", "42", "μ"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京タワー、1958年", ["東", "京", "タ", "ワ", "ー", "1958", "年"]),
        ("ＡＢＣ １２", ["abc", "12"]),
        ("العربية", ["العربية"]),
        ("a_b", ["a", "b"]),
    ],
)
def test_words_of_all_scripts_are_kept(text, words):
    assert UnicodeWords().tokenize(text) == words


def test_other_scripts_are_scored():
    assert all_rouge("в Москве", "В Москве!") == (1.0, 1.0, 1.0)
    assert all_rouge("в Москве", "в Туле") == pytest.approx((0.5, 0.0, 0.5))
    # 北京 against 北京大学: two characters of two and of four
    assert all_rouge("北京", "北京大学") == pytest.approx((2 / 3, 1 / 2, 2 / 3))
    package = RougeScorer(["rouge1"], use_stemmer=True).score("в Москве", "в Москве")
    assert package["rouge1"].fmeasure == 0.0, "what the package itself makes of it"


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40), st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_scores_lie_between_0_and_1(prediction, references):
    for value in (*all_rouge(prediction, *references), bleu(prediction, references)):
        assert 0.0 <= value <= 1.0
    if UnicodeWords().tokenize(prediction):
        assert rouge(prediction, [*references, prediction], "rougeL") == pytest.approx(1.0)


# -- BLEU --------------------------------------------------------------------------------------------
def test_bleu_by_hand():
    assert bleu("the cat sat down", ["the cat sat down"]) == pytest.approx(1.0)
    # all of its n-grams are right, but it is three words where four are wanted
    assert bleu("the cat sat", ["the cat sat down"]) == pytest.approx(math.exp(1 - 4 / 3))
    # precisions 3/4, 1/3, and for none of two and of one: 1/(2*2), 1/(4*1)
    assert bleu("a b c d", ["a b x d"]) == pytest.approx((3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25)
    assert bleu("Violin", ["Violin"]) == pytest.approx(1.0), "the order is that of a short answer"
    assert bleu("Violin", ["violin"]) == 0.0, "case counts"


def test_bleu_takes_references_together():
    # both words are right, each in another reference; the pair is in none: 1, then 1/(2*1)
    assert bleu("a b", ["a c", "x b"]) == pytest.approx(0.5**0.5)
    assert bleu("a b", ["a c", "x b", "a b"]) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_prediction_scores_zero(text):
    assert bleu(text, ["yes", "no"]) == 0.0
    assert bleu("yes", [text]) == 0.0


# -- as metrics --------------------------------------------------------------------------------------
def test_as_metrics_of_questions_in_words():
    asked = Probe("p", "c", "d", "generate", "heldout", "x", ("a red fox", "the fox"))
    row = {"prediction": "the fox", "failure": None}
    for name in ("rouge_1", "rouge_2", "rouge_l", "bleu"):
        metric = METRICS.get(name)
        assert metric.applies(asked) and metric.unit == "share"
        assert score(metric, asked, row) == pytest.approx(1.0)
        assert score(metric, asked, {**row, "prediction": ""}) == 0.0
        assert score(metric, asked, {**row, "failure": "out of memory"}) is None
        assert not metric.applies(Probe("p", "c", "d", "choice", "heldout", "x", ("a", "b")))
        assert not metric.applies(Probe("p", "c", "d", "generate", "negated", "x", ("a",)))
