"""A study's readings: names and mappings whose lists are the grid, every fault told at once."""

from __future__ import annotations

import pytest

from loramem.answering.readings import STEMS, context_name
from loramem.core.errors import Faults
from loramem.studies.reading_choice import ReadingChoice, readings_of
from tinystudy import study


def test_a_name_is_a_reading_with_its_defaults():
    found = readings_of(["closed", "module+rag", "routed", "merged"])
    assert [one.reading for one in found] == ["closed", "module+rag", "routed", "merged"]
    assert found[0].routing is None and found[2].routing is not None and found[2].merging is None
    assert found[3].routing is not None and found[3].merging is not None


def test_lists_are_the_grid_and_equal_readings_are_one():
    found = readings_of(
        [
            {"reading": "merged", "router": ["oracle", "random"], "top_k": [1, 3], "rule": ["cat", "linear-delta"]},
            {"reading": "merged", "router": "oracle", "top_k": 3, "rule": "cat"},
        ]
    )  # fmt: skip
    assert len(found) == 8 and len({one.label for one in found}) == 8
    assert "merged-oracle-top3-cat" in {one.label for one in found}


def test_a_list_of_weights_is_one_value_in_a_list():
    (one,) = readings_of([{"reading": "merged", "router": "oracle", "top_k": 2, "rule": "linear-delta", "weights": [[0.7, 0.3]]}])  # fmt: skip
    assert tuple(one.merging.weights) == (0.7, 0.3)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("modul", "Did you mean 'module'"),
        ({"reading": "routd"}, "Did you mean 'routed'"),
        ({"router": "oracle"}, "unknown reading None"),
        ({"reading": "routed", "router": "embeding"}, "Did you mean 'embedding'"),
        ({"reading": "routed", "rule": "cat"}, "rule: unknown key for routed"),
        ({"reading": "routed", "top_k": 3}, "top_k: unknown key for routed"),
        ({"reading": "module", "router": "oracle"}, "router: unknown key for module"),
        ({"reading": "merged", "rule": "ties"}, "ties-"),
        ({"reading": "merged", "top_k": 0}, "top_k"),
        ({"reading": "routed", "router": []}, "an empty list has no values"),
        ({"reading": "closed", "module_on": "answer"}, "without a module"),
        ({"reading": "module", "module_on": "after-prefix"}, "without a context"),
        ({"reading": "routed", "abstain": True}, "none_below"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(entry, told):
    with pytest.raises(Faults) as error:
        readings_of(["closed", entry])
    assert told in str(error.value) and "readings" in str(error.value)


def test_every_fault_is_told_at_once():
    with pytest.raises(Faults) as error:
        readings_of(["modul", {"reading": "routed", "router": "orcle"}, {"reading": "merged", "rule": "cta"}])
    assert len(error.value.faults) == 3


def test_every_reading_has_a_context_or_none():
    for name in STEMS:
        stem = STEMS.get(name)
        assert (context_name(name) is not None) == stem.in_context
        assert stem.merges <= (stem.which == "pool")
    assert STEMS.get("icl").which == "none" and STEMS.get("merged+icl").merges


def test_routing_needs_modules_to_choose_from():
    with pytest.raises(Faults, match="partition corpus makes one"):
        study(readings=["closed", "routed"])
    assert study(readings=["closed", "routed"], pool="study").readings[1].routing is not None


def test_labels_tell_readings_apart():
    found = readings_of(
        [
            {"reading": "routed", "router": "bm25", "none_below": [1.0, 2.0], "abstain": [False, True]},
            {"reading": "merged", "router": "oracle", "top_k": 3, "adaptive": [0.5, 0.9], "rule": "cat"},
            {"reading": "module", "module_on": ["all", "answer"]},
            {"reading": "merged", "router": "oracle", "top_k": 3, "rule": "ties-delta", "density": [0.3, 0.6]},
        ]
    )  # fmt: skip
    assert len(found) == 4 + 2 + 2 + 2 and len({one.label for one in found}) == len(found)
    assert ReadingChoice(reading="module").label == "module"


def test_a_reading_may_be_confined_to_a_partition():
    ways = {
        "partition": ["document", "corpus"],
        "sources": {"papers": {"name": "almanac-papers", "documents": 2}},
    }
    made = study(
        **ways,
        readings=["closed", {"reading": "module", "partition": "document"}],
        supervision={"recipe": "raw"},
    )
    assert made.readings[1].partition == "document"
    with pytest.raises(Faults, match="'chunk' is no partition of this study"):
        study(**ways, readings=[{"reading": "module", "partition": "chunk"}])
    with pytest.raises(Faults, match="without a module"):
        study(**ways, readings=[{"reading": "closed", "partition": "document"}])
