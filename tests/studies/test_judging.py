"""The metric `judge` in a study: missing without a judge, kept by judge beside the predictions, failures told and tried again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pandas as pd
import pytest

from loramem.api import run_study
from loramem.core.errors import Faults, InputError
from loramem.core.files import read_json, read_jsonl
from loramem.metrics.judge import judge_id
from loramem.modules.store import Store
from loramem.report.gallery import _first_metrics
from loramem.report.html import bounds, text_tables
from loramem.studies import judging
from loramem.studies.execute import Outcome
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.studies.study_file import JudgeChoice
from loramem.synthesis.completing import Answer, Failure, Reply, Sampling
from tinystudy import BODY, PHONES, study

SMALL = {
    **PHONES, "sources__phonebook__sizes": [300], "modules__spec": {"rank": 1, "targets": "attention"}, "seeds": 1,
    "metrics": ["exact_match", "judge"],
}  # fmt: skip
JUDGED = {**SMALL, "judge": {"model": "some-model"}}
ANSWERS = 15
"""Answers in words that the metric applies to, per reading: five lines, asked in trained words, in others, and in reverse."""
WORDINGS = {"trained", "heldout", "reverse"}


class Script:
    """A judge whose reply is told by the question; it counts what it is asked."""

    def __init__(self, reply: Callable[[str], Reply | Exception], name: str = "script"):
        self.reply, self.name = reply, name
        self.asked: list[str] = []

    def identity(self) -> dict:
        return {"model": self.name}

    def complete(self, asks, on_reply=None) -> list[Reply]:
        replies: list[Reply] = []
        for index, ask in enumerate(asks):
            question = json.loads(ask.user)["question"]
            self.asked.append(question)
            reply = self.reply(question)
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
            if on_reply:
                on_reply(index, reply)
        return replies


def points(score: float) -> Answer:
    return Answer("{}", {"reason": "so it is", "score": score}, 40, 5, 0.0)


def eight(question: str) -> Reply:
    return points(8.0)


def fails_in_reverse(question: str) -> Reply:
    return Failure("timeout", "too slow") if question.startswith("Whose") else points(8.0)


@pytest.fixture
def judged_by(monkeypatch):
    def use(script: Script) -> Script:
        monkeypatch.setattr(judging, "make_judge", lambda choice, base: script)
        return script

    return use


@pytest.fixture(scope="module")
def read_once(bases, tmp_path_factory):
    """A store that holds module and readings of the small study; tests judge in it, each by a name of its own."""
    folder = tmp_path_factory.mktemp("judged")
    store = Store(folder / "store")
    result = execute(study(**SMALL), bases["llama"], store, folder / "run", progress=Progress(live=False))
    return store, result


def go(store, base, out, **body):
    return execute(study(**(body or JUDGED)), base, store, out, progress=Progress(live=False))


def of_judge(out) -> pd.DataFrame:
    rows = pd.read_parquet(out / "results.parquet")
    return rows[rows["metric"] == "judge"]


def kept(store: Store, script: Script) -> list[dict]:
    files = sorted(store.root.glob(f"readings/*/scores/judge-{judge_id(script)[:12]}.jsonl"))
    return [row for file in files for row in read_jsonl(file)]


# -- without a judge ---------------------------------------------------------------------------------
def test_without_a_judge_the_metric_is_shown_as_missing(read_once, tmp_path, bases):
    store, result = read_once
    rows = of_judge(result.out)
    assert len(rows) == 2 * len(WORDINGS) and set(rows["probe"]) == WORDINGS
    assert rows["value"].isna().all() and rows["judge"].isna().all()
    assert set(rows["n_scored"]) == {0} and set(rows["n_failed"]) == {5}
    (told,) = read_json(result.out / "summary.json")["missing"]
    assert told["metric"] == "judge" and told["reason"].startswith("no judge was given")
    assert result.failures == [] and result.summary["judge"] is None
    assert not list(store.root.glob("readings/*/scores/judge*")), "nothing was judged"
    cells = {
        c["reading"]: c for c in result.summary["cells"] if (c["metric"], c["probe"]) == ("judge", "trained")
    }
    for cell in cells.values():
        assert (cell["mean"], cell["n"], cell["n_failed"]) == (None, 0, 5)
        assert (cell["bound_low"], cell["bound_high"]) == (0.0, 10.0)
    page = run_study(
        study(**SMALL), bases["llama"], store, tmp_path / "run", progress=Progress(live=False)
    ).report
    assert "Metric judge, points of 10 is missing: no judge was given" in page.read_text()


def test_the_command_ends_well_without_a_judge(loramem, checkpoints, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        json.dumps({**BODY, "sources": PHONES["sources"], "metrics": ["judge"], "readings": ["closed"]})
    )
    options = ("--base", checkpoints["llama"], "--out", tmp_path / "run", "--device", "cpu", "--offline")
    code, out, err = loramem("study", "run", file, *options, "--set", "sources.phonebook.sizes=[60]")
    assert code == 0, err
    assert "metric judge is missing: no judge was given" in out
    assert loramem("study", "report", tmp_path / "run")[1].count("metric judge is missing") == 1


# -- with a judge ------------------------------------------------------------------------------------
def test_with_a_judge_there_are_points(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    script = judged_by(Script(eight, "eight"))
    result = go(store, bases["llama"], tmp_path)
    rows = of_judge(tmp_path)
    assert (rows["value"] == 8.0).all() and set(rows["judge"]) == {"eight"}
    assert set(rows["n_scored"]) == {5} and set(rows["n_failed"]) == {0}
    others = pd.read_parquet(tmp_path / "results.parquet").query("metric == 'exact_match'")
    assert others["judge"].isna().all() and others["value"].notna().all()
    assert result.summary["missing"] == [] and result.failures == []
    assert result.summary["judge"] == {
        "name": "eight", "identity": {"model": "eight"}, "version": 1, "answers": 2 * ANSWERS, "empty": 0, "failed": {},
    }  # fmt: skip
    spent = result.info["costs"]["this_run"]["judge"]
    assert spent["asked"] == len(script.asked) and spent["asked"] + spent["equal_answers"] == 2 * ANSWERS
    assert spent["new_tokens"] == 5 * len(script.asked) and spent["failed"] == 0
    own = kept(store, script)
    assert len(own) == 2 * ANSWERS and own[0].keys() == {"probe", "metric", "value", "reason", "by"}
    cell = next(c for c in result.summary["cells"] if c["metric"] == "judge")
    assert cell["mean"] == 8.0 and "bound_low" not in cell


def test_a_second_run_asks_nothing(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    script = judged_by(Script(eight, "again"))
    first = go(store, bases["llama"], tmp_path / "a")
    asked = len(script.asked)
    second = go(store, bases["llama"], tmp_path / "b")
    assert len(script.asked) == asked and "judge" not in second.info["costs"]["this_run"]
    assert (
        second.summary["cells"] == first.summary["cells"]
        and second.summary["judge"] == first.summary["judge"]
    )
    # what was kept by the cache alone, as when a run was stopped before it wrote verdicts down
    for file in store.root.glob(f"readings/*/scores/judge-{judge_id(script)[:12]}.jsonl"):
        file.unlink()
    third = go(store, bases["llama"], tmp_path / "c")
    assert len(script.asked) == asked and third.summary["cells"] == first.summary["cells"]
    assert third.info["costs"]["this_run"]["judge"]["asked"] == 0


def test_what_failed_is_counted_and_asked_again(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    script = judged_by(Script(fails_in_reverse, "slow"))
    first = go(store, bases["llama"], tmp_path / "a")
    rows = of_judge(tmp_path / "a").set_index("probe")
    assert set(rows.loc["trained", "value"]) == {8.0} and set(rows.loc["trained", "n_failed"]) == {0}
    assert rows.loc["reverse", "value"].isna().all() and set(rows.loc["reverse", "n_failed"]) == {5}
    assert first.failures == [] and first.summary["missing"] == [], "some were judged"
    assert first.summary["judge"]["failed"] == {"timeout": 10}
    assert {row["reason"] for row in kept(store, script) if row["value"] is None} == {"timeout: too slow"}
    script.asked.clear()
    script.reply = lambda question: points(9.5) if "116-050-9691" in question else fails_in_reverse(question)
    second = go(store, bases["llama"], tmp_path / "b")
    assert script.asked and all(question.startswith("Whose") for question in script.asked), "only what failed"
    rows = of_judge(tmp_path / "b").set_index("probe")
    assert set(rows.loc["reverse", "value"]) == {9.5} and set(rows.loc["reverse", "n_failed"]) == {4}
    assert set(rows.loc["heldout", "value"]) == {8.0}
    cell = next(c for c in second.summary["cells"] if (c["metric"], c["probe"]) == ("judge", "reverse"))
    assert (cell["n"], cell["n_failed"], cell["mean"]) == (1, 4, 9.5)
    assert (cell["bound_low"], cell["bound_high"]) == (pytest.approx(9.5 / 5), pytest.approx(49.5 / 5))
    assert bounds(cell) == " (bounds 1.90 to 9.90)"


def test_another_judge_has_a_file_of_its_own(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    one, other = Script(eight, "one"), Script(lambda question: points(3.0), "other")
    for script in (one, other):
        judged_by(script)
        go(store, bases["llama"], tmp_path / script.name)
    assert {row["value"] for row in kept(store, one)} == {8.0}
    assert {row["value"] for row in kept(store, other)} == {3.0}
    assert set(of_judge(tmp_path / "other")["judge"]) == {"other"}


def test_points_have_intervals_of_their_scale(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    judged_by(Script(lambda question: points(10.0), "kind"))
    result = go(store, bases["llama"], tmp_path)
    cell = next(c for c in result.summary["cells"] if (c["metric"], c["probe"]) == ("judge", "trained"))
    exact = next(
        c for c in result.summary["cells"] if (c["metric"], c["probe"]) == ("exact_match", "trained")
    )
    assert (cell["mean"], cell["ci_high"]) == (10.0, 10.0)
    assert cell["ci_low"] == pytest.approx(10 * (1 - exact["ci_high"])), "five of five, as Wilson has it"


def test_empty_and_failed_answers_are_not_asked_about(tmp_path, bases, judged_by):
    """A reading whose rows are changed by hand, in a store of its own."""
    base, store, made = bases["llama"], Store(tmp_path / "store"), study(**JUDGED, readings=["closed"])
    plan = make_plan(made, base)
    ((task,),) = (cell.tasks for cell in plan.cells)
    reading = task.identity(base)
    rows = [{"probe": p.id, "kind": p.kind, "prediction": "x", "failure": None} for p in task.probes]
    asked = [row for row, probe in zip(rows, task.probes, strict=True) if probe.phrasing == "trained"]
    asked[0]["prediction"], asked[1]["failure"], asked[2]["prediction"] = " ", "out of memory", ""
    store.put_reading(reading, {}, rows, {})
    script = judged_by(Script(eight))
    found = judging.judge_missing(made, plan, base, store, Outcome(), Progress(live=False))
    scores = found.scores[reading]
    assert scores[asked[0]["probe"]] == scores[asked[2]["probe"]] == 0.0
    assert asked[1]["probe"] not in scores and len(scores) == ANSWERS - 1
    assert len(script.asked) == ANSWERS - 3 and found.account["empty"] == 2
    assert [row["by"] for row in kept(store, script)].count("empty") == 2
    predictions = {row["probe"]: row for row in rows}
    found.add_to(predictions, [reading, "another"])
    assert "judge" not in asked[1] and asked[0]["judge"] == 0.0


def test_points_are_not_drawn_on_axes_in_per_cent(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    judged_by(Script(eight, "drawn"))
    result = go(store, bases["llama"], tmp_path, **{**JUDGED, "metrics": ["judge", "rouge_l"]})
    cells = pd.DataFrame(result.summary["cells"])
    assert _first_metrics(cells) == [("rouge_l", "heldout"), ("rouge_l", "trained")]
    assert _first_metrics(cells[cells["metric"] == "judge"]) == []
    (table,) = text_tables(
        {**result.summary, "cells": [c for c in result.summary["cells"] if c["metric"] == "judge"]}
    )
    assert str(table.title) == "phonebook: judge, points of 10 [95 % interval]"
    assert any("8.000" in str(cell) for cell in table.columns[1].cells)


# -- a judge that does not work ----------------------------------------------------------------------
def test_a_judge_that_cannot_be_made_fails_the_run_but_loses_nothing(read_once, tmp_path, bases, monkeypatch):
    store, _ = read_once

    def broken(choice, base):
        raise InputError("no such base: some-model")

    monkeypatch.setattr(judging, "make_judge", broken)
    result = go(store, bases["llama"], tmp_path)
    assert result.failures == [{"cell": "metric judge", "seed": None, "error": "no such base: some-model"}]
    assert result.summary["missing"] == [{"metric": "judge", "reason": "no such base: some-model"}]
    rows = pd.read_parquet(tmp_path / "results.parquet").set_index("metric")
    assert rows.loc["exact_match", "value"].notna().all() and rows.loc["judge", "value"].isna().all()


def test_a_judge_that_breaks_off_keeps_what_it_said(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    script = Script(
        lambda question: eight(question) if len(script.asked) <= 4 else InputError("the key ran out"), "b"
    )
    judged_by(script)
    result = go(store, bases["llama"], tmp_path / "a")
    assert result.failures[0]["error"] == "the key ran out" and result.summary["missing"] == []
    assert [row["value"] for row in kept(store, script)].count(8.0) >= 4
    script.asked.clear()
    script.reply = eight
    result = go(store, bases["llama"], tmp_path / "b")
    assert result.failures == [] and 0 < len(script.asked) <= 2 * ANSWERS - 4
    assert (of_judge(tmp_path / "b")["value"] == 8.0).all()


def test_if_nothing_could_be_judged_the_run_fails(read_once, judged_by, tmp_path, bases):
    store, _ = read_once
    judged_by(Script(lambda question: Failure("http", "503"), "down"))
    result = go(store, bases["llama"], tmp_path)
    assert "none of the 30 answers asked about could be judged, e.g. http: 503" in result.failures[0]["error"]
    assert result.summary["missing"][0]["metric"] == "judge"
    report = run_study(study(**JUDGED), bases["llama"], store, tmp_path, progress=Progress(live=False)).report
    assert "30 could not be judged (http 30)" in report.read_text()


def test_a_damaged_file_of_verdicts_is_named_and_mended(read_once, judged_by, tmp_path, bases, capsys):
    store, _ = read_once
    script = judged_by(Script(eight, "damaged"))
    go(store, bases["llama"], tmp_path)
    file = next(store.root.glob(f"readings/*/scores/judge-{judge_id(script)[:12]}.jsonl"))
    rows = read_jsonl(file)
    file.write_text(file.read_text()[:-9])
    script.asked.clear()
    assert go(store, bases["llama"], tmp_path).failures == [] and script.asked == [], "the cache has them"
    assert f"{file.name}:{ANSWERS}: not JSON" in capsys.readouterr().out
    assert [(row["probe"], row["value"]) for row in read_jsonl(file)] == [(row["probe"], 8.0) for row in rows]


# -- the study file ----------------------------------------------------------------------------------
def test_who_judges_is_part_of_the_study_file():
    assert study(**SMALL).file.judge is None
    assert study(**JUDGED).file.judge == JudgeChoice(model="some-model")
    far = study(
        **{**SMALL, "judge": {"model": "m", "url": "http://localhost:1/v1", "endpoint": {"timeout": 3}}}
    ).file.judge
    assert far is not None and (far.url, far.temperature) == ("http://localhost:1/v1", 0.0)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "judge.model"),
        ({"model": ""}, "judge.model"),
        ({"model": "m", "url": "ftp://x"}, "judge: endpoint: url: expected"),
        ({"model": "m", "urls": "http://x"}, "judge.urls: unknown key"),
        ({"model": "m", "temperature": -1}, "judge.temperature"),
        ({"model": "m", "endpoint": {"timeout": 3}}, "endpoint settings without a url"),
        ({"model": "m", "url": "http://x", "endpoint": {"timeot": 3}}, "endpoint.timeot: unknown key"),
        ({"model": "m", "url": "http://x", "endpoint": {"model": "n"}}, "endpoint: model: give"),
        ("embedded", "judge"),
    ],
)
def test_an_unfit_judge_is_refused(given, fault):
    with pytest.raises(Faults, match=fault):
        study(**{**SMALL, "judge": given})


def test_what_an_url_holds_is_not_shown():
    with pytest.raises(Faults) as told:
        study(**{**SMALL, "judge": {"model": "m", "url": "http://user:secret@localhost/v1"}})
    assert "judge: endpoint: url: expected" in str(told.value) and "secret" not in str(told.value)


def test_a_judge_is_an_endpoint_or_a_base(monkeypatch, bases):
    loaded = []
    monkeypatch.setattr(
        judging, "load_base", lambda name, **options: loaded.append((name, options)) or "another"
    )
    monkeypatch.setitem(
        sys.modules, "loramem.synthesis.local", SimpleNamespace(Local=lambda base, s: (base, s))
    )
    base, cold = bases["llama"], Sampling(temperature=0.0)
    choice = JudgeChoice(model="m", url="http://localhost:1/v1", endpoint={"timeout": 3})
    found = judging.make_judge(choice, base)
    assert (
        found.config == choice.endpoint_config()
        and found.config.sampling == cold
        and found.config.timeout == 3
    )
    assert judging.make_judge(JudgeChoice(model=base.name), base) == (base, cold) and loaded == []
    assert judging.make_judge(JudgeChoice(model="other", temperature=0.5), base) == (
        "another",
        Sampling(temperature=0.5),
    )
    assert loaded == [("other", {"device": "cpu"})]


def test_accounts_of_several_bases_add_up():
    one = {"name": "j", "identity": {}, "version": 1, "answers": 10, "empty": 1, "failed": {"cut": 2}}
    other = {**one, "answers": 5, "empty": 0, "failed": {"cut": 1, "http": 1}}
    found = judging.accounts(
        [judging.Judging(account=one), judging.Judging(account=other), judging.Judging()]
    )
    assert found == {"judge": {**one, "answers": 15, "failed": {"cut": 3, "http": 1}}, "missing": []}
    missing = [judging.Judging(reason="none"), judging.Judging(reason="none")]
    assert judging.accounts(missing) == {"judge": None, "missing": [{"metric": "judge", "reason": "none"}]}
    assert judging.accounts([]) == {"judge": None, "missing": []}


def test_a_study_that_asks_for_no_judge_has_none(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "make_judge", lambda choice, base: pytest.fail("nobody asked for it"))
    made = study(**{**JUDGED, "metrics": ["exact_match"], "readings": ["closed"]})
    result = execute(
        made, bases["llama"], Store(tmp_path / "s"), tmp_path / "run", progress=Progress(live=False)
    )
    assert result.summary["missing"] == [] and result.summary["judge"] is None
