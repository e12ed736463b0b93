"""The commands, end to end on tiny checkpoints of five families: train, read, resume, report; bad input exits 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from loramem.studies.results import COLUMNS, ITEM_COLUMNS
from tiny import FAMILIES

SMALL = [
    "--seeds", "1", "--set", "modules.spec.rank=[1,2]", "--set", "modules.spec.targets=all-linear", "--set", "modules.optimizer.lr=0.01",
    "--set", "modules.optimizer.batch=4", "--set", "sources.phonebook.sizes=[100,200]", "--set", "sources.counterfact.sizes=[100]",
    "--set", "modules.budget={steps: 3}",
]  # fmt: skip


@pytest.mark.parametrize(
    "family",
    [one if one in ("llama", "gpt2") else pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES],
)
def test_a_study_runs_on_every_family_and_again_from_the_store(loramem, checkpoints, family, tmp_path):
    out = tmp_path / "run with space"
    code, said, error = loramem("study", "run", "quick", "--base", checkpoints[family], "--out", out, *SMALL)
    assert code == 0, error
    assert f"report: {out / 'report.html'}" in said
    assert {p.name for p in out.iterdir()} == {
        "study.yaml",
        "environment.json",
        "plan.json",
        "log.jsonl",
        "results.parquet",
        "items.parquet",
        "summary.json",
        "supervision.json",
        "costs.json",
        "report.html",
        "figures",
        "tables",
    }
    rows = pd.read_parquet(out / "results.parquet")
    assert list(rows.columns) == list(COLUMNS)
    assert (
        set(rows["reading"]) == {"closed", "module", "wrong-module", "icl"} and (rows["n_failed"] == 0).all()
    )
    assert set(rows.loc[rows["source"] == "phonebook", "probe"]) == {"trained", "heldout", "reverse"}
    assert rows["value"].notna().all()
    modules = rows[rows["reading"] == "module"]
    assert (modules["budget"] == "steps=3").all() and (modules["ended"] == "steps").all()
    assert modules["snapshot"].isna().all() and rows["retriever"].isna().all()
    items = pd.read_parquet(out / "items.parquet")
    assert list(items.columns) == list(ITEM_COLUMNS) and set(items["cell"]) == set(rows["cell"])
    assert {"cells.csv", "comparisons.csv", "scores.tex"} <= {p.name for p in (out / "tables").iterdir()}
    before = json.loads((out / "summary.json").read_text())
    code, said, _ = loramem(
        "study", "run", "quick", "--base", checkpoints[family], "--out", tmp_path / "again", *SMALL
    )
    assert code == 0 and "train:" not in said and "read:" not in said, "a finished study is not done again"
    assert json.loads((tmp_path / "again" / "summary.json").read_text()) == before


def test_a_capacity_study_goes_from_sweeps_to_limits(loramem, checkpoints, tmp_path):
    """q02 made small: every reading, two protocols, and what the run folder then gives to other commands."""
    out = tmp_path / "run"
    settings = {
        "sources.phonebook.sizes": "[80, 200]", "sources.counterfact.sizes": "[60]", "modules.spec.rank": "[1, 4]",
        "modules.optimizer.lr": "{sweep: [0.01, 0.05], dev_tokens: 80}", "modules.budget": "{exposures: 3}",
        "contrasts": "[{sources: [phonebook], modules.spec.rank: [1], modules.budget: {steps: 3}}]",
    }  # fmt: skip
    options = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    code, said, error = loramem(
        "study", "run", "q02", "--base", checkpoints["llama"], "--out", out, "--seeds", "1", *options
    )
    assert code == 0, error
    summary = json.loads((out / "summary.json").read_text())
    assert {row["rank"] for row in summary["sweeps"]} == {1, 4} and not summary["failures"]
    readings = {
        cell["cell"].removeprefix("phonebook-200-") for cell in summary["cells"] if cell["size_tokens"] == 200
    }
    assert readings == {
        "closed", "icl", "rag-bm25", "rag-minilm", "gold-passage",
        *(f"r{rank}-{budget}-{kind}" for rank, budget in ((1, "exposures=3"), (4, "exposures=3"), (1, "steps=3"))
          for kind in ("module", "wrong-module", "random-module")),
    }  # fmt: skip
    limits = summary["capacity"]["limits"]
    assert {(row["source"], row["budget"]) for row in limits} == {
        ("phonebook", "exposures=3"), ("phonebook", "steps=3"), ("counterfact", "exposures=3"),
    }  # fmt: skip
    rows = pd.read_parquet(out / "results.parquet")
    assert rows.loc[rows["metric"].str.startswith("t_max"), "size_tokens"].isna().all()
    page = (out / "report.html").read_text()
    assert "Settings chosen on dev splits" in page and "Capacity: limits" in page and "fixed 3 steps" in page
    assert "whose passages hold" in page and loramem("study", "report", out)[0] == 0
    code, said, error = loramem("study", "compare", out, out, "--metric", "answer_nll")
    assert code == 0 and "only in" not in said, error


def test_a_moved_base_is_the_same_base(loramem, checkpoints, tmp_path):
    shutil.copytree(checkpoints["llama"], tmp_path / "moved")
    first = json.loads(loramem("base", "info", checkpoints["llama"])[1])
    assert json.loads(loramem("base", "info", tmp_path / "moved")[1])["fingerprint"] == first["fingerprint"]
    other = json.loads(loramem("base", "info", checkpoints["gemma"])[1])
    assert other["fingerprint"] != first["fingerprint"]
    assert loramem("base", "prepare", tmp_path / "moved", "--to", tmp_path / "copy")[0] == 0
    assert json.loads(loramem("base", "info", tmp_path / "copy")[1])["fingerprint"] == first["fingerprint"]


def test_a_failed_cell_is_shown_and_the_exit_code_is_1(loramem, checkpoints, tmp_path):
    arguments = [
        *SMALL,
        "--set",
        "modules.optimizer.lr={1: 1.0e30, 2: 0.01}",
        "--set",
        "modules.optimizer.clip=null",
    ]
    code, _, error = loramem(
        "study", "run", "quick", "--base", checkpoints["llama"], "--out", tmp_path / "run", *arguments
    )
    assert code == 1 and "loss is not finite" in error and "r1-module" in error
    page = (tmp_path / "run" / "report.html").read_text()
    assert "loss is not finite" in page and "cells have no result" in page
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(rows.loc[rows["reading"] == "module", "rank"]) == {2}, "the other rank went on"


def test_dry_run_spends_nothing(loramem, checkpoints, tmp_path):
    code, said, _ = loramem("study", "run", "quick", "--base", checkpoints["llama"], "--dry-run", *SMALL)
    counts = json.loads(said[: said.rindex("}") + 1])
    assert (
        code == 0 and counts["modules"] == 6 and counts["train_steps"] == 18 and counts["train_seconds"] > 0
    )
    assert not (tmp_path / "store").exists()


def test_published_files_run_through_the_same_command(loramem, checkpoints, tmp_path):
    fixtures = Path(__file__).parents[1] / "fixtures"
    arguments = [
        "--set", f"sources.phonebook={{name: phonebook, path: {fixtures}/phonebook, slices: published, sizes: [1000, 2000]}}",
        "--set", f"sources.counterfact={{name: counterfact, path: {fixtures}/counterfact, slices: published, sizes: [1000]}}",
    ]  # fmt: skip
    small = [
        word
        for pair in zip(SMALL[::2], SMALL[1::2], strict=True)
        if "sources." not in pair[1]
        for word in pair
    ]
    code, _, error = loramem(
        "study", "run", "quick", "--base", checkpoints["llama"], "--out", tmp_path / "run", *small, *arguments
    )
    assert code == 0, error
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(rows.loc[rows["source"] == "phonebook", "facts"]) == {3, 5}


def test_modules_train_list_show_export_delete(loramem, checkpoints, tmp_path):
    data = tmp_path / "facts.jsonl"
    data.write_text(
        '{"question": "Who is Zoë?", "answer": "a pilot"}\n{"form": "cloze", "prompt": "Zoë lives in", "answer": "Bern"}\n'
    )
    code, said, error = loramem(
        "modules", "train", "--supervision", data, "--base", checkpoints["llama"], "--rank", 2, "--steps", 2
    )
    assert code == 0, error
    identity = said.split()[1]
    assert identity in loramem("modules", "list")[1]
    assert json.loads(loramem("modules", "show", identity[:6])[1])["recipe"]["steps"] == 2
    assert loramem("modules", "export", identity, "--to", tmp_path / "adapter")[0] == 0
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.json",
    }
    assert loramem("modules", "delete", identity)[0] == 0 and "0 modules" in loramem("modules", "list")[1]
    assert loramem("modules", "show", identity)[0] == 2


def test_modules_merge_makes_a_module_like_any_other_and_finds_it_again(loramem, checkpoints, tmp_path):
    made = []
    for number, base in enumerate(("llama", "llama", "gemma")):
        data = tmp_path / f"{number}.jsonl"
        data.write_text(f'{{"question": "Who is Zoë?", "answer": "pilot {number}"}}\n')
        code, said, error = loramem(
            "modules",
            "train",
            "--supervision",
            data,
            "--base",
            checkpoints[base],
            "--rank",
            2 + number,
            "--steps",
            2,
            "--alpha",
            6,
        )
        assert code == 0, error
        made.append(said.split()[1])
    command = (
        "modules",
        "merge",
        made[0],
        made[1],
        "--rule",
        "ties-delta",
        "--weights",
        "0.75,0.25",
        "--density",
        "0.6",
        "--rank",
        "4",
    )
    code, said, error = loramem(*command)
    assert code == 0, error
    identity, measures = said.split()[1], json.loads(said[said.index("{") :])
    assert (
        0 < measures["rank_residual"] < 1
        and measures["norm_ratio"] > 0
        and len(measures["parent_norms"]) == 2
    )
    shown = json.loads(loramem("modules", "show", identity)[1])
    assert shown["recipe"]["rule"] == "ties-delta" and shown["rank"] == 4 and shown["measures"] == measures
    weights = {parent["module"][:12]: parent["weight"] for parent in shown["recipe"]["parents"]}
    assert weights == {made[0]: 0.75, made[1]: 0.25}
    assert (Path(shown["folder"]) / "training.jsonl").read_text() == ""
    assert set(json.loads((Path(shown["folder"]) / "ledger.json").read_text()).values()) == {0}
    marker = Path(shown["folder"]) / "recipe.json"
    before = marker.stat().st_mtime_ns
    assert loramem(*command)[1] == said and marker.stat().st_mtime_ns == before, "the second call finds it"
    swapped = (
        "modules",
        "merge",
        made[1],
        made[0],
        "--weights",
        "0.25,0.75",
        "--density",
        "0.6",
        "--rank",
        "4",
    )
    assert loramem(*swapped)[1] == said, "the order decides nothing"
    listed = loramem("modules", "list")[1]
    assert any(
        line.startswith(identity) and "merged   ties-delta rank 4" in line for line in listed.splitlines()
    )
    assert loramem("modules", "merge", identity, made[0], "--rule", "cat")[0] == 0, "a merge can be merged"
    assert loramem("modules", "export", identity, "--to", tmp_path / "adapter")[0] == 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 4, False)
    for arguments, pattern in {
        (made[0], made[2]): "modules of one known base",
        (made[0], "--rule", "tie-delta"): "Did you mean 'ties-delta'",
        (made[0], made[1], "--rule", "linear-factors"): "need one rank",
        (made[0], made[1], "--weights", "0.5"): "1 weights for 2 modules",
        (made[0], made[1], "--weights", "a,b"): "give numbers",
        (made[0], made[1], "--weights", "confidence"): "give numbers",
        (made[0], made[1], "--rule", "cat", "--density", "0.5"): "prunes nothing",
        (made[0], "no-such-module"): "no module",
    }.items():
        code, said, error = loramem("modules", "merge", *arguments)
        assert code == 2 and pattern in error and "Traceback" not in said + error, error


def test_data_commands(loramem, checkpoints, tmp_path):
    assert (
        "counterfact" in loramem("data", "list")[1]
        and "sizes: required" in loramem("data", "info", "phonebook")[1]
    )
    code, said, error = loramem(
        "data",
        "prepare",
        "phonebook",
        "--sizes",
        "300",
        "--to",
        tmp_path / "d",
        "--base",
        checkpoints["llama"],
    )
    assert code == 0, error
    lines = (tmp_path / "d" / "phonebook-300" / "supervision.jsonl").read_text().splitlines()
    assert len(lines) >= 3 and set(json.loads(lines[0])) >= {"form", "prompt", "answer"}


BAD = {
    "unknown study": (["study", "run", "quik"], "Did you mean 'quick'"),
    "missing file": (["study", "run", "nowhere.yaml"], "no such file"),
    "unknown base": (["study", "run", "quick", "--base", "embeded"], "Did you mean 'embedded'"),
    "hub id offline": (["study", "run", "quick", "--base", "nobody/nothing", "--offline"], "loramem base prepare nobody/nothing"),
    "folder without a model": (["base", "info", "."], "no config.json"),
    "unknown key": (["study", "run", "quick", "--set", "modules.spec.rnk=1"], "Did you mean 'rank'"),
    "rank 0": (["study", "run", "quick", "--set", "modules.spec.rank=0"], "rank"),
    "size beyond the data": (["study", "run", "quick", "--set", "sources.counterfact.sizes=[9000000]"], "larger than the data"),
    "missing csv": (["study", "run", "quick", "--set", "sources.phonebook.path=/no/such/dir"], "no such file or folder"),
    "unknown target": (["study", "run", "quick", "--set", "modules.spec.targets=[q_prj]"], "Did you mean 'q_proj'"),
    "unknown device": (["study", "run", "quick", "--device", "tpu9"], "device 'tpu9'"),
    "unknown dtype": (["study", "run", "quick", "--dtype", "float7"], "unknown dtype"),
    "unknown scale": (["study", "run", "quick", "--scale", "huge"], "no scale 'huge'"),
    "zero rows": (["study", "run", "quick", "--rows", "0"], "at least 1"),
    "bad sizes": (["data", "prepare", "phonebook", "--sizes", "a", "--to", "x"], "whole numbers"),
    "unknown source": (["data", "info", "phonbook"], "Did you mean 'phonebook'"),
    "unknown module": (["modules", "show", "abc"], "no module 'abc'"),
    "no supervision": (["modules", "train", "--supervision", "none.jsonl"], "no such file"),
    "unknown command": (["stdy"], "No such command"),
    "no arguments": (["study", "run"], "Missing argument"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_exits_2_with_one_message_and_no_traceback(loramem, case):
    arguments, pattern = BAD[case]
    code, said, error = loramem(*arguments)
    assert code == 2 and pattern in error.replace("\n", " ") and "Traceback" not in said + error, error


def test_several_faults_come_in_one_message(loramem):
    code, _, error = loramem(
        "study", "run", "quick", "--set", "readings=[modul]", "--set", "metrics=[exact]", "--set", "seeds=0"
    )
    assert code == 2 and "3 faults" in error and error.count("\n- ") == 3


def test_pickled_weights_are_refused(loramem, checkpoints, tmp_path):
    shutil.copytree(checkpoints["llama"], tmp_path / "evil")
    (tmp_path / "evil" / "model.safetensors").rename(tmp_path / "evil" / "pytorch_model.bin")
    code, _, error = loramem("base", "info", tmp_path / "evil")
    assert code == 2 and "can run code" in error


def test_a_damaged_checkpoint_is_named(loramem, checkpoints, tmp_path):
    shutil.copytree(checkpoints["llama"], tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{nothing")
    code, _, error = loramem("base", "info", tmp_path / "torn")
    assert code == 2 and "Traceback" not in error
