"""The check of a store finds every kind of damage and nothing else; a repair sets it aside, and the next run makes it again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loramem.core.errors import Corrupt, InputError
from loramem.core.files import TEMPORARY, host, read_json, read_jsonl, write_json, write_jsonl
from loramem.core.identity import digest
from loramem.modules import store_check
from loramem.modules.peft_format import CONFIG, WEIGHTS
from loramem.modules.spec import LoraSpec
from loramem.modules.store import MODULE_MARKER, READING_MARKER, Store
from loramem.modules.store_check import check_store, repair
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.synthesis.supervision import Example, Supervision
from loramem.synthesis.supervision import save as save_supervision
from modules.keeping import keep
from tinystudy import PHONES, study

READING = {"stem": "closed", "probes": "x"}
LEARNT = Supervision(
    "raw", (Example("chat", "Who is Zoë?", "a pilot", "d", "r"), Example("text", "", "x\n", "d", "r"))
)


def old(path: Path) -> None:
    """As if it had been written long ago."""
    os.utime(path, (1, 1))


@pytest.fixture
def store(bases, tmp_path) -> Store:
    """A store with one of everything: a module with snapshots, a DoRA one, a reading with scores, supervision, caches, a download."""
    made = Store(tmp_path / "store")
    keep(made, bases["llama"], LoraSpec(rank=2, targets="attention"), steps=(0, 7), text="Zoë\n")
    keep(made, bases["llama"], LoraSpec(rank=3, variant="dora"))
    rows = [{"probe": f"p{n}", "prediction": "北京"} for n in range(3)]
    made.put_reading(digest(READING), READING, rows, {"probes": 3}, merges=[{"a": 1}])
    write_jsonl(
        made.reading_folder(digest(READING)) / "scores" / "exact_match.jsonl", [{"probe": "p0", "value": 1.0}]
    )
    save_supervision(LEARNT, made.root / "supervision" / LEARNT.hash / "examples.jsonl")
    write_json(made.completions / "ab" / "abc.json", {"text": "hi"})
    made.teacher_cache.mkdir(parents=True)
    save_file({"hidden": torch.ones(2, 2), "first": torch.zeros(1)}, made.teacher_cache / "t.safetensors")
    data = (
        made.root / "downloads" / "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7" / "f.csv"
    )
    data.parent.mkdir(parents=True)
    data.write_text("data")
    return made


@pytest.fixture
def module(store) -> Path:
    return next(one.folder for one in store.modules() if one.text)


@pytest.fixture
def reading(store) -> Path:
    return store.reading_folder(digest(READING))


def reasons(store, *, deep: bool = False) -> str:
    return " | ".join(fault.text for fault in check_store(store.root, deep=deep).faults)


def rewrite(path: Path, change) -> None:
    body = read_json(path)
    change(body)
    path.write_text(json.dumps(body))


# -- a sound store -----------------------------------------------------------------------------------
@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_store_has_no_faults_and_is_counted(store, deep):
    found = check_store(store.root, deep=deep)
    assert (
        found.faults == [] and found.unknown == [] and found.without_sums == 0 and found.temporary.things == 0
    )
    assert {part: count.things for part, count in found.counts.items()} == {
        "modules": 2, "readings": 1, "supervision": 1, "cache/completions": 1, "cache/teacher": 1, "downloads": 1,
    }  # fmt: skip
    every = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert found.bytes == every, "every byte is counted once"


def test_a_marker_lists_size_and_checksum_of_every_file_beside_it(module, reading):
    for folder, marker in ((module, MODULE_MARKER), (reading, READING_MARKER)):
        kept = read_json(folder / marker)["files"]
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert set(kept) == {name for name in files if name != marker and not name.startswith("scores/")}
        assert all(kept[name]["bytes"] == files[name].stat().st_size for name in kept)


def test_folders_of_older_versions_without_checksums_are_sound(store, module, reading):
    for path in (module / MODULE_MARKER, reading / READING_MARKER):
        rewrite(path, lambda body: body.pop("files"))
    found = check_store(store.root, deep=True)
    assert found.faults == [] and found.without_sums == 2


# -- damage ------------------------------------------------------------------------------------------
def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    """One bit, in the middle; the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def one_fact_less(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def nan(path: Path) -> None:
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})


MODULE_DAMAGE = {
    "recipe missing": (lambda m: (m / MODULE_MARKER).unlink(), "never finished"),
    "recipe torn": (lambda m: cut(m / MODULE_MARKER), "recipe.json"),
    "recipe a list": (lambda m: (m / MODULE_MARKER).write_text("[]"), "holds no recipe"),
    "recipe without id": (lambda m: rewrite(m / MODULE_MARKER, lambda b: b.pop("id")), "not the one that the folder is named by"),
    "recipe changed": (lambda m: rewrite(m / MODULE_MARKER, lambda b: b["recipe"].update(seed=9)), "one was changed"),
    "weights missing": (lambda m: (m / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "weights torn": (lambda m: cut(m / WEIGHTS), WEIGHTS),
    "weights of a pickle": (lambda m: (m / WEIGHTS).rename(m / "adapter_model.bin"), "is missing"),
    "config torn": (lambda m: cut(m / CONFIG), "adapter_config.json"),
    "config of another rank": (lambda m: rewrite(m / CONFIG, lambda b: b.update(r=5)), "does not fit rank 5"),
    "config of another scale": (lambda m: rewrite(m / CONFIG, lambda b: b.update(lora_alpha=7.0)), "contradict"),
    "log torn": (lambda m: (m / "training.jsonl").write_text('{"step": 1'), "training.jsonl"),
    "log without loss": (lambda m: (m / "training.jsonl").write_text('{"step": 1}\n'), "without step or loss"),
    "ledger a text": (lambda m: (m / "ledger.json").write_text('{"tokens": "x"}'), "expected numbers"),
    "ledger missing": (lambda m: (m / "ledger.json").unlink(), "ledger.json is missing"),
    "routing not text": (lambda m: (m / "routing.txt").write_bytes(b"\xff\xfe\xff\xff\xff"), "UnicodeDecodeError"),
    "snapshot gone": (lambda m: shutil.rmtree(m / "snapshots" / "7"), "snapshots 7 are missing"),
    "snapshot torn": (lambda m: cut(m / "snapshots" / "7" / WEIGHTS), f"snapshots/7/{WEIGHTS}"),
}  # fmt: skip


@pytest.mark.parametrize("sums", [True, False], ids=["with checksums", "of an older version"])
@pytest.mark.parametrize("case", MODULE_DAMAGE)
def test_damage_of_a_module_is_found_and_set_aside(store, module, case, sums):
    damage, pattern = MODULE_DAMAGE[case]
    if not sums:
        rewrite(module / MODULE_MARKER, lambda body: body.pop("files"))
    damage(module)
    old(module)
    found = check_store(store.root)
    assert [fault.path for fault in found.faults] == [module]
    if sums or "missing" not in case and "pickle" not in case:
        assert pattern in found.faults[0].text, found.faults[0].text
    done = repair(found)
    assert [(path, why) for path, _, why in done.moved] == [(module, found.faults[0].text)] and not done.left
    assert not module.exists() and done.moved[0][1].is_dir()
    assert check_store(store.root).faults == [] and len(store.modules()) == 1


READING_DAMAGE = {
    "marker missing": (lambda r: (r / READING_MARKER).unlink(), "never finished"),
    "marker changed": (lambda r: rewrite(r / READING_MARKER, lambda b: b["reading"].update(stem="icl")), "one was changed"),
    "a line less": (lambda r: one_fact_less(r / "predictions.jsonl"), "has 2 lines, 3 questions"),
    "last line torn": (lambda r: cut(r / "predictions.jsonl"), "in the middle of a line"),
    "predictions missing": (lambda r: (r / "predictions.jsonl").unlink(), "predictions.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", READING_DAMAGE)
def test_damage_of_a_reading_is_found_and_set_aside(store, reading, case):
    damage, pattern = READING_DAMAGE[case]
    damage(reading)
    old(reading)
    found = check_store(store.root)
    assert reading in [fault.path for fault in found.faults] and pattern in found.faults[0].text
    repair(found)
    assert not store.has_reading(reading.name) and check_store(store.root).faults == []


DEEP = {
    "a bit of the weights": (lambda s, m, r: flip(m / WEIGHTS), "another sha256"),
    "a bit of a snapshot": (lambda s, m, r: flip(m / "snapshots" / "0" / WEIGHTS), "snapshots/0/adapter_model.safetensors was changed"),
    "a letter of what it learnt": (lambda s, m, r: (m / "routing.txt").write_text("Zoe \n"), "routing.txt was changed"),
    "a letter of a prediction": (lambda s, m, r: flip(r / "predictions.jsonl"), "predictions.jsonl was changed"),
    "a letter of an example": (
        lambda s, m, r: (p := s / "supervision" / LEARNT.hash / "examples.jsonl").write_text(p.read_text().replace("pilot", "miner")),
        "examples.jsonl was changed",
    ),
    "a kept answer": (lambda s, m, r: (s / "cache/completions/ab/abc.json").write_text("{"), "Expecting"),
    "states of a teacher": (
        lambda s, m, r: save_file({"hidden": torch.full((1, 1), torch.inf), "first": torch.zeros(1)}, s / "cache/teacher/t.safetensors"),
        "not finite",
    ),
    "a download": (lambda s, m, r: next((s / "downloads").glob("*/*")).write_text("dada"), "another sha256 than its folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEEP)
def test_what_keeps_its_size_is_found_by_reading_every_byte(store, module, reading, case):
    damage, pattern = DEEP[case]
    damage(store.root, module, reading)
    assert reasons(store) == "", "a quick check does not read so much"
    assert pattern in reasons(store, deep=True)
    repair(check_store(store.root, deep=True), deep=True)
    assert reasons(store, deep=True) == ""


def test_values_that_are_not_finite_are_found_where_there_is_no_checksum(store, module):
    nan(module / WEIGHTS)
    rewrite(module / MODULE_MARKER, lambda body: body.pop("files"))
    assert reasons(store) == "" and "not finite" in reasons(store, deep=True)


STANDING_ALONE = {
    "scores cut": (lambda s, r: cut(r / "scores" / "exact_match.jsonl"), "scores/exact_match.jsonl"),
    "scores empty": (lambda s, r: (r / "scores" / "exact_match.jsonl").write_text(""), "scores/exact_match.jsonl"),
    "teacher cut": (lambda s, r: cut(s / "cache/teacher/t.safetensors"), "cache/teacher/t.safetensors"),
    "answer empty": (lambda s, r: (s / "cache/completions/ab/abc.json").write_text(""), "cache/completions/ab/abc.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", STANDING_ALONE)
def test_what_stands_alone_is_set_aside_alone(store, reading, case):
    damage, place = STANDING_ALONE[case]
    damage(store.root, reading)
    done = repair(check_store(store.root))
    assert len(done.moved) == 1 and str(done.moved[0][0]).endswith(place)
    assert store.has_reading(reading.name) and reasons(store) == ""


# -- what a repair leaves alone ----------------------------------------------------------------------
def test_a_repair_deletes_nothing_and_says_where_all_went(store, module, reading):
    cut(module / WEIGHTS)
    one_fact_less(reading / "predictions.jsonl")
    before = {path.name: path.read_bytes() for path in module.rglob("*") if path.is_file()}
    done = repair(check_store(store.root))
    to = {path: target for path, target, _ in done.moved}
    assert {path.name: path.read_bytes() for path in to[module].rglob("*") if path.is_file()} == before
    day = to[module].parents[1]
    assert day.parent == store.root / "quarantine" and to[module].parent.name == "modules"
    rows = read_jsonl(day / "moved.jsonl")
    assert [row["path"] for row in rows] == [f"modules/{module.name}", f"readings/{reading.name}"]
    assert all(row["why"] and (day / row["to"]).exists() for row in rows)


def test_the_same_thing_is_set_aside_twice_without_loss(store, module):
    kept = shutil.copytree(module, store.root.parent / "kept")
    for _ in range(2):
        cut(module / WEIGHTS)
        [(_, target, _)] = repair(check_store(store.root)).moved
        shutil.copytree(kept, module)
    assert target.name == f"{module.name}-2" and len(list(target.parent.iterdir())) == 2
    assert check_store(store.root).counts["quarantine"].things == 2


def test_what_was_made_again_since_the_check_stays(store, module):
    kept = shutil.copytree(module, store.root.parent / "kept")
    cut(module / WEIGHTS)
    found = check_store(store.root)
    shutil.rmtree(module)
    shutil.copytree(kept, module)
    assert len(found.faults) == 1 and repair(found).moved == () and module.exists()


def test_what_was_deleted_since_the_check_is_no_error(store, module):
    cut(module / WEIGHTS)
    found = check_store(store.root)
    shutil.rmtree(module)
    done = repair(found)
    assert done.moved == () and done.left == ()


def test_a_folder_that_somebody_may_be_deleting_is_left(store, module):
    (module / MODULE_MARKER).unlink()
    done = repair(check_store(store.root))
    assert done.moved == () and module.exists() and "changed a moment ago" in done.left[0][1]
    old(module)
    assert len(repair(check_store(store.root)).moved) == 1


def test_supervision_that_somebody_is_writing_is_left(store):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        folder = store.root / "supervision" / ("e" * 64)
        folder.mkdir()
        (folder / f"{TEMPORARY}{host()}-{child.pid}-abc").write_text("half")
        old(folder)
        done = repair(check_store(store.root))
        assert done.cleared == 0 and done.moved == () and len(list(folder.iterdir())) == 1
    finally:
        child.communicate(b"\n")
    done = repair(check_store(store.root))
    assert done.cleared == 1 and not list(folder.iterdir()), "the dead one's is removed"
    old(folder)
    assert [path for path, _, _ in repair(check_store(store.root)).moved] == [folder]


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(store):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = store.root / "modules" / f"{TEMPORARY}{host()}-{dead.pid}-abc"
    mine = store.root / "modules" / f"{TEMPORARY}{host()}-{os.getpid()}-abc"
    for folder in (left, mine):
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(b"half")
    found = check_store(store.root)
    assert found.faults == [] and (found.temporary.things, found.temporary.bytes) == (2, 8)
    assert repair(found).cleared == 1 and not left.exists() and mine.exists()


def test_unknown_things_are_told_and_left(store, module):
    strange = [store.root / "notes.txt", store.root / "modules" / "mine", module / "thesis.pdf"]
    strange[1].mkdir()
    for path in (strange[0], strange[2]):
        path.write_text("x")
    found = check_store(store.root)
    assert found.faults == [] and sorted(found.unknown) == sorted(strange)
    repair(found)
    assert all(path.exists() for path in strange)


def test_what_cannot_be_moved_is_told(store, module, monkeypatch):
    cut(module / WEIGHTS)

    def refuse(*paths):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store_check.os, "rename", refuse)
    done = repair(check_store(store.root))
    assert done.moved == () and "cannot be moved (Permission denied)" in done.left[0][1]


def test_a_store_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        check_store(tmp_path / "none")


# -- as a study meets it -----------------------------------------------------------------------------
def test_damage_names_its_cure(store, module, reading):
    cut(module / WEIGHTS)
    with pytest.raises(Corrupt, match=r"run `loramem doctor --repair`"):
        store.module(module.name).load()
    (module / MODULE_MARKER).write_text("{")
    for call in (lambda: store.module(module.name), store.modules):
        with pytest.raises(Corrupt, match=r"recipe.json.*run `loramem doctor --repair`"):
            call()
    cut(reading / "predictions.jsonl")
    with pytest.raises(Corrupt, match=r"reading .*run `loramem doctor --repair`"):
        store.predictions(reading.name)


def test_a_study_names_a_damaged_module_and_after_a_repair_makes_it_again(bases, tmp_path):
    """Its reading is gone, too, so that the study has to load it."""
    made = study(**PHONES, seeds=1, sources__phonebook__sizes=[60], modules__spec__rank=[1])
    base, store = bases["llama"], Store(tmp_path / "store")

    def run(name: str):
        return execute(made, base, store, tmp_path / name, progress=Progress(live=False))

    first = run("first")
    [module] = store.modules()
    for folder in (store.root / "readings").iterdir():
        if read_json(folder / READING_MARKER)["reading"]["module"] == module.id:
            shutil.rmtree(folder)
    cut(module.folder / WEIGHTS)
    second = run("second")
    assert {failure["cell"] for failure in second.failures} == {f"{c['cell']}" for c in first.summary["cells"] if c["reading"] == "module"}  # fmt: skip
    assert all("run `loramem doctor --repair`" in failure["error"] for failure in second.failures)
    assert [path for path, _, _ in repair(check_store(store.root)).moved] == [module.folder]
    third = run("third")
    assert third.failures == [] and third.summary["cells"] == first.summary["cells"]
    assert check_store(store.root, deep=True).faults == []
