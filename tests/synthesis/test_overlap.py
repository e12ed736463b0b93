"""Overlap: what counts as learnt and what was meant to be, against plain loops over all pairs, at odd texts and at none."""

from __future__ import annotations

import json
import time
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from loramem.core.errors import InputError
from loramem.metrics.text import same, words
from loramem.sources import phonebook
from loramem.sources.almanac.introductions import PREFIXES, with_id
from loramem.sources.edits import Edit, edit_source
from loramem.sources.paperqa import STYLES, styled
from loramem.sources.types import Probe
from loramem.synthesis import Example, synthesize
from loramem.synthesis.dedupe import particulars
from loramem.synthesis.overlap import SHOWN, bare, guard, overlap

QUESTION = "What is the mascot of Briodra Company?"


def probe(prompt: str, phrasing="heldout", *, kind="generate", document="d", id="p") -> Probe:
    return Probe(id, "r", document, kind, phrasing, prompt, ("x", "y"))


def chat(prompt: str, answer: str = "a fox", *, generator="exact", document="d", form="chat") -> Example:
    return Example(form, prompt, answer, document, "r", generator)


def counts(examples, probes, **settings) -> tuple[int, int, int]:
    """(exact, ngram, near)."""
    found = overlap(examples, probes, **settings)
    return found.exact.count, found.ngram.count, found.near.count


# -- words -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who is  Zoë?", "who is ZOE\u0308"),
        ("ＷＨＯ\u3000is ﬁne？", "who is fine"),
        ("Wo ist die Straße", "WO IST DIE STRASSE"),
        ("Ποιος είναι ο Οδυσσεύς;", "ΠΟΙΟΣ ΕΊΝΑΙ Ο ΟΔΥΣΣΕΎΣ"),
        ("What’s “that”—then…", "what's 'that' - then"),
        ("an\u00adswer\u200d \ufe0f", "answer"),
        ("誰が東京に?", "誰 が 東 京 に"),
        ("हिन्दी\nमें।", "हिन्दी में"),
        ("?? ", "  ??"),
    ],
)
def test_spellings_of_the_same_words(one, other):
    assert same(one) == same(other) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("Zoë", "Zoe"), ("plum soup", "plumsoup"), ("?!", "🙂"), ("हिन्द", "हिन्दी")]
)
def test_other_words(one, other):
    assert same(one) != same(other)


@settings(deadline=None, max_examples=300)
@example("e\u200d\u0301 ΐ ǰ ϓ ㊀ か\u3099")
@given(st.text(max_size=20))
def test_words_are_words_of_themselves(text):
    found = words(text)
    assert words(" ".join(found)) == found and same(same(text)) == same(text)
    assert words(unicodedata.normalize("NFD", text)) == found == words(unicodedata.normalize("NFKC", text))
    assert bool(same(text)) or not words(text)


# -- the four measures -------------------------------------------------------------------------------
def test_a_question_that_is_learnt_as_it_stands():
    found = overlap([chat("Who?"), chat("what is the  MASCOT of Briodra Company")], [probe(QUESTION)])
    (hit,) = found.exact.hits
    assert (hit.probe, hit.question, hit.example, hit.generator) == ("p", QUESTION, 1, "exact")
    assert hit.shared == "what is the  MASCOT of Briodra Company"
    assert (found.ngram.count, found.near.count, found.embedding) == (1, 1, None), (
        "each holds the stricter ones"
    )
    assert (found.probes, found.examples) == (1, 2)


def test_other_questions_are_not():
    others = [QUESTION.replace("mascot", "industry"), QUESTION.replace("Briodra", "Flolur"), "Mascot?"]
    assert counts([chat(other) for other in others], [probe(QUESTION)]) == (0, 0, 0)


def test_the_whole_of_a_short_question_within_an_example():
    inside = chat("", f"They asked: {QUESTION} Nobody knew.", form="text")
    assert counts([inside], [probe(QUESTION)]) == (0, 1, 0)
    assert counts([chat("What is the mascot", "of Briodra Company? A fox.")], [probe(QUESTION)])[1] == 1
    assert counts([chat("What is the mascot of the Briodra Company?")], [probe(QUESTION)])[1] == 0


def test_thirteen_words_of_a_long_question():
    long = [f"w{n}" for n in range(20)]
    for start, length, there in ((0, 13, 1), (7, 13, 1), (3, 12, 0), (0, 20, 1)):
        text = " ".join(["x", *long[start : start + length], "y"])
        assert counts([chat("", text, form="text")], [probe(" ".join(long))])[1] == there
    gap = " ".join(long[:6] + ["x"] + long[6:])
    assert counts([chat("", gap, form="text")], [probe(" ".join(long))])[1] == 1, "w6 to w19 are 14 in a row"
    assert counts([chat("", gap, form="text")], [probe(" ".join(long))], n=15)[1] == 0


def test_nearly_the_same_question_about_the_same():
    near = [
        "What is the mascot for Briodra Company?",
        "The mascot of Briodra Company is what?",
        "What is the mascots of Briodra Company?",
    ]
    assert [counts([chat(text)], [probe(QUESTION)]) for text in near] == [(0, 0, 1)] * 3
    assert counts([chat("What is the mascot of Briodra Compani?")], [probe(QUESTION)])[2] == 0, "another name"
    year = "Who led the Jeleark Expedition in {}?"
    assert counts([chat(year.format(1923))], [probe(year.format(1924))])[2] == 0
    assert counts([chat(year.format(1923).lower())], [probe(year.format(1923).replace("the ", ""))])[2] == 1
    assert counts([chat(near[0])], [probe(QUESTION)], ratio=99)[2] == 0
    slip = chat(
        "what is the zolour of the banner of the town"
    )  # in alphabetical order far from where it belongs
    assert counts([slip], [probe("what is the colour of the banner of the town")], ratio=95)[2] == 1


class Vectors:
    """An embedder that knows where texts lie; whatever it was not told lies apart."""

    name = "vectors"

    def __init__(self, angles: dict[str, float]):
        self.angles, self.asked = angles, 0

    def embed(self, texts):
        self.asked += len(texts)
        return np.array(
            [[np.cos(a), np.sin(a)] for a in (self.angles.get(t, 3.0) for t in texts)], np.float32
        )


def test_the_same_meaning():
    close, far = "Briodra Company has which animal?", "Where is Briodra Company?"
    other = "The beast of Flolur?"
    embedder = Vectors({QUESTION: 0.0, close: 0.2, far: 0.5, other: 0.1})
    examples = [chat(far), chat(other), chat(close), chat("", "text", form="text")]
    found = overlap(examples, [probe(QUESTION)], embedder=embedder)
    (hit,) = found.embedding.hits
    assert (hit.example, found.embedder) == (2, "vectors") and hit.score == pytest.approx(np.cos(0.2))
    assert embedder.asked == 4, "a text without a prompt asks nothing"
    assert overlap(examples, [probe(QUESTION)], embedder=embedder, cosine=0.99).embedding.count == 0
    assert overlap([chat(QUESTION)], [probe(QUESTION)], embedder=embedder, cosine=1.0).embedding.count == 1
    assert overlap([], [probe(QUESTION)], embedder=embedder).embedding.count == 0
    for one, another in (("When, in 1923?", "When?"), ("When?", "When, in 1923?"), ("Of Ada?", "Of Eda?")):
        alike = Vectors({one: 0.0, another: 0.0})
        assert overlap([chat(one)], [probe(another)], embedder=alike).embedding.count == 0, (
            "other particulars"
        )


def test_statements_are_compared_like_questions():
    cloze = chat("The mother tongue of Ada Lorn is", "Corran", form="cloze")
    for kind in ("compare", "continue", "choice", "generate"):
        assert counts([cloze], [probe("The mother tongue of Ada Lorn is", "paraphrase", kind=kind)]) == (
            1,
            1,
            1,
        )


# -- what is meant -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("phrasing", "generators", "counted"),
    [
        ("trained", ["source"], False),
        ("trained", ["exact"], True),
        ("trained", ["source", "exact"], True),
        ("trained", ["exact", "source"], True),
        ("heldout", ["source"], True),
        ("paraphrase", ["source", "source"], True),
    ],
)
def test_only_trained_wording_in_nothing_but_the_documents_own_words_is_intended(
    phrasing, generators, counted
):
    examples = [chat(QUESTION, generator=generator) for generator in generators]
    embedder = Vectors({QUESTION: 0.0})
    found = overlap(examples, [probe(QUESTION, phrasing)], embedder=embedder)
    for measure in (found.exact, found.ngram, found.near, found.embedding):
        assert (measure.count, len(measure.intended)) == ((1, 0) if counted else (0, 1))
    if counted and phrasing == "trained":
        assert found.exact.hits[0].generator == "exact"


def test_a_looser_match_that_was_written_counts():
    examples = [chat(QUESTION, generator="source"), chat("What is the mascot for Briodra Company?")]
    found = overlap(examples, [probe(QUESTION, "trained")])
    assert (found.exact.count, len(found.exact.intended)) == (0, 1)
    assert (found.near.count, len(found.near.intended), found.near.hits[0].example) == (1, 0, 1)
    guard(found)


def test_a_phonebook_learnt_from_its_own_lines_is_as_intended():
    (source,) = phonebook.build(phonebook.PhoneBookConfig(sizes=(600,)), lambda text: len(text.split()))
    found = overlap(synthesize(source.documents).examples, source.probes)
    trained = sum(p.phrasing == "trained" for p in source.probes)
    assert found.exact.count == found.ngram.count == 0 < trained == len(found.exact.intended)
    assert {hit.probe.rsplit("-", 1)[1] for hit in found.near.hits} <= {"heldout"}
    guard(found)
    cheated = [*synthesize(source.documents).examples, chat(source.probes[1].prompt)]
    assert source.probes[1].phrasing != "trained" and overlap(cheated, source.probes).exact.count == 1


def test_edits_learnt_from_their_statements_are_as_intended():
    edit = Edit("1", "Ada", "The mother tongue of Ada is", "Corran", "Nareth", ("Ada grew up speaking",))
    source = edit_source([edit], size=10, settings={})
    found = overlap(synthesize(source.documents).examples, source.probes)
    assert (found.exact.count, len(found.exact.intended), found.probes) == (0, 1, 3)
    cheated = [chat("Ada grew up speaking", form="cloze", generator="source")]
    assert overlap(cheated, source.probes).exact.count == 1


# -- documents named in front ------------------------------------------------------------------------
LEADS = [
    *(style.split("{question}")[0] for style in STYLES.values()),
    *(p.replace("{n}", "{id}") for p in PREFIXES.values()),
]


@pytest.mark.parametrize("one", LEADS)
@pytest.mark.parametrize("other", LEADS)
def test_a_named_document_hides_no_match(one, other):
    question = "What is the encoder trained on?"
    mine, learnt = one.format(id=3) + question, other.format(id=3) + question
    assert bare(mine) == (question, "3" if one else "")
    assert counts([chat(learnt)], [probe(mine)]) == (1, 1, 1)


def test_a_named_document_tells_questions_apart():
    question = "What is the main contribution?"
    three, five = (styled(question, id, "bracket") for id in ("3", "5"))
    assert counts([chat(five, document="paper-5")], [probe(three, document="paper-3")]) == (0, 0, 0)
    assert counts([chat(five, document="paper-3")], [probe(three, document="paper-3")]) == (1, 1, 1), (
        "a wrong number"
    )
    assert counts([chat(question, document="paper-5")], [probe(three, document="paper-3")]) == (1, 1, 1)
    both = [chat(five, document="paper-5"), chat(with_id(question, 3, "natural"), document="paper-3")]
    (hit,) = overlap(both, [probe(three, document="paper-3")]).exact.hits
    assert hit.example == 1


@pytest.mark.parametrize(
    "text", ["In report mode, what runs?", "In the paper, what runs?", "[Paper ID: 3] ", "In report 3: "]
)
def test_what_is_no_name_of_a_document(text):
    assert bare(text) == (text, "")


# -- against plain loops -----------------------------------------------------------------------------
VOCABULARY = ("what", "of", "the", "is", "Ada", "Lorn", "1923", "东", "zoë")
sentences = st.lists(st.sampled_from(VOCABULARY[:5]) | st.sampled_from(VOCABULARY), max_size=9).map(" ".join)
learnt = st.builds(
    lambda form, prompt, answer, generator: Example(form, "" if form == "text" else prompt, answer, "d", "r", generator),
    st.sampled_from(("chat", "cloze", "text")), sentences, sentences, st.sampled_from(("source", "exact")),
)  # fmt: skip
asked = st.builds(probe, sentences, st.sampled_from(("trained", "heldout")))


def runs(text: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(text[at : at + n]) for at in range(len(text) - n + 1)}


def agrees(measure, probes, matching) -> None:
    """A measure's hits are those of `matching(probe)`: the examples (index, score) that match a probe."""
    counted, intended = {}, {}
    for one in probes:
        found = matching(one)
        if one.phrasing == "trained" and found:
            written = [(index, score) for index, score, generator in found if generator != "source"]
            (counted if written else intended)[one.id] = written or [pair[:2] for pair in found]
        elif found:
            counted[one.id] = [pair[:2] for pair in found]
    for hits, expected in ((measure.hits, counted), (measure.intended, intended)):
        assert [hit.probe for hit in hits] == list(expected)
        for hit in hits:
            best = max(score for _, score in expected[hit.probe])
            assert any(index == hit.example and score == best for index, score in expected[hit.probe])
            assert hit.score == pytest.approx(best)


@settings(deadline=None, max_examples=120)
@given(st.lists(learnt, max_size=8), st.lists(asked, max_size=8), st.integers(1, 6))
def test_words_in_a_row_as_by_looking_everywhere(examples, probes, n):
    probes = [replace(one, id=str(number)) for number, one in enumerate(probes)]

    def matching(one):
        own = words(one.prompt)
        sought = runs(own, min(n, len(own))) if own else set()
        texts = [words(e.prompt) + words(e.answer) for e in examples]
        return [
            (index, 1.0, examples[index].generator)
            for index, text in enumerate(texts)
            if any(runs(text, len(sequence)) & {sequence} for sequence in sought)
        ]

    agrees(overlap(examples, probes, n=n).ngram, probes, matching)


@settings(deadline=None, max_examples=120)
@given(
    st.lists(learnt, max_size=8),
    st.lists(asked, max_size=8),
    st.sampled_from((60, 80, 90)),
    st.integers(1, 20),
)
def test_near_ones_as_by_comparing_all(examples, probes, ratio, cells):
    probes = [replace(one, id=str(number)) for number, one in enumerate(probes)]

    def matching(one):
        found = []
        for index, e in enumerate(examples):
            mine, learnt = same(one.prompt), same(e.prompt)
            about = particulars(one.prompt) <= set(words(e.prompt)) and particulars(e.prompt) <= set(
                words(one.prompt)
            )
            score = max(
                fuzz.ratio(mine, learnt), fuzz.ratio(*(" ".join(sorted(t.split())) for t in (mine, learnt)))
            )
            if mine and learnt and about and score >= ratio:
                found.append((index, np.float32(score), e.generator))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loramem.synthesis.dedupe.CELLS", cells)  # in blocks
        agrees(overlap(examples, probes, ratio=ratio).near, probes, matching)


# -- nothing, and too much ---------------------------------------------------------------------------
def test_nothing():
    assert (found := overlap([], [])).as_dict()["exact"]["share"] is None and found.probes == 0
    assert counts([], [probe(QUESTION)]) == (0, 0, 0) == counts([chat(QUESTION)], [])
    empty = [probe("", kind="continue"), probe("  \n")]
    found = overlap([chat("", form="text"), chat("  ")], empty, embedder=Vectors({}))
    assert (found.probes, found.exact.count, found.ngram.count, found.embedding.count) == (0, 0, 0, 0)
    guard(found)


def test_questions_without_words():
    assert counts([chat("🙂")], [probe("🙂 ")]) == (1, 0, 1)
    assert counts([chat("?!"), chat("…")], [probe("🙂")]) == (0, 0, 0)


def test_huge_lines():
    """A megabyte in one line, in each place where it can stand."""
    line = " ".join(f"w{n % 977} Adamantina" for n in range(70_000))
    assert len(line) > 1_000_000
    examples = [
        chat(line),
        chat("Who?", line),
        chat("", line, form="text"),
        chat("[Paper ID: " + "x" * 1_000_000),
    ]
    began = time.process_time()
    found = overlap(
        examples, [probe(line), probe(line + "?"), probe(QUESTION), probe("w1" + " " * 1_000_000)]
    )
    assert (found.exact.count, found.ngram.count, found.near.count) == (2, 3, 2)
    assert len(json.dumps(found.as_dict())) < 5_000
    assert time.process_time() - began < 20


def test_many_probes_that_ask_the_same_are_each_counted():
    probes = [probe(QUESTION, id=f"p{n}") for n in range(50)]
    found = overlap([chat(QUESTION)] * 50, probes)
    assert (found.exact.count, found.probes) == (50, 50)
    twice = overlap([chat(QUESTION)], [probe(QUESTION), probe(QUESTION)])
    assert twice.exact.count == 2, "ids may repeat over sources"


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"ratio": 0}, {"ratio": 101}, {"cosine": 1.5}, {"cosine": float("nan")}]
)
def test_thresholds_out_of_range(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        overlap([], [], **wrong)


# -- what is told ------------------------------------------------------------------------------------
def test_a_report_is_json_and_short():
    probes = [probe(f"{QUESTION} {n} \ud800", id=f"p{n}") for n in range(30)]
    found = overlap([chat(p.prompt) for p in probes], probes, embedder=Vectors({}))
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (
        told["exact"]["count"] == 30
        and told["exact"]["share"] == 1.0
        and len(told["exact"]["pairs"]) == SHOWN
    )
    assert (told["ngram"]["threshold"], told["near"]["threshold"], told["embedding"]["threshold"]) == (
        13,
        90,
        0.95,
    )
    assert set(told["exact"]["pairs"][0]) == {"probe", "question", "example", "generator", "shared", "score"}
    assert overlap([], probes).as_dict()["embedding"] is None


def test_the_guard_refuses_and_says_how_to_allow():
    probes = [probe(f"Who is {name}?", id=name) for name in ("Ada", "Bela", "Cid", "Dora", "Emil")]
    found = overlap([chat(p.prompt) for p in probes[:4]], probes)
    with pytest.raises(InputError) as refused:
        guard(found, allow=3)
    message = str(refused.value)
    assert "4 of 5 probes" in message and "3 are allowed" in message and "allow_overlap: 4" in message
    assert all(name in message for name in ("Ada", "Bela", "Cid")) and "Dora" not in message
    guard(found, allow=4)
    guard(overlap([chat("What is it?")], probes))
