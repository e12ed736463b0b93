"""Many studies in one go: the fifteen questions and the ablations, on one store, so that nothing is trained twice.

q01 and q03 read the grid that q02 trains, q10 and q11 the modules of q09, q13 to q15 those of q12: the store finds them. A study
that fails as a whole is noted and the others go on.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loramem.core.errors import Faults, InputError, LoramemError, nearest
from loramem.core.files import write_json, write_text
from loramem.core.secrets import masked
from loramem.core.shown import told
from loramem.core.storage import fatal
from loramem.studies import spec
from loramem.studies.grid import parse_assignment, resolve
from loramem.studies.progress import clock
from loramem.studies.run_folder import prepare_out
from loramem.studies.spec import Study
from loramem.studies.work import explain

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
        Faults: what is wrong with any of them, each fault once with the studies that have it, and paths that no study has.
    """
    found: dict[str, Study] = {}
    faults: dict[str, list[str]] = {}
    wanted: dict[str, str] = {}

    def fault(name: str, error: LoramemError) -> None:
        for text in error.faults if isinstance(error, Faults) else [str(error)]:
            faults.setdefault(text, []).append(name)

    for text in assignments:
        try:
            wanted[text] = parse_assignment(text)[0]
        except InputError as error:
            fault("", error)
    paths: dict[str, None] = {}
    used: set[str] = set()
    for name in members():
        try:
            body = resolve(spec.read_document(name), scale, ())
            own = [text for text, path in wanted.items() if has_path(body, path)]
            paths |= dict.fromkeys(paths_of(body))
            used.update(own)
            found[name] = spec.load(name, scale=scale, assignments=own, overrides=overrides)
        except LoramemError as error:
            fault(name, error)
    for text, path in wanted.items():
        if text not in used:
            fault("", InputError(f"--set {text!r}: no study has {path}; {_nearest_path(path, paths)}"))
    if faults:
        raise Faults(
            [f"{', '.join(names)}: {text}" if any(names) else text for text, names in faults.items()]
        )
    return found


EXCLUSIVE = ("modules.budget",)
"""Settings that stand in place of each other: steps are not added to a study that counts exposures."""


def has_path(body: Mapping[str, Any], path: str) -> bool:
    """Whether a study has the setting that a path names, or the settings that it would be added to.

    >>> body = {"modules": {"spec": {"rank": [1]}, "budget": {"steps": 9}}, "sources": {"papers": {}}}
    >>> has_path(body, "modules.spec.alpha"), has_path(body, "sources.phonebook.seed"), has_path(body, "judge.model")
    (True, False, False)
    >>> has_path(body, "modules.budget.steps"), has_path(body, "modules.budget.exposures"), has_path(body, "seeds")
    (True, False, False)
    """
    parent, _, last = path.rpartition(".")
    node: Any = body
    for key in parent.split(".") if parent else ():
        node = node.get(key) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return False
    return last in node or (bool(parent) and parent not in EXCLUSIVE)


def paths_of(tree: Mapping[str, Any], before: str = "") -> list[str]:
    """Every path of nested settings.

    >>> paths_of({"seeds": 1, "modules": {"spec": {"rank": 4}}})
    ['seeds', 'modules', 'modules.spec', 'modules.spec.rank']
    """
    found: list[str] = []
    for key, value in tree.items():
        found.append(f"{before}{key}")
        if isinstance(value, Mapping):
            found += paths_of(value, f"{before}{key}.")
    return found


def _nearest_path(path: str, paths: Iterable[str]) -> str:
    """Below what is known of a path what it could have been."""
    known = set(paths)
    parent = path.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    return nearest(path, [one for one in known if one.rpartition(".")[0] == parent])


@dataclass
class Status:
    """How far a series has come; RUN/series.json.

    Attributes:
        studies: One entry per study in order: study, question, state (`waiting`, `done`, `failed`, `stopped`), error, seconds.
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
    foresee: Callable[[], Sequence[float | None]] | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Status:
    """Run every study into OUT/NAME; after each, OUT/series.json says how far it came.

    Args:
        run: Runs one study into a folder; gives its result, whose `failures` are cells without one.
        foresee: Tells what each study should take beside the others (`studies.estimates.foresee`), in any unit.
        say: Shows one line per study: its number, time so far, and what is left where all that comes is foreseen.

    Raises:
        InputError: `out` cannot be written.
        StorageFailed: nothing can be kept any more. This and KeyboardInterrupt end the series with what is finished kept.
    """
    prepare_out(out)
    command = masked(command)
    scale = next(iter(studies.values())).scale
    status = Status(
        scale,
        command,
        [
            {"study": name, "question": study.file.question, "state": "waiting", "error": "", "seconds": 0.0}
            for name, study in studies.items()
        ],
    )
    status.save(out)
    began = time.perf_counter()
    expected: Sequence[float | None] = [None] * len(studies)
    if foresee is not None:
        say(f"planning {len(studies)} studies")
        with suppress(LoramemError):  # of a base that does not load: each study tells it in its turn
            expected = foresee()
    for number, (name, study) in enumerate(studies.items(), start=1):
        entry = status.studies[number - 1]
        spent = time.perf_counter() - began
        left = time_left(spent, expected[: number - 1], expected[number - 1 :])
        told_left = "" if left is None else f", about {clock(left)} left"
        say(f"== {number} of {len(studies)}: {name}, {clock(spent)} so far{told_left}")
        start = time.perf_counter()
        try:
            result = run(study, out / name)
        except KeyboardInterrupt:
            entry.update(state="stopped", seconds=round(time.perf_counter() - start, 3))
            status.save(out)
            raise
        except Exception as error:
            ended = fatal(error, out / name)
            entry.update(state="failed", error=explain(ended or error))
            if ended is not None:  # so would every study after it
                with suppress(OSError):
                    status.save(out)
                raise ended from (None if ended is error else error)
            say(f"{name} failed: {explain(error)}")
            if not isinstance(error, LoramemError):  # ours are told in a line; of others the place is wanted
                write_text(out / name / "error.txt", told(traceback.format_exc()))
        else:
            (out / name / "error.txt").unlink(missing_ok=True)  # of an earlier try
            entry.update(state="done", holes=len(result.failures))
        entry["seconds"] = round(time.perf_counter() - start, 3)
        status.save(out)
    return status


def time_left(spent: float, done: Sequence[float | None], rest: Sequence[float | None]) -> float | None:
    """Seconds left at the pace of what is done; None where that cannot be said.

    >>> time_left(60.0, [10.0, 20.0], [5.0, 10.0])
    30.0
    >>> time_left(60.0, [10.0], [5.0, None]) is None, time_left(0.0, [], [5.0]) is None
    (True, True)
    """
    before, after = ([one for one in part if one is not None] for part in (done, rest))
    if len(before) < len(done) or len(after) < len(rest) or not sum(before):
        return None
    return spent * sum(after) / sum(before)
