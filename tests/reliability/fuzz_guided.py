"""Fuzzing that looks at what it reaches: inputs that come to new code are kept and changed further (atheris, libFuzzer).

    python tests/reliability/fuzz_guided.py --seconds 60 [TARGET ...]

Tries every target of `targets.py` (or those named) for so many seconds and ends in one JSON line: per target the inputs that were
tried, the edges of our code that seeds and all inputs came to, and the findings: errors that are not ours with the place and the input
that raised them, inputs that took more than `MOST_SECONDS` or `MOST_MEMORY_MB`. Exit code 1 where there is a finding. Needs
the extra `fuzz`: pip install 'loramem[fuzz]'.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
MOST_SECONDS = 10
MOST_MEMORY_MB = 6_000
MOST_BYTES = 8_192
"""Of an input; what needs more is in the corpus of bad input."""
SHOWN_BYTES = 400
FINDINGS = "findings.jsonl"


@dataclass
class Result:
    """What fuzzing one target came to.

    Attributes:
        executions: Inputs that were tried.
        seed_edges, edges: Edges of instrumented code that the seeds, and all inputs, came to.
        kept: Inputs that came to something new.
        findings: Error, place and input of each finding, each place once.
    """

    executions: int = 0
    seed_edges: int = 0
    edges: int = 0
    kept: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)


def place_of(error: BaseException) -> str:
    """Where in our code an error was raised: the innermost frame of the package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "loramem" in Path(frame.filename).parts] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def read_result(log: str, folder: Path) -> Result:
    """The figures of libFuzzer's own words and of the findings kept beside them."""
    result = Result()
    for line in log.splitlines():
        told = re.match(r"#(\d+)\s+(\w+)\s+cov: (\d+) ft: \d+ corp: (\d+)", line)
        if told:
            result.executions, result.edges, result.kept = int(told[1]), int(told[3]), int(told[4])
            if told[2] == "INITED":
                result.seed_edges = int(told[3])
    if (folder / FINDINGS).exists():
        lines = (folder / FINDINGS).read_text(encoding="utf-8").splitlines()
        result.findings += [json.loads(line) for line in lines]
    for path in sorted(
        folder.glob("stopped-*")
    ):  # what the library itself stopped: too long, too much memory
        kind = path.name.split("-")[1]
        result.findings.append({"error": kind, "where": "?", "input": shown(path.read_bytes())})
    return result


def shown(data: bytes) -> str:
    return data[:SHOWN_BYTES].decode("utf-8", "backslashreplace")


def fuzz(name: str, seconds: int, folder: Path, runs: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    from reliability.targets import TARGETS, attempt

    work, seeds = folder / "work", folder / "seeds"
    work.mkdir()
    seeds.mkdir()
    for number, seed in enumerate(TARGETS[name].seeds):
        (seeds / str(number)).write_bytes(seed)
    places: set[str] = set()

    def one(data: bytes) -> None:
        try:
            attempt(name, data, work)
        except Exception as error:  # told at once, for the process ends without coming back here
            where = f"{type(error).__name__} at {place_of(error)}"
            if where not in places:
                places.add(where)
                found = {
                    "error": f"{type(error).__name__}: {str(error)[:200]}",
                    "where": place_of(error),
                    "input": shown(data),
                }
                with open(folder / FINDINGS, "a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(json.dumps(found) + "\n")

    options = {
        "max_total_time": seconds, "runs": runs, "timeout": MOST_SECONDS, "rss_limit_mb": MOST_MEMORY_MB, "max_len": MOST_BYTES, "artifact_prefix": f"{folder}/stopped-",
    }  # fmt: skip
    atheris.Setup([name, *(f"-{key}={value}" for key, value in options.items()), str(seeds)], one)
    atheris.Fuzz()


def in_a_copy(name: str, seconds: int, folder: Path, *, runs: int = -1) -> Result:
    """Fuzz one target in a copy of this process, for the library never returns; at most `runs` inputs (-1: any number)."""
    folder.mkdir()
    log = folder / "log"
    pid = os.fork()
    if pid == 0:
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            fuzz(name, seconds, folder, runs)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    return read_result(log.read_text(encoding="utf-8", errors="replace"), folder)


def run(names: Sequence[str], seconds: int) -> dict[str, Result]:
    """Fuzz targets one after another; none named: all."""
    import atheris

    with atheris.instrument_imports(include=["loramem", "yaml"], enable_loader_override=False):
        from reliability.targets import TARGETS
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise SystemExit(f"no target {unknown[0]!r}; there are: {', '.join(TARGETS)}")
    found = {}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for name in names or list(TARGETS):
            found[name] = in_a_copy(name, seconds, folder / name)
            one = found[name]
            print(
                f"{name:24} {one.executions:>9,} tried, {one.seed_edges} -> {one.edges} edges, {len(one.findings)} findings",
                file=sys.stderr,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    given = parser.parse_args()
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "src")]
    found = run(given.targets, given.seconds)
    print(
        json.dumps({"seconds": given.seconds, "targets": {name: asdict(one) for name, one in found.items()}})
    )
    sys.exit(any(one.findings for one in found.values()))


if __name__ == "__main__":
    main()
