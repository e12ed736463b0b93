"""Signals are told, and then do what they did before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from loramem.core.signals import signals_told


@pytest.fixture
def usr1():
    """A handler of SIGUSR1 that counts."""
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_told_and_reaches_its_handler(usr1):
    told: list[str] = []
    own = signal.getsignal(signal.SIGUSR1)
    with signals_told(told.append):
        signal.raise_signal(signal.SIGUSR1)
    assert told == ["SIGUSR1"] and usr1 == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is own, "afterwards all is as it was"
    signal.raise_signal(signal.SIGUSR1)
    assert told == ["SIGUSR1"] and len(usr1) == 2


def test_an_ignored_signal_stays_ignored(usr1):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    told: list[str] = []
    with signals_told(told.append):
        signal.raise_signal(signal.SIGUSR1)
    assert told == [] and usr1 == []


def test_ctrl_c_is_told_and_still_ends_the_work():
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt), signals_told(told.append):
        signal.raise_signal(signal.SIGINT)
    assert told == ["SIGINT"]


def test_in_another_thread_nothing_is_told_and_nothing_breaks():
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with signals_told(lambda name: None):
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


def test_a_signal_that_nobody_handles_is_told_and_ends_the_process():
    code = (
        "import os, signal\nfrom loramem.core.signals import signals_told\n"
        "with signals_told(lambda name: print(name, flush=True)):\n    os.kill(os.getpid(), signal.SIGHUP)\n    print('alive')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"}
    )
    assert done.returncode == -signal.SIGHUP and done.stdout == "SIGHUP\n"
