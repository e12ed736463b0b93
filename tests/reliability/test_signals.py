"""Ctrl-C and SIGTERM end a run with one line: what was finished is kept, and the same command goes on from there."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loramem.cli.entry import STOPPED
from reliability.comparing import check_same, check_whole, stamps
from reliability.processes import PATIENCE, fresh
from reliability.small_study import Place, Watch, reach

MOMENTS = (
    (signal.SIGINT, "train"),
    (signal.SIGTERM, "save"),
    (signal.SIGTERM, "read"),
    (signal.SIGINT, "judge"),
)


def test_a_run_stopped_again_and_again_keeps_what_was_finished_and_ends_in_the_same_results(known, tmp_path):
    place = Place(tmp_path)
    for number, phase in MOMENTS:
        process, watch = known.start(place.command(known.setting), tmp_path), Watch(place)
        assert reach(process, watch, phase, 0.3 * known.plain.lasts(phase))
        kept, saving = stamps(place), watch.phase() == "save"
        trained = len(place.trained())
        process.send(number)
        assert process.wait() == 128 + number, (phase, process.output, process.errors)
        assert process.errors == f"{STOPPED}\n", phase
        assert kept.items() <= stamps(place).items(), phase
        assert not saving or len(place.trained()) > trained, "what was being saved is there"
        assert not place.temporaries(), phase
        check_whole(place)
    process = known.start(place.command(known.setting), tmp_path)
    assert process.wait() == 0, process.output + process.errors
    check_same(place, known.plain.place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_import_ends_in_the_same_line(number, tmp_path):
    process = fresh(
        ["study", "run", "quick", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")],
        tmp_path,
    )
    maps, end = Path(f"/proc/{process.pid}/maps"), time.monotonic() + PATIENCE
    while "libtorch" not in maps.read_text(encoding="utf-8", errors="replace"):
        assert process.poll() is None and time.monotonic() < end, process.errors
        time.sleep(0.001)
    process.send(number)
    assert process.wait() == 128 + number, process.errors
    assert process.errors == f"{STOPPED}\n" and process.output == ""
    assert not (tmp_path / "out").exists()


SLOW_TO_END = """
import os, sys, time
from loramem.cli import entry

entry.ONE_STOP_SECONDS = float(sys.argv[1])
with entry.Stopping() as stopping:
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("saving", flush=True)
        os.read(0, 1)
        print("saved", flush=True)
sys.exit(stopping.exit_code)
"""


def slow_to_end(one_stop: float) -> subprocess.Popen:
    """A program that has been told to stop and still saves, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_END, str(one_stop)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving\n"
    return process


def test_a_second_signal_at_once_is_the_same_stop():
    """`timeout`, for one, signals a program and then the group it is in."""
    process = slow_to_end(one_stop=600)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate("x", timeout=PATIENCE)
    assert (process.returncode, said, told) == (143, "saved\n", "")


def test_a_later_second_signal_ends_a_program_that_hangs():
    process = slow_to_end(one_stop=0)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said, told) == (143, "", f"{STOPPED}\n")


def test_a_stopped_run_leaves_the_terminal_as_it_was(known, tmp_path):
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while block := os.read(ours, 4096):
                shown.append(block)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    place = Place(tmp_path)
    process = known.start(place.command(known.setting), tmp_path, terminal=os.ttyname(theirs))
    assert reach(process, Watch(place), "train", 0.3 * known.plain.lasts("train"))
    process.send(signal.SIGINT)
    assert process.wait() == 130 and process.errors == f"{STOPPED}\n"
    os.close(theirs)
    reader.join(PATIENCE)
    said = b"".join(shown)
    assert said.count(b"\x1b[?25l") > 0, "a bar hides the cursor"
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
