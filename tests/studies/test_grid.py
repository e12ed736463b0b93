"""Study files: lists are the grid, scales and --set change paths, all faults at once, every shipped file loads."""

from __future__ import annotations

import pytest
import yaml

from loramem.core.errors import Faults, InputError, LoramemError
from loramem.studies import grid, spec
from loramem.studies.points import Point
from loramem.studies.spec import Study
from tinystudy import PHONES, body, study

BODY = yaml.safe_load(spec.find("quick"))


@pytest.mark.parametrize("name", spec.shipped())
def test_every_shipped_study_loads_at_every_scale(name):
    document = spec.read_document(name)
    scales = {"quick": {}, **document.get("scales", {})}
    for scale in scales:
        study = spec.load(name, scale=scale)
        assert study.name == name and all(study.grid.values())
        # on other bases and data nothing may be expected, but then the file says so
        silent = name == "paperqa" or scales[scale].get("expect") == []
        assert bool(study.file.expect) != silent, scale


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


# -- contrasts, sweeps, skips, retrieval, capacity -----------------------------------------------------
def points(made: Study, source: str = "phonebook") -> list[tuple]:
    return [(p.config.spec.rank, p.config.budget.label, p.sizes) for p in made.points[source]]


MAIN = [(1, "steps=3", None), (3, "steps=3", None)]
OTHER = {"modules.budget": {"steps": 5}}


def test_a_contrast_adds_points_where_it_applies():
    made = study(contrasts=[{"sources": ["phonebook"], "sizes": [60], "modules.spec.rank": 3, **OTHER}])
    assert points(made) == [*MAIN, (3, "steps=5", (60,))] and points(made, "counterfact") == MAIN
    assert all(isinstance(point, Point) and point.tried == () for point in made.points["phonebook"])
    assert points(study(contrasts=[OTHER]), "counterfact") == [
        *MAIN,
        (1, "steps=5", None),
        (3, "steps=5", None),
    ]


def test_a_point_that_is_named_twice_is_one_point_at_all_sizes_it_was_named_for():
    first, second = ({"sizes": [size], "modules.spec.rank": [1], **OTHER} for size in (300, 60))
    assert points(study(contrasts=[first, second])) == [*MAIN, (1, "steps=5", (60, 300))]
    everywhere = {key: value for key, value in first.items() if key != "sizes"}
    assert points(study(contrasts=[first, everywhere])) == [*MAIN, (1, "steps=5", None)]
    assert points(study(contrasts=[everywhere, first])) == [*MAIN, (1, "steps=5", None)]
    assert points(study(contrasts=[{"sizes": [60], "modules.spec.rank": [1]}])) == MAIN, (
        "the grid has it already"
    )


def test_rates_to_be_swept_stand_beside_given_ones():
    sweep = {"sweep": [0.1, 0.2], "dev_tokens": 50}
    made = study(modules__optimizer={"lr": {1: sweep, 3: 0.05}, "batch": 2})
    low, high = made.points["phonebook"]
    assert (low.config.optimizer.lr, high.config.optimizer.lr) == (0.1, 0.05) and high.tried == ()
    assert [config.optimizer.lr for config in low.tried] == [0.1, 0.2] and low.dev_tokens == 50
    assert all(config.spec == low.config.spec and config.optimizer.batch == 2 for config in low.tried)
    assert made.grid["phonebook"] == [low.config, high.config]


def test_retrieval_lists_are_the_grid_and_without_it_there_is_one_way():
    made = study(retrieval={"method": ["bm25", "embedding"], "passages_k": [1, 3], "chunk_tokens": 40})
    assert [(r.method, r.passages_k) for r in made.retrievals] == [
        ("bm25", 1), ("bm25", 3), ("embedding", 1), ("embedding", 3),
    ]  # fmt: skip
    assert [r.method for r in study().retrievals] == ["bm25"]


SWEEP = {"sweep": [0.1], "dev_tokens": 5}
FAULTS = {
    "no path of modules": ({"contrasts": [{"module.budget": {}}]}, r"contrasts\[0\]: 'module.budget' is no path of modules"),
    "all modules": ({"contrasts": [OTHER, {"modules": {}}]}, r"contrasts\[1\]: 'modules' is no path"),
    "unknown part": ({"contrasts": [{"modules.bugdet": {}}]}, "bugdet: unknown key.*Did you mean 'budget'"),
    "unknown setting": ({"contrasts": [{"modules.spec.rnk": 1}]}, r"contrasts\[0\].spec.rnk.*Did you mean 'rank'"),
    "path through a value": ({"contrasts": [{"modules.spec.rank.x": 1}]}, "modules.spec.rank holds a value"),
    "unknown source": ({"contrasts": [{"sources": ["phonebok"], **OTHER}]}, r"contrasts\[0\].sources.*Did you mean 'phonebook'"),
    "one size": ({"contrasts": [{"sizes": 60, **OTHER}]}, r"contrasts\[0\].sizes: give a list of sizes"),
    "no number": ({"contrasts": [{"sizes": ["60"], **OTHER}]}, "give a list of sizes"),
    "no mapping": ({"contrasts": ["x"]}, "contrasts.0"),
    "empty sweep": ({"modules__optimizer": {"lr": {**SWEEP, "sweep": []}}}, r"modules.optimizer.lr.sweep.*at least 1"),
    "negative rate": ({"modules__optimizer": {"lr": {**SWEEP, "sweep": [0.1, -1]}}}, "lr.sweep.1.*greater than 0"),
    "no dev split": ({"modules__optimizer": {"lr": {"sweep": [0.1]}}}, "lr.dev_tokens: Field required"),
    "sweep of a contrast": ({"contrasts": [{"modules.optimizer.lr": {**SWEEP, "dev_tokens": 0}}]}, r"contrasts\[0\].optimizer.lr.dev_tokens"),
    "skip of a source": ({"skip": [{"source": "phonebok"}]}, "skip: unknown source.*Did you mean 'phonebook'"),
    "skip of a key": ({"skip": [{"ranks": [3]}]}, "skip.0.ranks.*Did you mean 'rank'"),
    "skip of one rank": ({"skip": [{"rank": 3}]}, "skip.0.rank"),
    "skip of everything": ({"skip": [{}]}, r"skip\[0\]: give at least one"),
    "no source": ({"contrasts": [{"sources": [], **OTHER}]}, r"contrasts\[0\].sources: give a list"),
    "source as text": ({"contrasts": [{"sources": "phonebook", **OTHER}]}, r"contrasts\[0\].sources: give a list"),
    "size of no source": ({"contrasts": [{"sizes": [61], **OTHER}]}, "no source has the size 61; allowed: 60"),
    "no method": ({"retrieval": {"method": []}}, "retrieval.method: an empty list"),
    "limit of two rates": ({
        "contrasts": [{"modules.optimizer.lr": 0.5}], "capacity": {"phonebook": {"metric": "exact_match", "thresholds": [0.9]}},
    }, "capacity.phonebook: two modules of rank .* differ in something else"),
    "method": ({"retrieval": {"method": ["bm25", "embeding"]}}, "retrieval.method.*given 'embeding'"),
    "no passages": ({"retrieval": {"passages_k": [1, 0]}}, "retrieval.passages_k.*given 0"),
    "retrieval key": ({"retrieval": {"chunk": 3}}, "Did you mean 'chunk_tokens'"),
    "capacity source": ({"capacity": {"phonebok": {"metric": "exact_match", "thresholds": [1]}}}, "capacity: unknown source.*Did you mean 'phonebook'"),
    "capacity metric": ({"capacity": {"phonebook": {"metric": "exact", "thresholds": [1]}}}, "'exact' is not measured.*Did you mean 'exact_match'"),
    "no threshold": ({"capacity": {"phonebook": {"metric": "exact_match", "thresholds": []}}}, "thresholds"),
    "threshold in per cent": ({"capacity": {"phonebook": {"metric": "exact_match", "thresholds": [90]}}}, "less than or equal to 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_parts_are_named(case):
    changes, pattern = FAULTS[case]
    with pytest.raises(LoramemError, match=pattern):
        study(**changes)


def test_faults_of_several_parts_come_at_once():
    with pytest.raises(Faults) as caught:
        study(
            contrasts=[{"sources": ["a", "b"]}], skip=[{"source": "c"}], retrieval={"passages_k": 0},
            capacity={"phonebook": {"metric": "paraphrase", "thresholds": [0.9]}},
        )  # fmt: skip
    assert len(caught.value.faults) == 5


# -- files that extend others --------------------------------------------------------------------------
def write(folder, name: str, document: dict) -> str:
    (folder / name).write_text(yaml.safe_dump(document))
    return str(folder / name)


def test_a_file_that_extends_another_changes_the_keys_it_gives(tmp_path):
    parent = write(tmp_path, "p.yaml", body(**PHONES, scales={"paper": {"seeds": 5, "base": "x"}}))
    child = write(tmp_path, "c.yaml", {"extends": parent, "study": "child", "seeds": 1})
    made = spec.load(child)
    assert (made.name, made.file.seeds, made.file.question) == ("child", 1, "Does it run?")
    assert made.grid == spec.load(parent).grid and "extends" not in made.body
    paper = spec.load(child, scale="paper")
    assert (paper.file.seeds, paper.file.base) == (5, "x"), "a scale of the parent changes the child too"


def test_scales_are_merged_setting_by_setting(tmp_path):
    scales = {"laptop": {"seeds": 3, "base": "a"}, "paper": {"seeds": 5}}
    parent = write(tmp_path, "p.yaml", body(**PHONES, scales=scales))
    own = {"laptop": {"base": "b", "contrasts": []}, "huge": {"seeds": 9}}
    child = write(tmp_path, "c.yaml", {"extends": parent, "study": "child", "scales": own})
    shown = {
        scale: (made.file.seeds, made.file.base)
        for scale in ("quick", "laptop", "paper", "huge")
        for made in [spec.load(child, scale=scale)]
    }
    assert shown == {
        "quick": (2, "embedded"),
        "laptop": (3, "b"),
        "paper": (5, "embedded"),
        "huge": (9, "embedded"),
    }
    grandchild = write(tmp_path, "g.yaml", {"extends": child, "scales": {"laptop": {"seeds": 4}}})
    made = spec.load(grandchild, scale="laptop")
    assert (made.name, made.file.seeds, made.file.base) == ("child", 4, "b")


def test_files_that_extend_each_other_are_refused(tmp_path):
    a, b = (write(tmp_path, f"{x}.yaml", {"extends": str(tmp_path / f"{y}.yaml")}) for x, y in ("ab", "ba"))
    with pytest.raises(InputError, match="a.yaml -> .*b.yaml -> .*a.yaml is a circle"):
        spec.load(a)
    itself = write(tmp_path, "c.yaml", {"extends": str(tmp_path / "c.yaml")})
    with pytest.raises(InputError, match="is a circle"):
        spec.load(itself)
    with pytest.raises(InputError, match="unknown study 'q2'.*Did you mean 'q"):
        spec.load(write(tmp_path, "d.yaml", {"extends": "q2"}))


def test_the_shipped_questions_share_the_modules_of_one_grid():
    for scale in ("quick", "laptop"):
        main = spec.load("q02", scale=scale)
        for name in ("q01", "q03"):
            other = spec.load(name, scale=scale)
            assert other.sources == main.sources
            for source, points_ in other.points.items():
                assert set(points_) <= set(main.points[source])
