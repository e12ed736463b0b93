"""Newer metrics: bits of an answer, negation, magnitude, free text; each against an independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.metrics.continuation import consistency, fluency, ngram_entropy
from loramem.metrics.scorers import METRICS, score
from loramem.metrics.stored import bits_stored, share_above_half
from loramem.sources.types import Probe

nats = st.lists(st.floats(-30, 0), min_size=1, max_size=12)


def probe(kind="generate", phrasing="trained", answers=("201-555-0101",), gold=0, bits=None) -> Probe:
    return Probe("p", "c", "d", kind, phrasing, "x", answers, gold, bits=bits)


def scored(name: str, asked: Probe, **row):
    return score(METRICS.get(name), asked, {"failure": None, **row})


# -- information -------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.floats(0, 60), nats)
def test_bits_stored_is_what_is_no_longer_lacking(entropy, values):
    lacking = -np.log2(np.exp(np.array(values))).sum()
    found = bits_stored(entropy, values)
    assert found == pytest.approx(max(0.0, entropy - lacking), abs=1e-6)
    assert 0 <= found <= entropy
    assert bits_stored(entropy, [0.0] * len(values)) == entropy, "known for sure: all of it"
    assert bits_stored(entropy, [*values, -1.0]) <= found


def test_a_uniform_guess_stores_nothing():
    assert bits_stored(10 * math.log2(10), [-math.log(10)] * 10) == pytest.approx(0.0, abs=1e-9)
    assert bits_stored(10 * math.log2(10), [-math.log(10)] * 9 + [0.0]) == pytest.approx(math.log2(10))


@settings(deadline=None)
@given(nats)
def test_share_above_half_counts_tokens(values):
    assert share_above_half(values) == pytest.approx(np.mean(np.exp(np.array(values)) > 0.5))


def test_exactly_half_is_not_above_half():
    assert share_above_half([-math.log(2.0)]) == 0.0
    assert share_above_half([-math.log(2.0) + 1e-9, -math.log(2.0) - 1e-9]) == 0.5


def test_metrics_of_gold_nats():
    row = {"gold_nats": [-0.5, -1.5, -0.1]}
    assert scored("answer_nll", probe(), **row) == pytest.approx(0.7)
    assert scored("tokens_above_half", probe(), **row) == pytest.approx(2 / 3)
    assert scored("bits_stored", probe(bits=10.0), **row) == pytest.approx(10 - 2.1 * math.log2(math.e))
    assert scored("bits_stored", probe(bits=10.0), gold_nats=[-99.0]) == 0.0
    for name in ("answer_nll", "tokens_above_half", "bits_stored"):
        metric = METRICS.get(name)
        assert metric.measured(row) and not metric.measured({}) and not metric.measured({"gold_nats": None})
        assert score(metric, probe(bits=1.0), {**row, "failure": "out of memory"}) is None
    assert METRICS.get("exact_match").measured({})


# -- edits -------------------------------------------------------------------------------------------
def compared(name, new, true, gold=0, phrasing="trained"):
    asked = probe("compare", phrasing, ("new", "true"), gold)
    return scored(
        name, asked, sum_nats=[sum(new), sum(true)], tokens=[len(new), len(true)], greedy=[True, False]
    )


@settings(deadline=None)
@given(nats, nats, st.sampled_from([0, 1]))
def test_magnitude_is_a_difference_of_geometric_means(new, true, gold):
    def mean(values):
        return float(np.prod(np.exp(values) ** (1 / len(values))))

    expected = (mean(new) - mean(true)) * (1 if gold == 0 else -1)
    assert compared("efficacy_magnitude", new, true, gold) == pytest.approx(expected, abs=1e-9)


def test_magnitude_agrees_in_sign_with_efficacy_and_is_zero_at_a_tie():
    assert (
        compared("efficacy_magnitude", [-1.0, -1.0], [-1.0])
        == 0.0
        == 2 * compared("efficacy", [-1.0, -1.0], [-1.0]) - 1
    )
    assert compared("efficacy_magnitude", [-0.1], [-2.0]) > 0 and compared("efficacy", [-0.1], [-2.0]) == 1.0


def test_negation_is_won_by_not_giving_what_was_learnt():
    learnt = probe(phrasing="negated")
    assert scored("negation", learnt, prediction="(201) 555 0101") == 0.0
    assert scored("negation", learnt, prediction="201-555-0102") == 1.0
    assert scored("negation", learnt, prediction="") == 1.0
    assert score(METRICS.get("negation"), learnt, {"prediction": "", "failure": "no"}) is None
    words = probe(phrasing="negated", answers=("violin",))
    assert scored("negation", words, prediction="The Violin.") == 0.0
    assert scored("negation", words, prediction="viola") == 1.0
    # under a negation the true target should win: gold is 1
    assert compared("negation", [-0.1], [-2.0], gold=1, phrasing="negated") == 0.0
    assert compared("negation", [-2.0], [-0.1], gold=1, phrasing="negated") == 1.0
    assert compared("negation", [-1.0, -1.0], [-1.0], gold=1, phrasing="negated") == 0.5


# -- free text ---------------------------------------------------------------------------------------
words = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=15)


def entropy_by_numpy(tokens: list[str], n: int) -> float:
    grams = [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if not grams:
        return 0.0
    shares = np.unique(grams, return_counts=True)[1] / len(grams)
    return float((shares * np.log2(1 / shares)).sum())


@settings(deadline=None)
@given(words)
def test_fluency_is_romes_weighted_entropy(tokens):
    text = " ".join(tokens)
    two, three = entropy_by_numpy(tokens, 2), entropy_by_numpy(tokens, 3)
    assert ngram_entropy(text, 2) == pytest.approx(two, abs=1e-9)
    assert fluency(text) == pytest.approx(np.mean([two * 2 / 3, three * 4 / 3]), abs=1e-9)


def test_fluency_of_nothing_and_of_a_loop_is_zero():
    for text in ("", " \n", "word", "two words", "on and on and on and on".replace("and", "on")):
        assert fluency(text) == 0.0 and math.copysign(1, fluency(text)) == 1, text
    assert fluency("here is a text of many words") > fluency("here is here is here is here is") > 0


def tfidf_cosine(one: list[str], other: list[str]) -> float:
    """Smoothed idf over the two texts (ln((1 + n) / (1 + df)) + 1), raw counts, unit length."""
    vocabulary = sorted({*one, *other})
    counts = np.array([[text.count(word) for word in vocabulary] for text in (one, other)], float)
    weighted = counts * (np.log(3 / (1 + (counts > 0).sum(0))) + 1)
    lengths = np.linalg.norm(weighted, axis=1)
    return float(weighted[0] @ weighted[1] / lengths.prod()) if lengths.all() else 0.0


@settings(deadline=None)
@given(words.filter(bool), st.lists(words, min_size=1, max_size=3))
def test_consistency_is_a_tfidf_cosine(tokens, references):
    found = consistency(" ".join(tokens), [" ".join(reference) for reference in references])
    assert found == pytest.approx(tfidf_cosine(tokens, sum(references, [])), abs=1e-9)


def test_consistency_at_its_ends():
    text = "Ada Quill plays the violin in Rome."
    assert consistency(text, [text]) == pytest.approx(1.0)
    assert consistency(text, ["ADA QUILL PLAYS", "the violin in Rome"]) == pytest.approx(1.0), (
        "joined, case blind"
    )
    assert consistency(text, ["nobody was here"]) == 0.0
    for empty in ("", "  \n", "...", "!?"):
        assert consistency(empty, [text]) == 0.0 == consistency(empty, ["?"])
    assert consistency(text, ["..."]) == 0.0
    assert (
        1
        > consistency("the violin", [text])
        > consistency("the violin and a great many other things", [text])
        > 0
    )


def test_scorers_of_free_text():
    asked = probe("continue", "generation", ("She plays the violin.",))
    said = "Ada plays the violin all day long."
    assert scored("fluency", asked, prediction=said) == fluency(said)
    assert scored("consistency", asked, prediction=said) == consistency(said, asked.answers) > 0
    assert scored("consistency", asked, prediction="") == 0.0 == scored("fluency", asked, prediction="")


# -- what applies to what ----------------------------------------------------------------------------
WORDS = {"exact_match", "token_f1", "rouge_1", "rouge_2", "rouge_l", "bleu", "judge"}
ASKED = {
    "a fact": (probe(bits=3.0), WORDS | {"bits_stored", "answer_nll", "tokens_above_half"}),
    "a fact of unknown entropy": (probe(), WORDS | {"answer_nll", "tokens_above_half"}),
    "held out": (probe(phrasing="heldout", bits=3.0), WORDS),
    "reversed": (probe(phrasing="reverse"), WORDS),
    "negated": (probe(phrasing="negated"), {"negation"}),
    "an edit": (
        probe("compare", bits=3.0),
        {
            "efficacy",
            "efficacy_magnitude",
            "generation_match",
            "bits_stored",
            "answer_nll",
            "tokens_above_half",
        },
    ),
    "a paraphrase": (probe("compare", "paraphrase", bits=3.0), {"paraphrase"}),
    "a neighbour": (probe("compare", "neighbour", gold=1), {"neighbourhood"}),
    "a negated edit": (probe("compare", "negated", gold=1), {"negation"}),
    "free text": (probe("continue", "generation", ("a text",)), {"fluency", "consistency"}),
    "free text without references": (probe("continue", "generation", ()), {"fluency"}),
    "a choice": (probe("choice", "heldout", ("a", "b")), {"accuracy", "accuracy_parsed", "parsed"}),
    "a passage": (probe("passage", "unrelated", ()), {"kl_to_base"}),
    "a fact nobody wrote": (probe(phrasing="unrelated", bits=3.0), {"common_accuracy"}),
}


@pytest.mark.parametrize("case", ASKED)
def test_each_probe_has_its_metrics(case):
    asked, expected = ASKED[case]
    routed = {
        "gold_rank",
        "confidence",
        "above_strangers",
        "fits",
    }  # measured by readings that choose among modules only
    applying = {
        n for n in METRICS.names() if METRICS.get(n).applies(asked) and METRICS.get(n).needs not in routed
    }
    assert applying == expected


def test_units_and_directions():
    units = {name: METRICS.get(name).unit for name in METRICS.names()}
    assert {name for name, unit in units.items() if unit != "share"} == {
        "efficacy_magnitude", "fluency", "consistency", "bits_stored", "answer_nll", "judge", "kl_to_base",
    }  # fmt: skip
    assert {name for name in units if METRICS.get(name).lower_is_better} == {"answer_nll", "kl_to_base"}
    assert {name for name in units if METRICS.get(name).total} == {"bits_stored"}
