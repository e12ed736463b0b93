"""A series of studies: the order shares modules, settings go where they belong, one that fails or is stopped costs nobody else."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from loramem.core.errors import Faults, InputError, RunFailed
from loramem.core.files import read_json
from loramem.core.storage import StorageFailed, fatal
from loramem.modules.store import Store
from loramem.studies import estimates, series, spec
from loramem.studies.costs import module_costs
from loramem.studies.estimates import ASIDE_SECONDS, dry_run, foresee
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from tinystudy import PHONES, study

SMALL = {**PHONES, "sources__phonebook__sizes": [60], "modules__spec__rank": [1], "seeds": 2}


def test_every_question_and_the_ablations_run_once_parents_first():
    order = series.members()
    assert sorted(order) == [*(["ablation"]), *(f"q{number:02d}" for number in range(1, 16))]
    for name in order:
        parent = yaml.safe_load(spec.find(name)).get("extends")
        assert parent is None or order.index(parent) < order.index(name), f"{name} reads what {parent} trains"


def test_a_setting_goes_to_the_studies_that_have_it():
    studies = series.load_all(
        scale="quick", assignments=["sources.papers.documents=2", "modules.budget.steps=7"]
    )
    with_papers = {name for name, one in studies.items() if "papers" in one.file.sources}
    assert {"q04", "q09"} <= with_papers and "q02" not in with_papers
    assert all(studies[name].file.sources["papers"]["documents"] == 2 for name in with_papers)
    assert studies["q04"].body["modules"]["budget"] == {"steps": 7}
    assert "steps" not in studies["q02"].body["modules"]["budget"], "it counts exposures"


def test_flags_reach_every_study():
    studies = series.load_all(scale="quick", overrides={"seeds": 1, "base": "elsewhere"})
    assert {(one.file.seeds, one.bases) for one in studies.values()} == {(1, ("elsewhere",))}


def test_all_faults_are_told_at_once_and_a_shared_one_once():
    given = ["modules.spek.rank=2", "modules.spec.rnk=1", "nothing", "sources.papers.documents=0"]
    with pytest.raises(Faults) as caught:
        series.load_all(scale="quick", assignments=given)
    faults = caught.value.faults
    assert any(
        "no study has modules.spek.rank" in one and "Did you mean 'modules.spec'" in one for one in faults
    )
    assert any("'nothing'" in one and "PATH=VALUE" in one for one in faults)
    [shared] = [one for one in faults if ": modules.spec.rnk: " in one]
    assert shared.startswith("q02, q01, q03, q04") and "Did you mean 'rank'" in shared
    assert [one for one in faults if "documents" in one and "q04" in one and "q02" not in one]


def test_a_scale_that_some_study_lacks_is_refused():
    with pytest.raises(Faults, match="q02, q01, q03.*no scale 'huge'"):
        series.load_all(scale="huge")


# -- running -----------------------------------------------------------------------------------------
def run_with(base, store, done: list[str]):
    def run(one, where):
        done.append(one.name)
        if one.name == "broken":
            raise ValueError("it broke\nin two lines")
        return execute(one, base, store, where, progress=Progress(live=False))

    return run


def of(*names: str, **changes) -> dict[str, spec.Study]:
    return {name: study(study=name, **{**SMALL, **changes}) for name in names}


def test_what_fails_is_noted_the_rest_goes_on_and_nothing_is_trained_twice(bases, tmp_path, capsys):
    said: list[str] = []
    done: list[str] = []
    studies, store, out = of("first", "broken", "second"), Store(tmp_path / "store"), tmp_path / "run"
    status = series.run_series(
        studies, run_with(bases["llama"], store, done), out, command="c", say=said.append
    )
    assert [entry["state"] for entry in status.studies] == ["done", "failed", "done"]
    assert status.studies[1]["error"] == "ValueError: it broke"
    assert read_json(out / "series.json") == {"scale": "quick", "command": "c", "studies": status.studies}
    assert "in two lines" in (out / "broken" / "error.txt").read_text()
    costs = {name: read_json(out / name / "costs.json") for name in ("first", "second")}
    assert [costs[name]["reused"]["modules"] for name in costs] == [0, 2]
    assert "train" not in costs["second"]["costs"]["this_run"], "nothing was trained again"
    assert costs["first"]["modules"] == costs["second"]["modules"], "and it costs what it cost the first"
    lines = [line for line in said if line.startswith("==")]
    assert [line.split(",")[0] for line in lines] == [
        "== 1 of 3: first",
        "== 2 of 3: broken",
        "== 3 of 3: second",
    ]
    assert not any("left" in line for line in lines), "nothing was foreseen"

    del studies["broken"]
    again = series.run_series(studies, run_with(bases["llama"], store, done), out, say=said.append)
    assert {entry["state"] for entry in again.studies} == {"done"} and done[-2:] == ["first", "second"]
    assert "train:" in capsys.readouterr().out.partition("== ")[0]


def test_an_error_of_ours_needs_no_trace_and_a_later_success_clears_it(tmp_path):
    outcomes = iter([RunFailed("the probe step failed"), ValueError("odd"), None])

    def run(one, where):
        error = next(outcomes)
        if error is not None:
            raise error
        return SimpleNamespace(failures=[{"cell": "c"}])

    studies, trace = of("only"), tmp_path / "only" / "error.txt"
    status = series.run_series(studies, run, tmp_path, say=str)
    assert status.studies[0]["error"] == "the probe step failed" and not trace.exists()
    series.run_series(studies, run, tmp_path, say=str)
    assert trace.exists()
    [entry] = series.run_series(studies, run, tmp_path, say=str).studies
    assert entry["state"] == "done" and entry["holes"] == 1 and not trace.exists()


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    def run(one, where):
        if one.name == "second":
            raise KeyboardInterrupt
        return SimpleNamespace(failures=[])

    with pytest.raises(KeyboardInterrupt):
        series.run_series(of("first", "second", "third"), run, tmp_path, say=str)
    states = [entry["state"] for entry in read_json(tmp_path / "series.json")["studies"]]
    assert states == ["done", "stopped", "waiting"]


@pytest.mark.parametrize("told", [False, True])
def test_a_disk_that_is_full_ends_the_series_and_is_no_fault_of_the_study(tmp_path, told):
    """Raised by the system, or already in our words: every study after it would meet the same."""
    ran: list[str] = []

    def run(one, where):
        ran.append(one.name)
        if one.name == "second":
            full = OSError(errno.ENOSPC, "No space left on device", str(where / "results.parquet"))
            raise (fatal(full) or full) if told else full
        return SimpleNamespace(failures=[])

    with pytest.raises(StorageFailed, match="the disk is full: .*second/results.parquet"):
        series.run_series(of("first", "second", "third"), run, tmp_path, say=str)
    entries = read_json(tmp_path / "series.json")["studies"]
    assert ran == ["first", "second"] and [entry["state"] for entry in entries] == [
        "done",
        "failed",
        "waiting",
    ]
    assert "the disk is full" in entries[1]["error"] and not (tmp_path / "second" / "error.txt").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out"):
        series.run_series(
            of("only"), lambda one, where: pytest.fail("ran"), tmp_path / "file" / "run", say=str
        )


# -- what is counted ---------------------------------------------------------------------------------
def test_what_is_foreseen_counts_shared_work_once_and_nothing_that_is_kept(bases, tmp_path):
    base, store = bases["llama"], Store(tmp_path / "store")
    studies = of("a", "b") | of("more", modules__spec__rank=[1, 3]) | of("alone", modules__spec__rank=[3])
    first, same, more, alone = foresee(studies, base, store, rows=16)
    assert first > same == ASIDE_SECONDS and more > ASIDE_SECONDS and alone == ASIDE_SECONDS
    (lonely,) = foresee({"alone": studies["alone"]}, base, store, rows=16)
    assert lonely > ASIDE_SECONDS, "nobody trained it before"
    for name in ("a", "more"):
        execute(studies[name], base, store, tmp_path / name, progress=Progress(live=False))
    assert foresee(studies, base, store, rows=16) == [ASIDE_SECONDS] * 4


def test_what_is_foreseen_grows_with_the_bases_and_a_study_that_cannot_be_planned_takes_nothing(
    bases, tmp_path
):
    store = Store(tmp_path / "store", look=True)
    one, three, broken = study(**SMALL), study(**SMALL), study(**SMALL)
    three.bases, broken.sources = ("a", "b", "c"), None
    (seconds,) = foresee({"one": one}, bases["llama"], store, rows=16)
    (thrice,) = foresee({"three": three}, bases["llama"], store, rows=16)
    assert thrice - ASIDE_SECONDS == pytest.approx(3 * (seconds - ASIDE_SECONDS))
    assert foresee({"broken": broken, "one": one}, bases["llama"], store, rows=16) == [0.0, seconds]


def test_supervision_that_is_not_written_yet_leaves_the_time_left_open(bases, tmp_path, monkeypatch):
    real = estimates.make_plan

    def unwritten(*given):
        return replace(real(*given), lost=[{"cell": "c", "seed": None, "error": "not written"}])

    monkeypatch.setattr(estimates, "make_plan", unwritten)
    store = Store(tmp_path / "store", look=True)
    assert foresee(of("only"), bases["llama"], store, rows=16) == [None]


def test_a_base_that_cannot_be_planned_with_ends_no_series(tmp_path):
    def foresee():
        raise InputError("base 'x' does not load")

    said: list[str] = []
    status = series.run_series(
        of("a", "b"),
        lambda one, where: SimpleNamespace(failures=[]),
        tmp_path,
        foresee=foresee,
        say=said.append,
    )
    assert [entry["state"] for entry in status.studies] == ["done", "done"]
    assert said[0] == "planning 2 studies" and not any("left" in line for line in said)


def test_the_time_left_follows_what_is_foreseen(tmp_path, monkeypatch):
    now = iter([0.0, *(at for at in (0.0, 10.0, 30.0) for _ in range(3))])
    monkeypatch.setattr(series.time, "perf_counter", lambda: next(now))
    said: list[str] = []
    series.run_series(
        of("a", "b", "c"), lambda one, where: SimpleNamespace(failures=[]), tmp_path, foresee=lambda: [1.0, 2.0, 3.0], say=said.append
    )  # fmt: skip
    assert said == [
        "planning 3 studies",
        "== 1 of 3: a, 0:00 so far",
        "== 2 of 3: b, 0:10 so far, about 0:50 left",
        "== 3 of 3: c, 0:30 so far, about 0:30 left",
    ]


def test_a_dry_run_counts_shared_modules_once(bases, tmp_path):
    store, counted = Store(tmp_path / "store", look=True), set()
    first, second = (
        dry_run(one, bases["llama"], store, rows=16, counted=counted)
        for one in of("first", "second").values()
    )
    assert first["shared_modules"] == 0 and first["train_seconds"] > 0
    assert second["shared_modules"] == second["modules"] == len(counted) == 2 and second["train_seconds"] == 0


def test_costs_of_modules_are_their_ledgers(bases, tmp_path):
    store, [one] = Store(tmp_path / "store"), of("only").values()
    plan = make_plan(one, bases["llama"])
    assert module_costs([plan], store) == {}, "nothing is trained yet"
    result = execute(one, bases["llama"], store, tmp_path / "run", progress=Progress(live=False))
    found = module_costs([plan, plan], store)
    assert set(found) == set(plan.modules)
    for identity, cost in found.items():
        folder = store.module_folder(identity)
        assert cost["tokens"] == json.loads((folder / "ledger.json").read_text())["tokens"] > 0
        assert cost["bytes"] == len((folder / "adapter_model.safetensors").read_bytes())
    assert result.info["costs"]["train_tokens"] == sum(cost["tokens"] for cost in found.values())
