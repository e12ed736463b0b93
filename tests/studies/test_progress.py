"""The log of a run: every event of it, whole lines only, nothing secret; and what it tells those who come back later."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from loramem.core.files import host
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.studies import progress as progress_module
from loramem.studies.progress import Progress
from loramem.studies.run_log import account, lines, read_log
from loramem.training import TrainJob, bucket_length, train_modules
from loramem.training import loop as training_loop
from loramem.training.planner import ONE_ROW

A, B = "a" * 64, "b" * 64


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.jsonl"


def events(log, name: str | None = None) -> list[dict]:
    found, torn = read_log(log)
    assert torn == 0
    return [event for event in found if name in (None, event["event"])]


def small_run(log, *, fails: bool = False, live: bool = False) -> Progress:
    """Two modules, of which one may fail, and a reading."""
    progress = Progress(log, live=live)
    with progress.running(command="loramem study run q02", study="q02", scale="quick"):
        progress.start("train", total=20, unit="rows", things=2)
        progress.advance(10, 500)
        progress.module_done(A, seconds=2.0, tokens=500, loss=0.25, steps=5, ended="steps")
        if fails:
            progress.module_failed(B, "loss is not finite at step 3")
        else:
            progress.advance(4, 200)
            progress.module_done(
                B, early_rows=6, seconds=1.0, tokens=200, loss=0.5, steps=2, ended="memorised"
            )
        progress.stop()
        progress.start("read", total=4, unit="probes", things=1)
        progress.advance(4, 40)
        progress.reading_done("c" * 64, stem="module", seconds=0.5, probes=4)
        progress.stop()
    return progress


# -- what is written ---------------------------------------------------------------------------------
def test_every_event_says_when_and_which_run_and_process(log):
    small_run(log)
    found = events(log)
    assert [event["event"] for event in found] == [
        "run-start", "stage-start", "module-done", "module-done", "stage-end", "stage-start", "reading-done", "stage-end", "run-end",
    ]  # fmt: skip
    assert len({event["run"] for event in found}) == 1 and {event["pid"] for event in found} == {os.getpid()}
    assert {event["host"] for event in found} == {host()}
    times = [event["time"] for event in found]
    assert times == sorted(times) and all(one.endswith("Z") and len(one) == 24 for one in times)
    assert found[0]["command"] == "loramem study run q02" and found[0]["study"] == "q02"
    assert found[2]["id"] == A and (found[2]["loss"], found[2]["tokens"], found[2]["ended"]) == (
        0.25,
        500,
        "steps",
    )
    assert (found[4]["done"], found[4]["tokens"]) == (2, 700)
    end = found[-1]
    assert (
        end["state"] == "done"
        and end["error"] is None
        and end["counts"] == {"module-done": 2, "reading-done": 1}
    )


def test_rows_that_were_not_needed_leave_the_total(log):
    progress = Progress(log, live=False)
    progress.start("train", total=20, unit="rows", things=2)
    progress.module_done(A, early_rows=6, loss=0.5)
    assert progress.total == 14 and progress.done_things == 1


@pytest.mark.parametrize(
    ("raised", "state"),
    [(None, "incomplete"), (RuntimeError("broke"), "failed"), (KeyboardInterrupt(), "stopped")],
)
def test_the_end_of_a_run_is_logged_however_it_ends(log, raised, state):
    progress = Progress(log, live=False)
    try:
        with progress.running():
            progress.module_failed(A, "loss is not finite")
            if raised is not None:
                raise raised
    except BaseException as error:
        assert error is raised
    [end] = events(log, "run-end")
    assert end["state"] == state and end["counts"] == {"module-failed": 1}
    assert (end["error"] is None) == (raised is None)


def test_cells_without_a_result_make_a_run_incomplete(log):
    progress = Progress(log, live=False)
    with progress.running():
        progress.holes = 3
    [end] = events(log, "run-end")
    assert end["state"] == "incomplete" and end["holes"] == 3


def test_a_run_that_does_nothing_visible_still_says_that_it_is_there(log, monkeypatch):
    """The work never advances; only the clock does."""
    monkeypatch.setattr(progress_module, "BEAT_SECONDS", 0.01)
    progress = Progress(log, live=False)
    with progress.running():
        progress.say("scoring")
        until = time.monotonic() + 20
        while not events_so_far(log, "progress") and time.monotonic() < until:
            time.sleep(0.01)
    beats = events(log, "progress")
    assert beats and beats[0]["stage"] is None and beats[0]["said"] == "scoring"
    assert beats[0]["resident_bytes"] > 2**20 and beats[0]["available_bytes"] > 0
    assert "beat" not in {thread.name for thread in threading.enumerate()}, "it ends with the run"


def events_so_far(log, name: str) -> list[dict]:
    """As `events`, while somebody writes."""
    return [event for event in read_log(log)[0] if event["event"] == name]


def test_a_beat_tells_how_far_a_stage_is_and_how_long_it_takes(log):
    progress = Progress(log, live=False)
    progress.start("train", total=40, unit="rows", things=3)
    progress.began -= 10.0
    progress.advance(10, 5000)
    progress.finished_thing()
    progress.beat()
    [beat] = events(log, "progress")
    assert (beat["stage"], beat["done"], beat["total"], beat["things_done"], beat["things"]) == (
        "train",
        10,
        40,
        1,
        3,
    )
    assert beat["per_second"] == pytest.approx(1.0, rel=0.2) and beat["tokens_per_second"] == pytest.approx(
        500, rel=0.2
    )
    assert beat["eta_seconds"] == pytest.approx(30.0, rel=0.2)


def test_signals_are_logged_and_do_what_they_did(log):
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with Progress(log, live=False).running():
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [signal.SIGUSR1] and [event["signal"] for event in events(log, "signal")] == ["SIGUSR1"]


def test_memory_that_runs_out_in_training_is_an_event_of_its_own(log, bases, monkeypatch):
    """The real loop: a pass of more than one row does not fit, then none does."""
    base, kept = bases["llama"], training_loop.part_losses
    examples = tuple(base.prompts.chat_example(f"Who is {name}?", "a pilot") for name in ("Zoë", "Ada"))
    job = TrainJob(
        A, LoraSpec(rank=1), Objective(), Optimizer(lr=0.01, batch=2), 1, 0, examples, bucket_length(examples, 512)
    )  # fmt: skip

    def full(most: int):
        def tight(base, bank, parts):
            if sum(part.stop - part.start for part in parts) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return kept(base, bank, parts)

        return tight

    progress = Progress(log, live=False)
    for most in (1, 0):
        monkeypatch.setattr(training_loop, "part_losses", full(most))
        train_modules(
            base, [job], on_finish=lambda done: None, on_note=progress.note,
            on_fail=lambda key, error: progress.module_failed(key, str(error)),
        )  # fmt: skip
    told = events(log, "out-of-memory")
    assert len(told) == 2 and "with 2 rows at once" in told[0]["text"]
    [failed] = events(log, "module-failed")
    assert failed["error"] == ONE_ROW and failed["out_of_memory"] is True


def test_a_failure_of_another_kind_is_not_taken_for_one_of_memory(log):
    progress = Progress(log, live=False)
    progress.reading_failed(A, "ValueError: memory of 3 modules is asked", stem="module")
    progress.say("scoring the memory")
    assert [event["event"] for event in events(log)] == ["reading-failed", "note"]
    assert events(log)[0]["out_of_memory"] is False and events(log)[0]["stem"] == "module"


def test_numbers_that_json_lacks_and_secrets_are_not_written(log, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sesame-0123456789")
    progress = Progress(log, live=False)
    with progress.running(command="run --key sesame-0123456789", nested={"url": "https://me:sesame@host/"}):
        progress.module_done(A, loss=math.nan, seconds=math.inf)
        progress.module_failed(B, "401 for sesame-0123456789 \x1b[31m")
    text = log.read_text()
    assert "sesame" not in text and "NaN" not in text and "Infinity" not in text and "\x1b" not in text
    assert events(log, "module-done")[0]["loss"] is None


class Charts:
    """A tracker that keeps what it is told."""

    def __init__(self, fails: bool = False):
        self.fails, self.told, self.finished = fails, [], 0

    def log(self, step, values) -> None:
        if self.fails:
            raise OSError("the server is gone")
        self.told.append((step, dict(values)))

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_is_told_the_numbers_of_the_log(log):
    charts = Charts()
    progress = Progress(log, live=False, tracker=charts)
    with progress.running():
        progress.start("train", total=2, unit="rows", things=1)
        progress.advance(1, 30)
        progress.beat()
        progress.module_done(A, loss=0.5, seconds=math.nan, ended="steps")
        progress.stop()
    (first, beat), (second, module) = charts.told
    assert (first, second) == (0, 1) and charts.finished == 1
    assert beat["train/done"] == 1 and beat["train/tokens"] == 30 and beat["memory/resident_bytes"] > 0
    assert module == {"module/loss": 0.5}, "no text, and nothing that is no number"


def test_a_tracker_that_fails_does_not_end_the_run(log, capsys):
    progress = Progress(log, live=False, tracker=Charts(fails=True))
    with progress.running():
        progress.module_done(A, loss=0.5)
        progress.module_done(B, loss=0.5)
    assert progress.tracker is None and capsys.readouterr().out.count("tracking stopped") == 1
    assert events(log, "run-end")[0]["state"] == "done"


# -- what is read ------------------------------------------------------------------------------------
def test_a_torn_line_is_skipped_and_counted_wherever_it_stands(log):
    small_run(log)
    whole = log.read_bytes()
    log.write_bytes(whole[:-40])
    found, torn = read_log(log)
    assert torn == 1 and [event["event"] for event in found][-1] == "stage-end"
    small_run(log)  # the next run begins on a line of its own
    found, torn = read_log(log)
    assert torn == 1 and len({event["run"] for event in found}) == 2 and found[-1]["event"] == "run-end"
    assert account(found, torn)["torn"] == 1 and "torn lines skipped: 1" in list(lines(account(found, torn)))


def test_the_account_of_a_finished_run(log):
    small_run(log)
    found = account(*read_log(log))
    assert (
        found["state"] == "done"
        and found["done"] == {"modules": 2, "readings": 1}
        and found["failures"] == []
    )
    said = list(lines(found))
    assert said[0] == "done" and any(
        line.startswith("q02 quick") and "loramem study run q02" in line for line in said
    )


def test_a_failure_that_a_later_run_mends_is_none(log):
    small_run(log, fails=True)
    found = account(*read_log(log))
    assert found["state"] == "incomplete" and [one["id"] for one in found["failures"]] == [B]
    assert any(line == f"failed: module {B[:12]}: loss is not finite at step 3" for line in lines(found))
    small_run(log)
    found = account(*read_log(log))
    assert found["state"] == "done" and found["failures"] == [] and found["ends"] == ["incomplete", "done"]


def unfinished(log, **changes) -> list[dict]:
    """The events of a run that has not told of its end."""
    progress = Progress(log, live=False)
    progress._write("run-start", command="loramem study run q02", study="q02")
    progress.start("train", total=40, unit="rows", things=3)
    progress.advance(10, 5000)
    progress.beat()
    return [{**event, **changes} for event in events(log)]


def gone() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_an_unfinished_run_is_running_silent_killed_or_lost(log):
    now = time.time()
    here = unfinished(log)
    assert account(here, now=now)["state"] == "running"
    assert account(here, now=now + 3600)["state"] == "silent"
    assert account([{**event, "pid": gone()} for event in here], now=now)["state"] == "killed"
    elsewhere = [{**event, "host": "other.0"} for event in here]
    assert account(elsewhere, now=now)["state"] == "running", "it spoke a moment ago"
    lost = account(elsewhere, now=now + 3700)
    assert lost["state"] == "lost" and "1:01:" in list(lines(lost))[0] and "other.0" in list(lines(lost))[0]


def test_what_a_killed_run_was_doing_is_shown(log):
    said = list(lines(account(unfinished(log, pid=gone()))))
    assert said[0].startswith("killed: its process is gone")
    assert any(line.startswith("train: 25 % of 40 rows, 0 of 3 done") for line in said)
    assert any(line.startswith("memory: ") and "of the machine free" in line for line in said)


def test_logs_of_older_versions_are_no_error(log):
    log.write_text('{"time": "2026-11-01T00:00:00Z", "event": "say", "text": "x"}\n[1]\n')
    found = account(*read_log(log))
    assert found["last"] is None and found["torn"] == 1 and "older version" in " ".join(lines(found))


def test_the_command_shows_a_run_and_every_study_of_a_series(loramem, tmp_path):
    for name in ("q01", "q02"):
        (tmp_path / "all" / name).mkdir(parents=True)
        small_run(tmp_path / "all" / name / "log.jsonl", fails=name == "q02")
    (tmp_path / "all" / "log.jsonl").touch()
    code, said, _ = loramem("study", "log", tmp_path / "all" / "q01")
    assert code == 0 and "\n  done\n" in said and "2 modules, 1 readings" in said
    code, said, _ = loramem("study", "log", tmp_path / "all")
    assert code == 0 and said.count("log.jsonl:") == 2 and "loss is not finite" in said
    code, said, _ = loramem("study", "log", tmp_path / "all", "--json")
    states = [json.loads(line)["state"] for line in said.splitlines()]
    assert code == 0 and states == ["done", "incomplete"]
    code, said, error = loramem("study", "log", tmp_path / "al")
    assert code == 2 and "no log.jsonl there" in error and "Traceback" not in error + said
