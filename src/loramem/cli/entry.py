"""Where the program begins and ends: one place where errors and signals become a message and an exit code.

It imports next to nothing, so that a signal that comes while the rest is imported ends in the same way.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from types import FrameType, TracebackType

from loramem.core.errors import Faults, LoramemError
from loramem.core.shown import quoted

STOPPED = "stopped; what was finished is kept, the same command goes on from there"
ONE_STOP_SECONDS = 1.0
"""Signals that come so soon after the first are the same stop: `timeout` and Slurm send more than one."""


class Stopping:
    """Within the block Ctrl-C and SIGTERM raise `KeyboardInterrupt`: work in hand is finished and kept on the way out.

    One that comes later than the first by `ONE_STOP_SECONDS` ends the process at once. Nothing is torn by that: whatever is
    half written is a temporary file that nobody reads.

    Attributes:
        signal: Which signal came; None while none did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.came = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` and the like keep their word
                with suppress(ValueError):  # not the main thread: its caller decides
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            # once stopped the process is about to end: a further signal would only tear its last words
            signal.signal(number, before if self.signal is None else signal.SIG_IGN)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count it."""
        return 128 + (self.signal or signal.SIGINT)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.came = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self.came > ONE_STOP_SECONDS:
            os.write(2, f"{STOPPED}\n".encode())
            os._exit(self.exit_code)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 something failed (named), 2 bad input or usage, 130 Ctrl-C, 143 SIGTERM. Never a traceback for bad input.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with Stopping() as stopping:
        code = _run(stopping)
        if stopping.signal is not None and code != 0:
            print(STOPPED, file=sys.stderr)
            code = stopping.exit_code
    sys.exit(code)


def _run(stopping: Stopping) -> int | str:
    """The exit code of a command whose errors have been shown."""
    try:
        from loramem.cli.app import app

        code = app(prog_name="loramem", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code or 0
    except KeyboardInterrupt:
        if stopping.signal is None:  # raised by hand
            print(STOPPED, file=sys.stderr)
        return stopping.exit_code
    except LoramemError as error:
        many = isinstance(error, Faults) and len(error.faults) > 1
        print(f"error: {len(error.faults)} faults:\n{error}" if many else f"error: {error}", file=sys.stderr)  # type: ignore[attr-defined]
        return error.exit_code
    except Exception as error:
        return _unforeseen(error, stopping) if (code := _usage(error)) is None else code


def _usage(error: Exception) -> int | None:
    """The exit code of a command line that names no command, or gives one what it does not take; None for any other error.

    The classes are private to the library that parses the command line: what they can do tells them.
    """
    if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
        return None
    context = getattr(error, "ctx", None)
    text = " ".join(str(error.format_message()).split())
    if callable(faults := getattr(error.__cause__, "errors", None)):  # the parser does not say what was given
        text += f" (given {quoted(faults()[0]['input'])})"
    if (
        context is not None and type(error).__name__ == "NoArgsIsHelpError"
    ):  # `loramem` alone: its message is the help
        if text:  # where it is not printed already
            print(error.format_message(), file=sys.stderr)
    else:
        path = context.command_path if context is not None else "loramem"
        print(f"error: {LoramemError(f'{text} ({path} --help says what there is)')}", file=sys.stderr)
    return error.exit_code


def _unforeseen(error: Exception, stopping: Stopping) -> int:
    """An error that is not of ours: of the storage, of a file, or a bug."""
    from loramem.core.shown import told
    from loramem.core.storage import fatal

    if ended := fatal(error):
        print(f"error: {ended}", file=sys.stderr)
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        print(told(f"error: {error.strerror or error}{where}; what was finished is kept"), file=sys.stderr)
    elif _out_of_memory(error):
        reason = told(str(error).strip().split("\n")[0])
        print(
            f"error: out of memory{f' ({reason})' if reason else ''}; what was finished is kept. Fewer rows at once (--rows), a smaller "
            "base or a larger machine helps",
            file=sys.stderr,
        )
    elif stopping.signal is None:  # an interrupted import may end in any error
        if os.environ.get("LORAMEM_DEBUG"):
            print(told(traceback.format_exc()), end="", file=sys.stderr)
        print(
            told(f"error: {type(error).__name__}: {error} (a bug in loramem; LORAMEM_DEBUG=1 shows where)"),
            file=sys.stderr,
        )
    return 1


def _out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:  # it ran out before there was anything to train
        return isinstance(error, MemoryError)
    from loramem.training.memory import out_of_memory

    return out_of_memory(error)
