"""Many studies in one go: the fifteen questions and the ablations, on one store, so that nothing is trained twice.

q01 and q03 read the grid that q02 trains, q10 and q11 the modules of q09, q13 to q15 those of q12: the store finds them. A study
that fails as a whole is noted and the others go on.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loramem.core.errors import Faults, InputError, LoramemError, nearest
from loramem.core.files import write_json
from loramem.studies import spec
from loramem.studies.execute import explain
from loramem.studies.grid import parse_assignment, resolve
from loramem.studies.progress import clock
from loramem.studies.run import prepare_out
from loramem.studies.spec import Study

FIRST = ("q02",)
"""Run before the others: its grid is what q01 and q03 read, and its sweeps choose their rates."""
LAST = ("ablation",)
STATUS = "series.json"


def members() -> list[str]:
    """Names of the studies of a series, in the order they are run in."""
    numbered = [name for name in spec.shipped() if re.fullmatch(r"q\d\d", name)]
    return [*FIRST, *(name for name in numbered if name not in FIRST), *LAST]


def load_all(
    *, scale: str, assignments: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> dict[str, Study]:
    """Every study of the series, checked before anything is spent.

    Args:
        assignments: `PATH=VALUE` strings; each goes to the studies that have the path.

    Raises:
        Faults: what is wrong with any of them, or a path that no study has.
    """
    found: dict[str, Study] = {}
    faults: list[str] = []
    used: set[str] = set()
    paths = {text: parse_assignment(text)[0] for text in assignments}
    for name in members():
        body = resolve(spec.read_document(name), scale, ())
        own = [text for text, path in paths.items() if has_path(body, path)]
        used.update(own)
        try:
            found[name] = spec.load(name, scale=scale, assignments=own, overrides=overrides)
        except LoramemError as error:
            faults += [
                f"{name}: {fault}" for fault in (error.faults if isinstance(error, Faults) else [error])
            ]
    for text, path in paths.items():
        if text not in used:
            top = sorted({key for study in found.values() for key in study.body})
            faults.append(f"--set {text!r}: no study has {path}; {nearest(path.partition('.')[0], top)}")
    if faults:
        raise Faults(faults)
    return found


def has_path(body: Mapping[str, Any], path: str) -> bool:
    """Whether a study has the settings that a path names, or those it would be added to.

    >>> body = {"modules": {"spec": {"rank": [1]}}, "sources": {"papers": {}}}
    >>> has_path(body, "modules.spec.alpha"), has_path(body, "sources.phonebook.seed"), has_path(body, "judge.model")
    (True, False, False)
    """
    *parents, last = path.split(".")
    node: Any = body
    for key in parents:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return bool(parents) and isinstance(node, Mapping) or last in body


@dataclass
class Status:
    """How far a series has come; RUN/series.json.

    Attributes:
        studies: One entry per study in order: study, state (`done`, `failed`, `waiting`), error, seconds.
    """

    scale: str
    command: str
    studies: list[dict] = field(default_factory=list)

    def save(self, out: Path) -> None:
        write_json(out / STATUS, {"scale": self.scale, "command": self.command, "studies": self.studies})


def run_series(
    studies: Mapping[str, Study],
    run: Callable[[Study, Path], Any],
    out: Path,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Status:
    """Run every study into OUT/NAME; after each, OUT/series.json says how far it came.

    Args:
        run: Runs one study into a folder; gives its result, whose `failures` are cells without one.

    Raises:
        InputError: `out` cannot be written. KeyboardInterrupt ends the series with what is finished kept.
    """
    try:
        prepare_out(out)
    except InputError as error:
        raise InputError(str(error)) from None
    scale = next(iter(studies.values())).scale
    status = Status(
        scale, command, [{"study": name, "state": "waiting", "error": "", "seconds": 0.0} for name in studies]
    )
    status.save(out)
    began = time.perf_counter()
    for number, (name, study) in enumerate(studies.items(), start=1):
        entry = status.studies[number - 1]
        say(f"== {number} of {len(studies)}: {name}, {clock(time.perf_counter() - began)} so far")
        start = time.perf_counter()
        try:
            result = run(study, out / name)
        except Exception as error:
            entry.update(state="failed", error=explain(error))
            say(f"{name} failed: {explain(error)}")
            if not isinstance(error, LoramemError):  # ours are told in a line; of others the place is wanted
                (out / name).mkdir(parents=True, exist_ok=True)
                (out / name / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        else:
            entry.update(state="done", holes=len(result.failures))
        entry["seconds"] = round(time.perf_counter() - start, 3)
        status.save(out)
    return status
