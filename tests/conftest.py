"""Fixtures shared by all tests: tiny checkpoints made once, and the folder of real files where there is one."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loramem.base import Base, load_base
from loramem.cli import main
from tiny import FAMILIES, make_checkpoint

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup ignores this one: what tests start inherits both


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory) -> Iterator[None]:
    """Commands without --out write below the current folder: not into the `runs` of whoever runs the tests."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: make_checkpoint(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def bases(checkpoints) -> dict[str, Base]:
    return {
        family: load_base(str(folder), device="cpu", dtype="float32", offline=True)
        for family, folder in checkpoints.items()
    }


@pytest.fixture(scope="session")
def sharp(bases) -> Base:
    """The tiny base with a wider output head: the head learns nothing, and a narrow one cannot say p > 0.5."""
    model = copy.deepcopy(bases["llama"].model)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return dataclasses.replace(bases["llama"], model=model)


@pytest.fixture(params=FAMILIES)
def base(request, bases) -> Base:
    return bases[request.param]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real published files; tests on them are extra."""
    where = Path(os.environ.get("LORAMEM_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not where.is_dir():
        pytest.skip(f"no published files at {where}; set LORAMEM_SHARED_DATA to test on them")
    return where


@pytest.fixture
def loramem(monkeypatch, capsys, tmp_path):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loramem", *map(str, arguments)])
        monkeypatch.setenv("LORAMEM_STORE", str(tmp_path / "store"))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
