"""Where the program ends: every error and signal is one message and an exit code, whatever was under way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from loramem.cli import app as commands
from loramem.cli.entry import STOPPED
from loramem.core.errors import Corrupt, Faults, InputError, RunFailed


@pytest.fixture
def ends(monkeypatch, loramem):
    """What a command that does this ends in: (exit code, stdout, stderr)."""

    def run(act) -> tuple[int, str, str]:
        def command(*words, **options):
            if isinstance(act, BaseException):
                raise act
            return act()

        monkeypatch.setattr(commands, "app", command)
        return loramem("anything")

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("bad"), 2, "error: bad\n"),
        (Faults(["one", "two"]), 2, "error: 2 faults:\n- one\n- two\n"),
        (RunFailed("some failed"), 1, "error: some failed\n"),
        (Corrupt("damaged"), 1, "error: damaged\n"),
        (
            OSError(errno.EROFS, "Read-only file system", "/proc/none"),
            1,
            "error: the file system is read-only: /proc/none",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 1, "error: no permission: /a/b; what was finished is kept."),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b"),
            1,
            "error: No such file or directory: /a/b; what was finished is kept\n",
        ),
        (MemoryError(), 1, "error: out of memory; what was finished is kept."),
        (torch.OutOfMemoryError("tried 3 GiB\nmore words"), 1, "error: out of memory (tried 3 GiB); what was finished is kept."),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
            1,
            "error: out of memory (DefaultCPUAllocator: not enough memory: you tried);",
        ),
        (ValueError("odd"), 1, "error: ValueError: odd (a bug in loramem; LORAMEM_DEBUG=1 shows where)\n"),
        (KeyboardInterrupt(), 130, f"{STOPPED}\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
    ],
)  # fmt: skip
def test_an_error_is_one_message_and_a_code(ends, error, code, said):
    found, out, told = ends(error)
    assert (found, out) == (code, "") and told.startswith(said) and "Traceback" not in told
    assert told.count("error:") == bool(said and "error" in said)


@pytest.fixture
def handlers():
    """A program that was stopped ignores signals until it is gone; this process goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_its_code_whatever_becomes_of_the_work(ends, handlers, number, code):
    def becomes(error: BaseException):
        def work():
            _caught(number)
            raise error

        return work

    what = (KeyboardInterrupt(), SystemExit(1), ImportError("half a library"))
    for work in (*map(becomes, what), lambda: _caught(number) or 130):
        for one, handler in handlers.items():
            signal.signal(one, handler)
        assert ends(work) == (code, "", f"{STOPPED}\n")


def _caught(number: int) -> None:
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        return


def test_work_that_is_done_is_done_although_a_signal_came(ends, handlers):
    assert ends(lambda: _caught(signal.SIGTERM)) == (0, "", "")


def test_the_storage_is_named_even_where_a_signal_came_first(ends, handlers):
    def work():
        _caught(signal.SIGTERM)
        raise OSError(errno.EIO, "Input/output error", "/a")

    code, _, told = ends(work)
    first, second = told.splitlines()
    assert code == 143 and first.startswith("error: the storage fails") and second == STOPPED


def test_a_signal_that_was_ignored_before_stays_ignored(ends, handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` and background jobs do
    assert ends(lambda: os.kill(os.getpid(), signal.SIGINT)) == (0, "", "")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_handlers_are_given_back(ends, handlers):
    ends(lambda: None)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_next_to_nothing_is_imported_before_signals_are_handled():
    listed = "import json, sys, loramem.cli; print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    said = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "transformers", "typer", "pydantic", "safetensors"} & set(json.loads(said))
