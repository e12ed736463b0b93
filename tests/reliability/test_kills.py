"""Killed at any moment, a study goes on where it was and ends in the same results; two at once do not disturb each other."""

from __future__ import annotations

import random

import pytest

from reliability.killing import (
    PHASES,
    Place,
    check_same,
    check_whole,
    kill_again_and_again,
    rounds,
    setting,
    stamps,
    undisturbed,
)
from reliability.processes import fresh


def test_a_study_killed_while_saving_reading_and_reporting_ends_in_the_same_results(known, tmp_path, capsys):
    account = kill_again_and_again(
        known.setting,
        known.plain,
        tmp_path,
        known.start,
        [("save", "read", "report")],
        seed=1,
        launch="forked",
    )
    assert account.kills == 3 and account.attempts == 4
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
    before = stamps(one)
    third = known.start(one.command(known.setting), tmp_path)
    assert third.wait() == 0 and stamps(one) == before
