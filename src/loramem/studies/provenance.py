"""What produced a run's numbers: versions, machine, code state, base, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from loramem import __version__
from loramem.base.model import Base, describe
from loramem.modules.store import Store
from loramem.studies.numerics import numerics

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pandas")


def environment(base: Base, store: Store, command: str) -> dict:
    """What produced the numbers: versions, machine, code state, base. Asked where the work is done (`Executor.call`)."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "loramem": __version__, "python": platform.python_version(), "packages": versions, "platform": platform.platform(),
        "processor": platform.machine(), "threads": torch.get_num_threads(), "command": command, "code": code_state(),
        "numerics": numerics(base.device), "base": describe(base),
    }  # fmt: skip


def code_state() -> dict:
    """Commit of the checkout this package runs from, and whether it was changed; empty outside a checkout."""
    where = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=where, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return (
        {}
        if commit is None
        else {"commit": commit, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    )


def shown_command(arguments: Sequence[str]) -> str:
    """The command line as it would be typed, for the record."""
    return shlex.join(["loramem", *arguments]) if arguments else Path(sys.argv[0]).name
