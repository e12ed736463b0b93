"""Fuzzing guided by coverage: its figures are read right, it finds a planted fault, and in the parsers it finds none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from reliability import fuzz_guided
from reliability.targets import TARGETS

SECONDS = 3
LOG = """\
INFO: seed corpus: files: 2 min: 3b max: 9b total: 12b rss: 40Mb
#3	INITED cov: 27 ft: 27 corp: 2/12b exec/s: 0 rss: 40Mb
#658	REDUCE cov: 41 ft: 41 corp: 13/35b lim: 6 exec/s: 0 rss: 43Mb L: 2/4 MS: 1 EraseBytes-
#2070	DONE   cov: 51 ft: 60 corp: 14/36b lim: 6 exec/s: 258 rss: 44Mb
"""
PLANTED = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {src!r}]
import atheris
from reliability import fuzz_guided
from reliability.targeting import target
from loramem.metrics.text import words

@target("planted", ["abc"])
@atheris.instrument_func
def _(data, where):
    if data[:1] == b"k":
        if data[1:2] == b"e":
            raise KeyError("planted")

found = fuzz_guided.in_a_copy("planted", 60, Path({folder!r}) / "planted", runs=200_000)
print(found.executions, [one["error"] for one in found.findings])
"""
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: pip install 'loramem[fuzz]'",
)


def test_the_figures_are_the_librarys_own(tmp_path):
    found = {"error": "KeyError: 'a'", "where": "x.py:3", "input": "{"}
    (tmp_path / fuzz_guided.FINDINGS).write_text(json.dumps(found) + "\n")
    (tmp_path / "stopped-timeout-0123").write_bytes(b"\xff(")
    result = fuzz_guided.read_result(LOG, tmp_path)
    assert (result.executions, result.seed_edges, result.edges, result.kept) == (2070, 27, 51, 14)
    assert result.findings == [found, {"error": "timeout", "where": "?", "input": "\\xff("}]


def test_a_finding_is_placed_in_our_own_code():
    from loramem.core.files import read_text

    try:
        read_text(None)  # type: ignore[arg-type]
    except TypeError as error:
        assert fuzz_guided.place_of(error).startswith("files.py:")
    else:
        pytest.fail("no error")


@needs_atheris
@pytest.mark.slow
def test_a_planted_fault_is_found(tmp_path):
    """It takes two right bytes in a row, so coverage has led there."""
    tests = Path(fuzz_guided.__file__).parents[1]
    code = PLANTED.format(tests=str(tests), src=str(tests.parent / "src"), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0 and "KeyError: 'planted'" in done.stdout, done.stdout + done.stderr[-2000:]


@needs_atheris
@pytest.mark.slow
def test_guided_by_coverage_no_parser_lets_another_error_out():
    done = subprocess.run(
        [sys.executable, fuzz_guided.__file__, "--seconds", str(SECONDS)], capture_output=True, text=True, timeout=60 * len(TARGETS) + 600, check=False,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])["targets"]
    assert told.keys() == TARGETS.keys()
    assert not {name: one["findings"] for name, one in told.items() if one["findings"]}
    assert all(one["executions"] > 0 and one["edges"] >= one["seed_edges"] > 0 for one in told.values()), told
    assert done.returncode == 0
