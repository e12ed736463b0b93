"""Study files: lists are the grid, scales and --set change paths, all faults at once, every shipped file loads."""

from __future__ import annotations

import pytest
import yaml

from loramem.core.errors import Faults, InputError, LoramemError
from loramem.studies import grid, spec

BODY = yaml.safe_load(spec.find("quick"))


@pytest.mark.parametrize("name", spec.shipped())
def test_every_shipped_study_loads_at_every_scale(name):
    document = yaml.safe_load(spec.find(name))
    for scale in ["quick", *document.get("scales", {})]:
        study = spec.load(name, scale=scale)
        assert study.name == name and all(study.grid.values()) and study.file.expect


def test_set_is_yaml_typed_and_reaches_the_grid():
    study = spec.load(
        "quick", assignments=["modules.spec.rank=[2, 8]", "modules.optimizer.lr=0.01", "seeds=1"]
    )
    assert sorted({p.spec.rank for p in study.grid["phonebook"]}) == [2, 8] and study.file.seeds == 1


def test_a_mapping_chooses_by_rank_or_source():
    section = {
        "spec": {"rank": [1, 4]},
        "budget": {"exposures": {"a": 5, "b": 7}},
        "optimizer": {"lr": {1: 0.1, 4: 0.2}},
    }
    points = list(grid.expand(section, source="b"))
    assert [(p["optimizer"]["lr"], p["budget"]["exposures"]) for p in points] == [(0.1, 7), (0.2, 7)]
    ranks = {"spec": {"rank": [4, 15, 16, 64]}, "optimizer": {"lr": {1: 0.1, 16: 0.2}}}
    assert [p["optimizer"]["lr"] for p in grid.expand(ranks, source="b")] == [0.1, 0.1, 0.2, 0.2]
    with pytest.raises(InputError, match="no value for rank 1 or source 'c'"):
        list(grid.expand(section, source="c"))


def test_a_list_of_targets_is_one_value_and_a_list_of_groups_an_axis():
    assert not grid.is_axis("targets", ["q_proj", "v_proj"]) and grid.is_axis("targets", ["attention", "mlp"])
    assert (
        grid.is_axis("targets", [["q_proj"], ["v_proj"]])
        and grid.is_axis("rank", [1])
        and not grid.is_axis("rank", 1)
    )
    assert (
        len(list(grid.expand({"spec": {"rank": [1, 2], "targets": ["attention", "mlp"]}}, source="x"))) == 4
    )


def broken(**changes) -> dict:
    body = {**BODY, **changes}
    return {key: value for key, value in body.items() if value != "absent"}


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"qestion": 1}, "Did you mean 'question'"),
        ({"question": "absent"}, "question: Field required"),
        ({"sources": {}}, "sources"),
        ({"sources": {"a": {"name": "phonebok", "sizes": [5]}}}, "Did you mean 'phonebook'"),
        ({"sources": {"a": {"sizes": [5]}}}, "no name"),
        ({"sources": {"a": 3}}, "sources"),
        ({"modules": {**BODY["modules"], "spec": {"rank": 0}}}, "rank"),
        ({"modules": {**BODY["modules"], "spec": {"rank": []}}}, "an empty list has no cells"),
        ({"modules": {**BODY["modules"], "spec": {"rnk": 1, "rank": 1}}}, "Did you mean 'rank'"),
        ({"modules": {**BODY["modules"], "optimiser": {}}}, "Did you mean 'optimizer'"),
        ({"modules": {**BODY["modules"], "budget": {"steps": 1, "exposures": 2}}}, "exactly one"),
        ({"modules": {**BODY["modules"], "optimizer": {"lr": {4: 0.1}}}}, "no value for rank 1"),
        ({"readings": ["modul"]}, "Did you mean 'module'"),
        ({"metrics": ["exact"]}, "Did you mean 'exact_match'"),
        ({"readings": []}, "readings"),
        ({"seeds": 0}, "seeds"),
        ({"supervision": {"recipe": "rwa"}}, "Did you mean 'raw'"),
        ({"expect": [{"claim": "x", "metric": "exact_match"}]}, "give compare"),
        (
            {"expect": [{"claim": "x", "metric": "exact_match", "at": {"rnk": 1}, "at_least": 1}]},
            "Did you mean 'rank'",
        ),
        ({"study": "Bad Name"}, "study"),
    ],
)
def test_faults_are_named(changes, pattern):
    with pytest.raises(LoramemError, match=pattern):
        spec.validate(broken(**changes), "quick")


def test_all_faults_come_at_once():
    with pytest.raises(Faults) as caught:
        spec.validate(
            broken(readings=["modul"], metrics=["exact"], seeds=0, sources={"a": {"name": "phonebok"}}),
            "quick",
        )
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a.b=[1", "study.x=1"])
def test_bad_assignments_are_refused(text):
    with pytest.raises(InputError, match="--set"):
        spec.load("quick", assignments=[text])


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("a: [1", "not YAML"),
        ("- 1", "holds key: value"),
        ("", "holds key: value"),
        ("a: " + "[" * 3000, "YAML"),
    ],
)
def test_bad_study_files_are_named(content, pattern, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=pattern):
        spec.load(str(path))


def test_unknown_studies_and_scales():
    with pytest.raises(InputError, match="Did you mean 'quick'"):
        spec.load("quik")
    with pytest.raises(InputError, match="no scale 'huge'"):
        spec.load("quick", scale="huge")
