"""The command line in processes of their own, which can be killed, stopped and limited like any other.

`fresh` starts `python -m loramem`. `Forked` copies a process that has imported everything, for importing takes longer than a
small study: such a copy begins at once, and is from then on a process like any other.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

PATIENCE = 1800.0
"""Seconds after which a process is thought to hang; on a busy machine even a small study takes its time."""
IMPORTED = (
    "loramem.cli.app", "loramem.api", "loramem.synthesis.endpoint", "loramem.synthesis.local", "loramem.report.gallery",
    "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "transformers.models.bert.modeling_bert",
    "openai", "openai.resources.chat", "pyarrow.parquet", "matplotlib.backends.backend_svg", "scipy.stats", "sklearn.metrics",
)  # fmt: skip
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "100",
}  # fmt: skip


class Process:
    """A running command line.

    Attributes:
        said, told: Files that take what it writes to stdout and to stderr.
        code: Its exit code, negative for a signal; None while it runs.
    """

    def __init__(self, pid: int, said: Path, told: Path):
        self.pid, self.said, self.told = pid, said, told
        self.code: int | None = None
        self.seconds = 0.0

    def poll(self) -> int | None:
        raise NotImplementedError

    def wait(self) -> int:
        end = time.monotonic() + PATIENCE
        while self.poll() is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"still running after {PATIENCE} s:\n{self.output}\n{self.errors}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def send(self, number: int) -> None:
        """Send a signal; its id is its own until `poll` has told of its end."""
        if self.code is None:
            os.kill(self.pid, number)

    def cpu(self) -> float:
        """CPU seconds it has used: a clock that does not run while other processes have the computer."""
        try:
            return time.clock_gettime(
                (~self.pid << 3) | 2
            )  # the clock of a process, as clock_getcpuclockid names it
        except OSError:
            return self.seconds

    @property
    def output(self) -> str:
        return self.said.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self.told.read_text(encoding="utf-8")


class Start(Protocol):
    """Starts a command line of loramem (without its first word).

    Args:
        folder: Where it runs, and where its output is kept.
        file_bytes: No file it writes may grow larger.
        terminal: What it writes to in place of a file.
    """

    def __call__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        file_bytes: int | None = None,
        terminal: str | None = None,
    ) -> Process: ...


def _places(folder: Path, terminal: str | None) -> tuple[Path, Path]:
    number = sum(1 for _ in folder.glob("told-*"))
    said = Path(terminal) if terminal else folder / f"said-{number}.txt"
    told = folder / f"told-{number}.txt"
    said.touch()
    told.touch()
    return said, told


def _prepare(file_bytes: int | None) -> None:
    """In the new process: signals as a terminal or a batch system leaves them, and its limit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


class _Own(Process):
    def __init__(self, process: subprocess.Popen, said: Path, told: Path):
        super().__init__(process.pid, said, told)
        self._process = process

    def poll(self) -> int | None:
        if self.code is None:
            self.seconds = self.cpu()
            self.code = self._process.poll()
        return self.code


def fresh(
    arguments: Sequence[str], folder: Path, *, file_bytes: int | None = None, terminal: str | None = None
) -> Process:
    """`python -m loramem ARGUMENTS`."""
    said, told = _places(folder, terminal)
    with open(said, "wb") as out, open(told, "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "loramem", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            env={**os.environ, **ENVIRONMENT}, preexec_fn=lambda: _prepare(file_bytes),
        )  # fmt: skip
    return _Own(process, said, told)


class _Copy(Process):
    def __init__(self, forked: Forked, pid: int, said: Path, told: Path):
        super().__init__(pid, said, told)
        self._forked = forked

    def poll(self) -> int | None:
        if self.code is None:
            self.seconds = self.cpu()
            self.code = self._forked.ask({"poll": self.pid})
        return self.code


class Forked:
    """A process that has imported everything, and makes copies of itself that run command lines."""

    def __enter__(self) -> Forked:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
        assert self.ask({}) == "ready"
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.communicate()  # its input ends, and so does it
        assert self._server.returncode == 0

    def ask(self, question: dict):
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def __call__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        file_bytes: int | None = None,
        terminal: str | None = None,
    ) -> Process:
        said, told = _places(folder, terminal)
        asked = {
            "arguments": list(arguments), "folder": str(folder), "said": str(said), "told": str(told), "file_bytes": file_bytes,
        }  # fmt: skip
        return _Copy(self, self.ask(asked), said, told)


def _serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer questions until there are no more; a copy returns from here to be the command line."""
    for line in questions:
        asked = json.loads(line)
        if "poll" in asked:
            pid, status = os.waitpid(asked["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif "arguments" in asked:
            answer = os.fork()
            if answer == 0:
                _become(asked)
                return
        else:
            answer = "ready"
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    sys.exit(0)


def _become(asked: dict) -> None:
    """Stand where a fresh process would: its own input, output, folder, words and limits."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for own, path in ((1, asked["said"]), (2, asked["told"])):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, own)
        os.close(file)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.chdir(asked["folder"])
    sys.argv = ["loramem", *asked["arguments"]]
    _prepare(asked["file_bytes"])


if __name__ == "__main__":
    import importlib

    for one in IMPORTED:
        importlib.import_module(one)
    inbox, outbox = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    _serve(inbox, outbox)
    from loramem.cli import main

    main()
