"""Almanac: same seed, same bytes; known entropy; what is held out is held out."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from loramem.sources.almanac import common_world, make_world
from loramem.sources.almanac.editing import edits
from loramem.sources.almanac.phrasing import (
    PHONE_HELDOUT,
    PHONE_QUESTIONS,
    QUESTION_FRAMES,
    questions,
    statements,
)
from loramem.sources.almanac.render import STYLES, article, phone_number
from loramem.sources.almanac.schema import RELATIONS
from loramem.sources.almanac.world import COMMON_COUNTS

COUNTS = {"person": 30, "town": 10, "firm": 6, "river": 4, "book": 6, "expedition": 4}
HASH = "import hashlib; from loramem.sources.almanac import common_world; print(hashlib.sha256(repr([(f.entity, f.relation.name, f.value) for f in common_world().facts]).encode()).hexdigest())"


def test_same_seed_same_bytes_in_any_process():
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONHASHSEED": "11"}
    said = subprocess.run(
        [sys.executable, "-c", HASH], capture_output=True, text=True, env=environment, check=True
    )
    here = repr([(f.entity, f.relation.name, f.value) for f in common_world().facts]).encode()
    assert said.stdout.strip() == hashlib.sha256(here).hexdigest()
    assert make_world(3, COUNTS).facts == make_world(3, COUNTS).facts != make_world(4, COUNTS).facts


def test_the_common_world_is_large_and_its_names_are_its_own():
    world = common_world()
    assert len(world.facts) >= 2000 and sum(COMMON_COUNTS.values()) == sum(map(len, world.entities.values()))
    names = [name for kind in world.entities.values() for name in kind]
    assert len(set(names)) == len(names)


def test_every_fact_is_drawn_from_its_declared_set_and_its_bits_are_known():
    for fact in common_world().facts:
        assert fact.value in fact.options and fact.bits == pytest.approx(math.log2(len(fact.options)))
        assert len(set(fact.options)) == len(fact.options)


def test_values_are_uniform():
    world = make_world(9, {**COUNTS, "person": 4000})
    drawn = Counter(fact.value for fact in world.facts if fact.relation.name == "instrument")
    expected = 4000 / 16
    chi_square = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert len(drawn) == 16 and chi_square < 37.7  # 99.9 % point with 15 degrees of freedom


def test_held_out_wording_is_disjoint_and_exists_for_every_relation():
    for relation in RELATIONS:
        for wording in (questions, statements):
            trained, held = set(wording(relation, False)), set(wording(relation, True))
            assert trained and held and not trained & held
            assert all("{e}" in template for template in trained | held)
        assert all(
            template.endswith(" {v}.")
            for template in statements(relation, False) + statements(relation, True)
        )
    assert not set(PHONE_HELDOUT) & set(PHONE_QUESTIONS)


def test_a_frame_held_out_for_one_relation_is_trained_with_another():
    for frame in QUESTION_FRAMES:
        held = [r.name for r in RELATIONS if frame.replace("{n}", r.nouns[0]) in questions(r, True)]
        trained = [r.name for r in RELATIONS if frame.replace("{n}", r.nouns[0]) in questions(r, False)]
        assert len(held) + len(trained) == len(RELATIONS) and trained, frame


@pytest.mark.parametrize("style", STYLES)
def test_articles_state_every_fact_and_add_distractors(style):
    facts = [f for f in make_world(5, COUNTS).facts][:12]
    text = article(facts, random.Random(1), style=style, distractors=4)
    assert all(fact.entity in text and fact.value in text for fact in facts)
    assert text == article(facts, random.Random(1), style=style, distractors=4)
    assert len(text.split()) > len(article(facts, random.Random(1), style=style, distractors=0).split())


def test_phone_numbers_have_ten_uniform_digits():
    rng = random.Random(0)
    numbers = [phone_number(rng) for _ in range(3000)]
    assert all(len(n) == 12 and n[3] == n[7] == "-" and n.replace("-", "").isdigit() for n in numbers)
    counts = Counter(digit for n in numbers for digit in n.replace("-", ""))
    assert max(abs(count - 3000) for count in counts.values()) < 3000 * 0.08


def test_edits_contradict_the_common_world():
    made = list(edits(3))
    truth = {(f.entity, f.value) for f in common_world().facts}
    assert len(made) == len(common_world().facts) and made == list(edits(3)) and made != list(edits(4))
    for edit in made[:400]:
        assert (edit.subject, edit.target_true) in truth and edit.target_new != edit.target_true
        assert (
            edit.subject in edit.prompt and len(edit.paraphrases) == 2 and edit.prompt not in edit.paraphrases
        )
        for prompt, true in edit.neighbours:
            assert true == edit.target_true and edit.subject not in prompt
