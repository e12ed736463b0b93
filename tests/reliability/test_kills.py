"""Killed at any moment, a study goes on where it was and ends in the same results; two at once do not disturb each other."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reliability.comparing import check_same, check_whole
from reliability.killing import kill_again_and_again, rounds
from reliability.processes import fresh
from reliability.small_study import PHASES, Place, setting, undisturbed


def test_a_study_killed_while_saving_reading_and_reporting_ends_in_the_same_results(known, tmp_path, capsys):
    account = kill_again_and_again(
        known.setting,
        known.plain,
        tmp_path,
        known.start,
        [("save", "read", "report")],
        seed=5,
        launch="forked",
    )
    assert account.kills == 3
    assert sum(account.modules) == known.plain.stages["train"]
    assert sum(account.readings) == known.plain.stages["read"]
    with capsys.disabled():
        print(f"\n{account.line()}")


@pytest.mark.slow
def test_a_study_killed_at_fifty_random_moments_ends_in_the_same_results(tmp_path, capsys):
    plans = list(rounds(random.Random(50), 50, 7))
    with setting(tmp_path / "setting") as one:
        plain = undisturbed(one, tmp_path / "plain", fresh)
        account = kill_again_and_again(
            one, plain, tmp_path, fresh, plans, seed=50, launch="fresh", note=print
        )
    with capsys.disabled():
        print(f"\n{account.line()}")
    assert account.kills == 50 and all(account.by_phase[phase] for phase in PHASES)
    assert account.amid_a_write > 0, "no kill met a write: the harness is too gentle"


def test_two_runs_on_one_store_at_once_end_in_the_same_results(known, tmp_path):
    one, two = Place(tmp_path, "one"), Place(tmp_path, "two")
    processes = [known.start(place.command(known.setting), tmp_path) for place in (one, two)]
    for process in processes:
        assert process.wait() == 0, process.output + process.errors
        assert "failed" not in process.output and "Traceback" not in process.errors
    check_whole(one)
    for place in (one, two):
        check_same(place, known.plain.place)


def spoil(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content, (path, old)
    path.write_bytes(content.replace(old, new, 1))


def first(place: Place, pattern: str) -> Path:
    return min(place.folder.glob(pattern))


def bend(place: Place, by: float) -> None:
    """Change one weight of a module a little."""
    path = first(place, "store/modules/*/adapter_model.safetensors")
    tensors = load_file(path)
    name = max(tensors, key=lambda one: float(tensors[one].norm()))
    tensors[name] = tensors[name] * (1 + by)
    save_file(tensors, path)


SPOILT = {
    "an answer": lambda place: spoil(
        first(place, "store/readings/*/predictions.jsonl"), b'"prediction": "', b'"prediction": "x'
    ),
    "a score": lambda place: spoil(first(place, "store/readings/*/scores/exact_match.jsonl"), b'"value": 0.0', b'"value": 1.0'),
    "a judgement": lambda place: spoil(first(place, "store/cache/completions/judge/*/*/*.json"), b"so it is", b"so it was"),
    "weights": lambda place: bend(place, 1e-4),
    "a file less": lambda place: first(place, "store/modules/*/training.jsonl").unlink(),
    "a file more": lambda place: (place.out / "more.txt").touch(),
    "a temporary file": lambda place: (place.out / ".tmp-x").touch(),
    "a table": lambda place: spoil(place.out / "tables" / "cells.csv", b"papers", b"paper"),
    "a mean": lambda place: spoil(place.out / "summary.json", b'"mean": 0.0', b'"mean": 0.001'),
    "a figure": lambda place: spoil(first(place, "out/figures/*.svg"), b"<path", b"<paht"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_the_comparison_sees(known, tmp_path, what):
    """Twin of the tests above: what they compare is what they say."""
    place = Place(tmp_path / "copy")
    shutil.copytree(known.plain.place.folder, place.folder, dirs_exist_ok=True)
    assert check_same(place, known.plain.place) == []
    SPOILT[what](place)
    with pytest.raises(AssertionError):
        check_same(place, known.plain.place)


def test_the_comparison_forgives_times_and_last_digits(known, tmp_path):
    place = Place(tmp_path / "copy")
    shutil.copytree(known.plain.place.folder, place.folder, dirs_exist_ok=True)
    spoil(first(place, "store/modules/*/ledger.json"), b'"seconds": ', b'"seconds": 7')
    assert check_same(place, known.plain.place) == []
    bend(place, 1e-7)
    assert len(check_same(place, known.plain.place)) == 1


def test_a_torn_folder_is_seen(known, tmp_path):
    place = Place(tmp_path / "copy")
    shutil.copytree(known.plain.place.store, place.store)
    check_whole(place)
    path = first(place, "store/modules/*/adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="adapter_model"):
        check_whole(place)
