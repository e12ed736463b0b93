"""The report over a series: read from run folders alone, complete, escaped, shared modules counted once, holes shown."""

from __future__ import annotations

import base64
import re
import shutil

import pytest

from loramem.api import run_study
from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json
from loramem.modules.store import Store
from loramem.report import overview as module
from loramem.report.overview import overview
from loramem.studies.findings import Beside, Findings
from loramem.studies.progress import Progress
from loramem.studies.series import run_series
from tinystudy import PHONES, study

HOSTILE = '<script>alert("x")</script>'
BELOW = {"metric": "exact_match", "at": {"reading": "module", "rank": "largest", "size_tokens": "largest"}}
EXPECT = [
    {**BELOW, "claim": "holds", "at_most": 1.0},
    {**BELOW, "claim": f"cannot fail {HOSTILE}", "at_least": 0.0, "by_construction": True},
    {**BELOW, "claim": "does not hold", "at_least": 1.1, "by_construction": True},
]


@pytest.fixture(scope="module")
def made(bases, tmp_path_factory):
    """Two studies that share modules, one that failed, one that never began."""
    root = tmp_path_factory.mktemp("series")
    store, out = Store(root / "store"), root / "run"
    changes = {**PHONES, "question": f"Why? {HOSTILE}", "seeds": 1}
    studies = {
        "q21": study(**changes, study="q21", expect=EXPECT), "q20": study(**changes, study="q20", modules__spec__rank=[1]),
        "broken": study(**changes, study="broken"), "late": study(**changes, study="late"),
    }  # fmt: skip

    def run(one, where):
        if one.name == "broken":
            raise ValueError(HOSTILE)
        if one.name == "late":
            raise KeyboardInterrupt
        return run_study(one, bases["llama"], store, where, progress=Progress(live=False))

    with pytest.raises(KeyboardInterrupt):
        run_series(studies, run, out, command=HOSTILE, say=str)
    summary = read_json(out / "q20" / "summary.json")
    summary["failures"] = [{"cell": HOSTILE, "seed": None, "error": HOSTILE}]
    summary["missing"] = [{"metric": "judge", "reason": HOSTILE}]
    summary["sweeps"] = [{"at_edge": True}, {"at_edge": False}]
    write_json(out / "q20" / "summary.json", summary)
    return out, store


@pytest.fixture
def page(made, monkeypatch):
    row = Beside(HOSTILE, "5 of 10 <b>", "7 % [6, 8]")
    found = Findings((HOSTILE, *(f"sentence {n}" for n in range(9))), HOSTILE, beside=(row,))
    monkeypatch.setattr(module, "findings_of", lambda summary: found)
    path, members = overview(made[0])
    return path.read_text(), members


def test_what_comes_from_data_is_text(page):
    text, members = page
    assert "<script" not in text and "5 of 10 <b>" not in text
    shown = text.count("&lt;script&gt;")
    # command; per study question twice; per finished one answer twice, published, beside; claim; failure twice; reason; error twice
    assert shown == 1 + 4 * 2 + 2 * 4 + 1 + 2 + 1 + 2


def test_nothing_is_fetched_and_links_lead_somewhere(page, made):
    text = re.sub(r'xmlns(:\w+)?="[^"]+"', "", page[0])
    links = set(re.findall(r'(?:src|href)="(?!data:)([^"]+)"', text))
    assert {link for link in links if not link.startswith("#")} == {"q20/report.html", "q21/report.html"}
    assert (
        all((made[0] / link).is_file() for link in links if not link.startswith("#"))
        and "@import" not in text
    )


def test_figures_of_studies_with_one_name_do_not_meet(page):
    text, members = page
    names = [{figure["name"] for figure in one.figures} for one in members if not one.error]
    assert names[0] & names[1], "the same figure of both"
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert "<svg" not in text and len(images) == sum(len(one.figures) for one in members)
    assert all(b"<svg" in base64.b64decode(image) for image in images)


def test_verdicts_are_words_with_a_class_and_what_cannot_fail_is_no_evidence(page, made):
    text, members = page
    for word, claim in (
        ("agrees", "holds"),
        ("by construction", "cannot fail"),
        ("disagrees", "does not hold"),
    ):
        assert re.search(
            rf'<td>{claim}.*?</td><td class="word {word.replace(" ", "-")}">{word}</td>', text
        ), word
    whole = read_json(made[0] / "summary.json")["whole"]
    assert whole["verdicts"] == {"agrees": 1, "disagrees": 1, "undecided": 0, "by construction": 1}
    assert "1 hold by construction and count as no evidence" in text


def test_a_shared_module_counts_once(page, made):
    out, store = made
    whole = read_json(out / "summary.json")["whole"]
    costs = {name: read_json(out / name / "costs.json") for name in ("q20", "q21")}
    assert set(costs["q20"]["modules"]) < set(costs["q21"]["modules"]), "q20 reads some of q21's modules"
    assert whole["modules"] == len(costs["q21"]["modules"])
    assert whole["modules_counted_per_study"] == sum(len(one["modules"]) for one in costs.values())
    assert (
        whole["trained_tokens"] == costs["q21"]["costs"]["train_tokens"] == whole["trained_tokens_this_run"]
    )
    assert whole["trained_tokens_counted_per_study"] > whole["trained_tokens"]
    summaries = [read_json(out / name / "summary.json") for name in costs]
    assert (
        whole["comparisons"]
        == sum(len(one["comparisons"]["tests"]) + len(one["pairs"]) for one in summaries)
        > 0
    )


def test_holes_are_shown_with_their_reason(page, made):
    text, members = page
    rows = {row["study"]: row for row in read_json(made[0] / "summary.json")["studies"]}
    assert list(rows) == ["q20", "q21", "broken", "late"], "in the order of the questions"
    assert (
        rows["broken"]["error"].startswith("ValueError")
        and rows["late"]["error"] == "stopped before it was done"
    )
    assert "No result of broken, late." in text and "1 cells have no result" in text
    assert (
        "Metric judge is missing" in text and "2 settings chosen on dev splits, 1 of them at the edge" in text
    )
    assert rows["q20"]["holes"] == 1 and rows["q20"]["modules_reused"] == rows["q20"]["modules"] > 0
    assert (
        rows["q21"]["wall_seconds"] > 0
        and rows["q21"]["trained_tokens"] > 0
        and rows["late"]["trained_tokens"] is None
    )
    assert rows["q20"]["beside"] == [{"label": HOSTILE, "published": "5 of 10 <b>", "ours": "7 % [6, 8]"}]
    assert all(f"sentence {n}" in text for n in range(9)) and "4 more" in text


def test_it_is_made_again_from_the_files_alone(made, tmp_path):
    first = overview(made[0])[0].read_text()
    shutil.copytree(made[0], tmp_path / "moved")
    (tmp_path / "moved" / "report.html").unlink()
    assert overview(tmp_path / "moved")[0].read_text() == first


def test_a_run_without_costs_is_named(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "old")
    (tmp_path / "old" / "q20" / "costs.json").unlink()
    assert "No costs are known of q20." in overview(tmp_path / "old")[0].read_text()


def test_a_folder_of_no_series_is_refused(tmp_path):
    with pytest.raises(InputError, match="study run all"):
        overview(tmp_path)


def test_the_command_runs_reports_and_runs_again_in_no_time(loramem, checkpoints, tmp_path, monkeypatch):
    """q02 and q01 made small, through the command line: q01 finds every module of q02."""
    monkeypatch.setattr("loramem.studies.series.members", lambda: ["q02", "q01"])
    settings = {
        "sources": "{phonebook: {name: phonebook, sizes: [80]}}", "modules.spec.rank": "[1]", "modules.optimizer": "{lr: 0.01, batch: 2}",
        "modules.budget": "{exposures: 2}", "contrasts": "[]", "readings": "[closed, module]", "metrics": "[exact_match]", "capacity": "{}",
        "expect": "[]",
    }  # fmt: skip
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    words = [
        "study",
        "run",
        "all",
        "--base",
        checkpoints["llama"],
        "--seeds",
        1,
        "--out",
        tmp_path / "all",
        *words,
    ]
    code, said, error = loramem(*words)
    assert code == 0, error
    assert "== 2 of 2: q01" in said and f"report: {tmp_path / 'all' / 'report.html'}" in said
    assert read_json(tmp_path / "all" / "q01" / "costs.json")["reused"] == {"modules": 1, "readings": 2}
    page = (tmp_path / "all" / "report.html").read_text()
    assert page.index('id="q01"') < page.index('id="q02"')
    code, said, _ = loramem(*words)
    assert code == 0 and "train:" not in said and "read:" not in said
    code, said, _ = loramem("study", "report", tmp_path / "all")
    assert code == 0 and "report.html" in said
    code, said, _ = loramem(*words, "--dry-run")
    assert code == 0 and '"shared_modules": 1' in said and "1 modules" in said
    code, _, error = loramem("study", "run", "all", "--set", "modules.spek.rank=2", "--set", "seed=1")
    assert code == 2 and "2 faults" in error and "Did you mean 'seeds'" in error
