"""A study of several bases: one leg for each, settings chosen for each, cells that name their base, and expectations about both."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from loramem.core.errors import Faults, InputError
from loramem.core.files import read_json, read_jsonl
from loramem.modules.store import Store
from loramem.studies.execute import Outcome
from loramem.studies.executors import Local
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.studies.tuning import answer_loss, plan_sweeps, tune
from tinystudy import PHONES, body, study

RATES, LENGTHS = [0.001, 0.05], [2, 12]
BASES = ("llama", "gpt2")


def settings(checkpoints, **changes) -> dict:
    """A phonebook of five lines on two bases, each with a search over rate and exposures."""
    return {
        **PHONES,
        "sources__phonebook__sizes": [300],
        "base": [str(checkpoints[name]) for name in BASES],
        "modules__spec": {"rank": 2, "targets": "attention"},
        "modules__budget": {"exposures": {"sweep": LENGTHS}},
        "modules__optimizer": {"lr": {"sweep": RATES, "dev_tokens": 100}, "batch": 2},
        "seeds": 1,
        "readings": ["closed", "module", "random-module"],
        "metrics": ["exact_match", "answer_nll"],
        **changes,
    }


def module_of(checkpoints, name: str, **more) -> dict:
    return {"reading": "module", "base_name": str(checkpoints[name]), **more}


@pytest.fixture(scope="module")
def ran(checkpoints, bases, tmp_path_factory):
    """The study, what its bases were asked for, its store and folder, what it found, its rows."""
    expect = [
        {"claim": f"{b} over {a}", "metric": "answer_nll", "margin": 0.0,
         "compare": [module_of(checkpoints, a), module_of(checkpoints, b)]}
        for a, b in (BASES, BASES[::-1])
    ]  # fmt: skip
    expect.append({
        "claim": "the one with more parameters", "metric": "answer_nll", "at_least": 0,
        "at": {"reading": "module", "base_parameters": "largest"},
    })  # fmt: skip
    folder, made = tmp_path_factory.mktemp("bases"), study(**settings(checkpoints, expect=expect))
    by_path = {str(checkpoints[name]): bases[name] for name in BASES}
    asked: list[str] = []

    def load(name: str):
        asked.append(name)
        return by_path[name]

    store = Store(folder / "store")
    result = execute(made, load, store, folder / "run", progress=Progress(live=False))
    rows = pd.read_parquet(folder / "run" / "results.parquet")
    return SimpleNamespace(study=made, load=load, asked=asked, store=store, out=folder / "run", result=result, rows=rows)  # fmt: skip


def test_each_base_is_loaded_once_in_the_order_of_the_file(ran, checkpoints):
    assert ran.asked == [str(checkpoints[name]) for name in BASES]
    assert ran.result.failures == []
    shown = ran.result.info["environment"]["bases"]
    assert [one["name"] for one in shown] == ran.asked
    assert ran.result.summary["run"]["base"] == ", ".join(ran.asked)


def test_cells_are_named_after_their_base_and_rows_say_which_it_was(ran, bases, checkpoints):
    names = {f"{base}-phonebook-300-{kind}" for base in BASES for kind in ("closed", "r2-module", "r2-random-module")}  # fmt: skip
    assert set(ran.rows["cell"]) == names
    for base in BASES:
        own = ran.rows[ran.rows["cell"].str.startswith(f"{base}-")]
        assert set(own["base_name"]) == {str(checkpoints[base])}
        assert set(own["base_parameters"]) == {sum(p.numel() for p in bases[base].model.parameters())}
        assert set(own["base"]) == {bases[base].fingerprint[:12]}
    items = pd.read_parquet(ran.out / "items.parquet")
    assert set(items["cell"]) == names, "no cell holds the answers of two bases"
    assert items.groupby(["cell", "metric", "probe", "case"]).size().max() == 1
    plan = read_json(ran.out / "plan.json")
    assert (plan["modules"], plan["readings"], plan["cells"]) == (2, 6, 6)


def test_modules_of_one_base_are_not_those_of_another(ran, bases):
    trained = ran.rows[(ran.rows["reading"] == "module") & (ran.rows["probe"] == "trained")]
    by_base = trained.groupby("base")["module_ids"].first()
    assert len(set(by_base)) == 2
    losses = trained[trained["metric"] == "answer_nll"].groupby("base")["value"].first()
    assert losses.nunique() == 2


def test_every_base_has_settings_of_its_own_from_a_search_over_rate_and_length(ran, bases, checkpoints):
    chosen = {row["base"]: row for row in ran.result.summary["sweeps"]}
    assert chosen.keys() == {str(checkpoints[name]) for name in BASES}
    for name in BASES:
        base, row = bases[name], chosen[str(checkpoints[name])]
        candidates = plan_sweeps(ran.study, base)["phonebook"]
        tried = [(c.config.optimizer.lr, c.config.budget.exposures) for c in candidates]
        assert tried == [(rate, length) for rate in RATES for length in LENGTHS], "every pair"
        losses = [answer_loss(c.tasks, base, ran.store) for c in candidates]
        assert all(loss is not None for loss in losses) and len(set(losses)) == 4
        assert [one["nats_per_token"] for one in row["tried"]] == pytest.approx(losses)
        best = losses.index(min(losses))
        assert (row["lr"], row["budget"]) == (tried[best][0], f"exposures={tried[best][1]:g}")
        assert row["swept"] == ["lr", "budget"] and row["at_edge"] is True
        own = ran.rows[(ran.rows["base_name"] == str(checkpoints[name])) & (ran.rows["reading"] == "module")]
        assert set(own["lr"]) == {row["lr"]} and set(own["budget"]) == {row["budget"]}
        steps = [c.modules[0].job.steps for c in candidates]
        assert Counter(steps) == Counter({n: 2 for n in set(steps)}) and len(set(steps)) == 2
    assert min(one["nats_per_token"] for row in chosen.values() for one in row["tried"]) > 0


def test_a_loss_is_the_mean_over_answers_of_their_own(ran, bases):
    """By hand from the kept predictions, one setting: facts weigh alike, whatever the length of their answers."""
    candidate = plan_sweeps(ran.study, bases["llama"])["phonebook"][0]
    (task,) = candidate.tasks
    rows = read_jsonl(ran.store.reading_folder(task.identity(bases["llama"])) / "predictions.jsonl")
    by_hand = [-sum(row["gold_nats"]) / len(row["gold_nats"]) for row in rows]
    assert len(by_hand) == len(task.probes) > 0
    assert answer_loss(candidate.tasks, bases["llama"], ran.store) == pytest.approx(
        sum(by_hand) / len(by_hand)
    )
    assert answer_loss(candidate.tasks, bases["gpt2"], ran.store) is None, "no reading by that base"


def test_expectations_compare_bases(ran, checkpoints):
    verdicts = {row["claim"]: row for row in ran.result.summary["verdicts"]}
    one, other = verdicts["gpt2 over llama"], verdicts["llama over gpt2"]
    assert [c["cell"] for c in one["cells"]] == [
        "llama-phonebook-300-r2-module",
        "gpt2-phonebook-300-r2-module",
    ]
    assert "paired over 5 facts" in one["reason"]
    means = [c["mean"] for c in one["cells"]]
    assert {one["verdict"], other["verdict"]} == {"agrees", "disagrees"}
    assert (one["verdict"] == "agrees") == (means[1] > means[0])
    largest = verdicts["the one with more parameters"]["cells"][0]
    counts = ran.rows.drop_duplicates("cell").set_index("cell")["base_parameters"]
    assert counts[largest["cell"]] == counts.max()


def test_gains_are_over_the_same_base_alone(ran):
    """What a module adds is told against its own base, not against the other one."""
    items = pd.read_parquet(ran.out / "items.parquet")
    items = items[(items["metric"] == "exact_match") & (items["probe"] == "trained")]
    means = items.groupby("cell")["value"].mean()
    for row in ran.result.summary["gains"]:
        if row["metric"] == "exact_match" and row["probe"] == "trained" and row["class"] == "all":
            name = row["cell"].split("-")[0]
            assert row["gain"] == pytest.approx(means[row["cell"]] - means[f"{name}-phonebook-300-closed"])
    known = {row["cell"] for row in ran.result.summary["knowledge"]}
    assert known == {f"{name}-phonebook-300-closed" for name in BASES}


def test_readings_are_compared_within_a_base(ran):
    for row in ran.result.summary["comparisons"]["tests"]:
        assert row["cell"].split("-")[0] == row["against"].split("-")[0]
    assert len(ran.result.summary["comparisons"]["tests"]) > 0


def test_bases_are_compared_at_the_settings_chosen_for_each(ran):
    found = ran.result.summary["pairs"]
    assert {(row["cell"], row["against"]) for row in found} == {
        ("gpt2-phonebook-300-r2-module", "llama-phonebook-300-r2-module")
    }
    assert {row["probe"] for row in found} == {"trained", "heldout", "reverse"}
    assert {row["facts"] for row in found} == {5}


def test_a_second_run_does_nothing_again(ran, tmp_path):
    again = execute(ran.study, ran.load, ran.store, tmp_path / "again", progress=Progress(live=False))
    assert not {"train", "read"} & again.info["costs"]["this_run"].keys()
    assert again.summary == ran.result.summary
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again" / "results.parquet"), ran.rows)


def test_one_base_alone_gives_the_same_as_beside_others(ran, bases, checkpoints, tmp_path):
    """And its cells need no name of a base."""
    alone = study(**settings(checkpoints, base=str(checkpoints["gpt2"])))
    result = execute(alone, bases["gpt2"], ran.store, tmp_path / "run", progress=Progress(live=False))
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert result.info["reused"]["modules"] == 5, "four tried and one trained"
    beside = ran.rows[ran.rows["base_name"] == str(checkpoints["gpt2"])].reset_index(drop=True)
    assert [f"gpt2-{cell}" for cell in rows["cell"]] == beside["cell"].tolist()
    pd.testing.assert_series_equal(rows["value"], beside["value"])


def test_a_base_alone_does_not_stand_for_several(bases, checkpoints, tmp_path):
    with pytest.raises(InputError, match="compares 2 bases; give a function that loads each"):
        execute(study(**settings(checkpoints)), bases["llama"], Store(tmp_path / "s"), tmp_path / "run")


def test_a_chosen_length_and_rate_stand_in_the_grid(bases, checkpoints, tmp_path):
    """Where only the rate is swept at one length, cells are named by the length alone."""
    made = study(
        **settings(
            checkpoints, base="x", modules__budget={"exposures": 2}, seeds=2, readings=["module"],
            contrasts=[{"modules.budget": {"exposures": 3}}],
        )
    )  # fmt: skip
    store = Store(tmp_path)
    done = tune(made, store, Outcome(), Progress(live=False), Local(bases["llama"], store, rows=16))
    assert [row["swept"] for row in done.chosen] == [["lr"], ["lr"]]
    slugs = {cell.slug for cell in make_plan(done, bases["llama"]).cells}
    assert slugs == {f"phonebook-300-r2-exposures={n}-module" for n in (2, 3)}


def test_bases_that_could_not_be_told_apart_are_refused(checkpoints, tmp_path):
    for path in ("a/same", "b/same"):
        (tmp_path / path).mkdir(parents=True)
    with pytest.raises(Faults) as caught:
        study(base=[str(tmp_path / "a/same"), str(tmp_path / "b/same"), "embedded", "embedded"])
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["base", "base"]
    said = str(caught.value)
    assert "'embedded' is named twice" in said and "would both be called same in the names of cells" in said


def test_the_command_runs_and_plans_every_base(loramem, checkpoints, tmp_path):
    """And --base takes one of them."""
    path = tmp_path / "bases.yaml"
    small = {"modules__budget": {"steps": 2}, "modules__optimizer": {"lr": 0.01, "batch": 2}}
    path.write_text(yaml.safe_dump(body(**settings(checkpoints, **small, metrics=["exact_match"]))))
    code, said, error = loramem("study", "run", path, "--dry-run")
    assert code == 0, error
    found = json.loads(said[: said.rindex("}") + 1])
    assert [Path(one["base"]).name for one in found["bases"]] == list(BASES)
    assert [one["modules"] for one in found["bases"]] == [1, 1]
    code, said, error = loramem("study", "run", path, "--out", tmp_path / "run")
    assert code == 0, error
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f"{name}-phonebook-300-r2-module" in page for name in BASES)
    code, said, error = loramem(
        "study", "run", path, "--base", checkpoints["qwen3"], "--out", tmp_path / "one"
    )
    assert code == 0, error
    rows = pd.read_parquet(tmp_path / "one" / "results.parquet")
    assert set(rows["base_name"]) == {str(checkpoints["qwen3"])} and "phonebook-300-closed" in set(
        rows["cell"]
    )
