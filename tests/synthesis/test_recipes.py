"""Recipes: what is read, the one spelling of it, and every fault at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import Faults
from loramem.synthesis.recipes import MOST, RECIPES, Portion, canonical, needs_writer, parse_recipe

FORMATS = (
    "raw", "published", "qa", "relational-qa", "summary", "rewrite", "paraphrase", "facts", "relations", "implications", "iterative",
)  # fmt: skip
portions = st.lists(
    st.tuples(st.sampled_from(FORMATS), st.integers(1, MOST)), min_size=1, unique_by=lambda pair: pair[0]
).map(lambda pairs: [Portion(RECIPES.get(name), n if RECIPES.get(name).counted else 0) for name, n in pairs])
blanks = st.text(" \t\n", max_size=2)


def test_the_formats_are_there():
    assert sorted(RECIPES.names()) == sorted(FORMATS)
    assert {name for name in FORMATS if not RECIPES.get(name).counted} == {"raw", "published"}
    for kind in map(RECIPES.get, FORMATS):
        assert kind.written == kind.counted and ("{n}" in kind.instruction) == kind.written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raw", "raw"),
        ("raw+qa:40+summary:8", "raw+qa:40+summary:8"),
        (" Summary : 8 +\tRAW ", "summary:8+raw"),
        ("relational-QA:007", "relational-qa:7"),
        (f"qa:{MOST}", f"qa:{MOST}"),
    ],
)
def test_spellings(text, expected):
    assert canonical(text) == expected
    assert canonical(expected) == expected, "the one spelling is its own"


@given(portions, st.data())
def test_a_recipe_is_read_as_it_was_written(chosen, data):
    def spelt(portion: Portion) -> str:
        name, _, number = portion.label.partition(":")
        name = "".join(c.upper() if data.draw(st.booleans()) else c for c in name)
        gaps = [data.draw(blanks) for _ in range(4)]
        return gaps[0] + name + gaps[1] + (f":{gaps[2]}{number}" if number else "") + gaps[3]

    text = "+".join(map(spelt, chosen))
    assert list(parse_recipe(text)) == chosen
    assert canonical(text) == "+".join(portion.label for portion in chosen)
    assert needs_writer(text) == any(portion.kind.written for portion in chosen)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("qa", "give qa a number from 1 to 100,000, e.g. qa:10"),
        ("qa:", "give qa a number"),
        ("qa:0", "give qa a number"),
        ("qa:-3", "give qa a number"),
        ("qa:2.5", "give qa a number"),
        ("qa:1e3", "give qa a number"),
        ("qa:٣", "give qa a number"),
        ("qa:3:4", "give qa a number"),
        (f"qa:{MOST + 1}", "give qa a number"),
        ("qa:99999999999999999999", "give qa a number"),
        ("raw:3", "raw takes no number"),
        ("raw:", "raw takes no number"),
        ("published:1", "published takes no number"),
        ("qa:3+QA:4", "qa is named twice"),
        ("sumary:3", "Did you mean 'summary'?"),
        ("qa 3", "Did you mean 'qa'?"),
        ("", "unknown part ''"),
        ("raw+", "unknown part ''"),
        ("+raw", "unknown part ''"),
        ("raw;qa:3", "unknown part 'raw;qa'"),
        ("質問:3", "unknown part '質問'"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(Faults) as caught:
        parse_recipe(text)
    (fault,) = caught.value.faults
    assert said in fault and repr(text) in fault


def test_all_faults_come_at_once_and_each_once():
    with pytest.raises(Faults) as caught:
        parse_recipe("raw:2+qa+summery:4+facts:3+facts:4+x+x")
    faults = caught.value.faults
    assert len(faults) == 5 and all("raw:2+qa+summery:4" in fault for fault in faults)
    for said, fault in zip(
        ("takes no number", "give qa", "'summary'", "facts is named twice", "unknown part 'x'"),
        faults,
        strict=True,
    ):
        assert said in fault


def test_who_needs_a_writer():
    assert not needs_writer("raw") and not needs_writer("published+raw")
    assert needs_writer("raw+facts:1")
