"""Kills a study at random moments, starts it again, and compares how it ends with a run that nobody disturbed.

As a program it prints one line of JSON with what it did: `python tests/reliability/killing.py --kills 50`, with the folder
`tests` on PYTHONPATH. It raises `AssertionError` where a promise is broken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from loramem.core.files import TEMPORARY, read_json, read_jsonl
from loramem.modules.store import MODULE_MARKER, READING_MARKER, Store
from loramem.modules.store_check import check_store
from reliability.processes import Forked, Process, Start, fresh
from synthesis.server import Server
from tiny import make_checkpoint

PHASES = ("plan", "train", "save", "read", "judge", "score", "report")
"""What a run does, in order; `save` is a moment of `train` at which a module is being written."""
MARKERS = {"modules": MODULE_MARKER, "readings": READING_MARKER}
TIMES = ("seconds", "seconds_since_previous", "files", "teacher_tokens")
"""What may differ between two runs: times, hashes of files that hold times, and who of those that share a teacher's cached
states paid for them."""
CONCURRENCY = 4
"""Questions that the judge is asked at once: so many answers may be lost by a kill."""


@dataclass(frozen=True)
class Setting:
    """A small study of every kind of work, its base and its judge.

    Attributes:
        file: The study file.
        asked: The prompts that the judge has been asked so far.
    """

    file: Path
    asked: Sequence[str]


@contextmanager
def setting(folder: Path) -> Iterator[Setting]:
    """A study that trains (two objectives, different steps, snapshots, a teacher whose states are cached), draws random modules,
    routes, merges and has its answers judged at an endpoint, whose replies are cached."""
    folder.mkdir(parents=True, exist_ok=True)
    base = make_checkpoint("llama", folder / "base")
    with Server(_points) as server:
        body = {
            "study": "killed",
            "question": "Does it end in the same results?",
            "base": str(base),
            "sources": {"papers": {"name": "almanac-papers", "documents": 2, "questions": 1, "seed": 10}},
            "supervision": {"recipe": "qa:5"},
            "partition": "document",
            "modules": {
                "spec": {"rank": 2, "targets": "attention"},
                "budget": {"exposures": 6, "snapshots": [2]},
                "optimizer": {"lr": 0.05, "batch": 2},
            },
            "contrasts": [{"modules.objective": {"name": "dcd"}, "modules.budget": {"steps": 9, "snapshots": [4]}}],
            "seeds": 1,
            "readings": [
                "closed", "module", "random-module", {"reading": "routed", "router": "bm25"},
                {"reading": "merged", "router": "oracle", "top_k": 2, "rule": "cat"},
            ],
            "metrics": ["exact_match", "answer_nll", "judge"],
            "judge": {"model": "m", "url": server.url, "endpoint": {"concurrency": CONCURRENCY}},
        }  # fmt: skip
        file = folder / "killed.yaml"
        file.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
        yield Setting(file, _Asked(server))


class _Asked(Sequence[str]):
    """The last turn of each request to a server, as it grows."""

    def __init__(self, server: Server):
        self._server = server

    def __getitem__(self, index):
        return self._server.asked[index]

    def __len__(self) -> int:
        return len(self._server.requests)


def _points(body: Mapping[str, Any]) -> str:
    """A judgement that depends on what is judged, and on nothing else."""
    said = body["messages"][-1]["content"].encode()
    return json.dumps({"reason": "so it is", "score": hashlib.sha256(said).digest()[0] % 11})


@dataclass
class Place:
    """A store, a run folder, and what was seen of them.

    Attributes:
        folder: Holds both, and what the processes wrote to their terminals.
        run: Name of the run folder.
    """

    folder: Path
    run: str = "out"

    def __post_init__(self) -> None:
        self.store, self.out = self.folder / "store", self.folder / self.run
        self.log = self.out / "log.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self, setting: Setting) -> list[str]:
        """Rows for two modules at a time: some are finished while others have not begun."""
        places = ["--store", str(self.store), "--out", str(self.out)]
        return ["study", "run", str(setting.file), *places, "--rows", "4", "--offline"]

    def finished(self, kind: str) -> dict[str, Path]:
        """Whole modules or readings by their ids."""
        root = self.store / kind
        folders = sorted(root.iterdir()) if root.exists() else []
        whole = [
            path
            for path in folders
            if not path.name.startswith(TEMPORARY) and (path / MARKERS[kind]).exists()
        ]
        return {path.name: path for path in whole}

    def trained(self) -> set[str]:
        """Ids of whole modules that were trained: those that are drawn are not counted by the log."""
        found = self.finished("modules")
        return {
            id for id, path in found.items() if read_json(path / MODULE_MARKER)["recipe"]["type"] == "trained"
        }

    def temporaries(self) -> list[Path]:
        return [path for path in self.folder.rglob(f"{TEMPORARY}*")]


class Watch:
    """Tells from outside what a run is doing: by its log, and by what lies in its store."""

    def __init__(self, place: Place):
        self.place = place
        self._from = place.log.stat().st_size if place.log.exists() else 0
        self._size = -1
        self._summary = self._stamp()
        self._seen = "plan"
        self.stages: dict[str, int] = {}

    def _stamp(self) -> int:
        try:
            return (self.place.out / "summary.json").stat().st_ino
        except OSError:
            return 0

    def phase(self) -> str:
        """What the run is doing, as far as one can see."""
        try:
            size = self.place.log.stat().st_size
        except OSError:
            return "plan"
        if size != self._size:
            self._size = size
            self._read()
        if self._seen == "train" and any(self.place.store.glob(f"modules/{TEMPORARY}*")):
            return "save"
        if self._seen == "score" and self._stamp() != self._summary:
            self._seen = "report"
        return self._seen

    def _read(self) -> None:
        with open(self.place.log, "rb") as file:
            file.seek(self._from)
            lines = file.read().split(b"\n")
        seen = "plan"
        for line in lines[:-1]:
            row = json.loads(line)
            if row["event"] == "stage-start":
                seen = row["stage"]
                self.stages[seen] = row["things"]
            elif row.get("text") == "scoring":
                seen = "score"
        if PHASES.index(seen) > PHASES.index(self._seen):
            self._seen = seen


@dataclass
class Undisturbed:
    """A run that went through, and what others are compared with.

    Attributes:
        cpu: CPU seconds of each phase.
        stages: How many things each stage had to do.
        seconds: Of the whole run, by the clock on the wall.
    """

    place: Place
    cpu: dict[str, float]
    stages: dict[str, int]
    seconds: float

    def lasts(self, phase: str) -> float:
        """CPU seconds of a phase; a module is saved in a moment."""
        return self.cpu[phase] / (self.stages["train"] if phase == "save" else 1)


def undisturbed(setting: Setting, folder: Path, start: Start) -> Undisturbed:
    """Run the study once through."""
    place, began = Place(folder), time.monotonic()
    process, watch, cpu = start(place.command(setting), folder), Watch(place), dict.fromkeys(PHASES, 0.0)
    last = 0.0
    while process.poll() is None:
        phase, now = watch.phase(), process.cpu()
        cpu[phase] += now - last
        last = now
        time.sleep(0.002)
    assert process.code == 0, process.output + process.errors
    assert not process.errors and not place.temporaries(), process.errors
    return Undisturbed(place, cpu, watch.stages, time.monotonic() - began)


# -- what must hold --------------------------------------------------------------------------------------------
Stamp = tuple[int, tuple[tuple[str, int, int, int], ...]]


def stamps(place: Place) -> dict[str, Stamp]:
    """Identity of every finished folder and file: whoever wrote one again would have another. Scores are made anew by each run."""
    found = {}
    for kind in MARKERS:
        for id, folder in place.finished(kind).items():
            files = sorted(
                path for path in folder.rglob("*") if path.is_file() and path.parent.name != "scores"
            )
            kept = tuple(
                (str(path.relative_to(folder)), (one := path.stat()).st_ino, one.st_mtime_ns, one.st_size)
                for path in files
            )
            found[f"{kind}/{id}"] = (folder.stat().st_ino, kept)
    return found


def check_whole(place: Place) -> None:
    """Every folder that says it is finished loads and holds, byte for byte, what was put into it; so do caches."""
    faults = check_store(place.store, deep=True).faults
    torn = [
        fault
        for fault in faults
        if fault.path.is_file() or any((fault.path / name).exists() for name in MARKERS.values())
    ]
    assert not torn, torn
    store = Store(place.store, look=True)
    for id, folder in place.finished("modules").items():
        steps = [path.name for path in (folder / "snapshots").glob("*")]
        for one in (store.module(id), *(store.module(f"{id}@{step}") for step in steps)):
            spec, tensors = one.load()
            assert spec.rank == 2 and tensors, id
    for id, folder in place.finished("readings").items():
        said = read_jsonl(folder / "predictions.jsonl")
        assert len(said) == read_json(folder / READING_MARKER)["ledger"]["probes"] > 0, id


def without_times(value: Any) -> Any:
    """JSON without what says how long something took."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """What a file of a store holds, times aside."""
    if path.suffix == ".json":
        return without_times(read_json(path))
    return path.read_bytes()


def files(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def check_same(place: Place, wanted: Place) -> None:
    """Everything two runs kept is equal but for times: weights, predictions, scores, caches, results, tables, figures."""
    assert not place.temporaries()
    mine, theirs = files(place.store), files(wanted.store)
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    differ = [name for name, path in mine.items() if content(path) != content(theirs[name])]
    assert not differ, differ
    mine, theirs = files(place.out), files(wanted.out)
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    for name, path in mine.items():
        if path.suffix == ".parquet":
            pd.testing.assert_frame_equal(
                pd.read_parquet(path), pd.read_parquet(theirs[name]), check_exact=True
            )
        elif name not in ("log.jsonl", "costs.json", "environment.json", "report.html"):
            assert path.read_bytes() == theirs[name].read_bytes(), name


def check_not_again(place: Place, watch: Watch, plain: Undisturbed, trained: int, read: int) -> None:
    """What an attempt set out to do is what was missing when it began."""
    for stage, done in (("train", trained), ("read", read)):
        assert watch.stages.get(stage, 0) in (0, plain.stages[stage] - done), (stage, watch.stages, done)


# -- killing ---------------------------------------------------------------------------------------------------
@dataclass
class Account:
    """What was done to a study, for the record.

    Attributes:
        by_phase: Kills by what the run was doing.
        amid_a_write: Kills that left something half written, which must then be gone at the end.
        modules, readings: How many each attempt finished.
        asked_again: Questions that the judge had to be asked again: those under way when a run was killed.
    """

    launch: str
    seed: int
    kills: int = 0
    attempts: int = 0
    rounds: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    amid_a_write: int = 0
    modules: list[int] = field(default_factory=list)
    readings: list[int] = field(default_factory=list)
    asked_again: int = 0
    undisturbed_seconds: float = 0.0
    seconds: float = 0.0

    def line(self) -> str:
        return json.dumps(
            {
                **self.__dict__,
                "by_phase": {phase: self.by_phase[phase] for phase in PHASES},
                "undisturbed_seconds": round(self.undisturbed_seconds, 1),
                "seconds": round(self.seconds, 1),
            }
        )


def reach(process: Process, watch: Watch, phase: str, cpu_seconds: float = 0.0) -> bool:
    """Wait until a run has spent so much CPU time in a phase, or has left it. False: it came to its end before."""
    entered = None
    while process.poll() is None:
        now = watch.phase()
        if now == phase and entered is None:
            entered = process.cpu()
        if PHASES.index(now) > PHASES.index(phase) or (
            entered is not None and process.cpu() - entered >= cpu_seconds
        ):
            return True
        time.sleep(0.002)
    return False


def kill_at(process: Process, watch: Watch, phase: str, cpu_seconds: float) -> str | None:
    """SIGKILL a run at a moment (`reach`). Returns what it was doing; None where it came to its end before."""
    if reach(process, watch, phase, cpu_seconds):
        process.send(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            return watch.phase()
    return None


def plant_torn(place: Place, wanted: Place) -> None:
    """Leave what a crash of the machine may leave: a module and a reading without their markers, half written."""
    for kind, name in (("modules", "adapter_model.safetensors"), ("readings", "predictions.jsonl")):
        id, whole = next(iter(wanted.finished(kind).items()))
        torn = place.store / kind / id
        torn.mkdir(parents=True)
        (torn / name).write_bytes((whole / name).read_bytes()[:100])


def rounds(rng: random.Random, kills: int, each: int) -> Iterator[list[str]]:
    """Phases to kill in, in the order in which a run comes to them; every phase is as likely as any other."""
    while kills > 0:
        count = min(each, kills)
        yield sorted(rng.choices(PHASES, k=count), key=PHASES.index)
        kills -= count


def kill_again_and_again(
    setting: Setting,
    plain: Undisturbed,
    folder: Path,
    start: Start,
    plans: Sequence[Sequence[str]],
    *,
    seed: int,
    launch: str,
    note: Callable[[str], None] = lambda text: None,
) -> Account:
    """In each round kill one run of the study in every phase of a plan, then let it end, and compare.

    Raises:
        AssertionError: a torn folder is read, something is done twice, or results differ.
    """
    rng, account, began = (
        random.Random(seed),
        Account(launch, seed, undisturbed_seconds=plain.seconds),
        time.monotonic(),
    )
    for number, plan in enumerate(plans):
        place = Place(folder / f"round-{number}")
        plant_torn(place, plain.place)
        asked, judged = len(setting.asked), 0
        for phase in (*plan, None):
            account.attempts += 1
            before, trained, read = stamps(place), place.trained(), place.finished("readings")
            process, watch = start(place.command(setting), place.folder), Watch(place)
            if phase is None:
                killed = None
                assert process.wait() == 0, process.output + process.errors
                watch.phase()
            else:
                killed = kill_at(process, watch, phase, rng.random() * plain.lasts(phase))
            assert process.code == (0 if killed is None else -signal.SIGKILL), process.output + process.errors
            assert not process.errors, process.errors
            if killed is not None:
                account.kills += 1
                account.by_phase[killed] += 1
                account.amid_a_write += bool(place.temporaries())
                judged += killed == "judge"
            after = stamps(place)
            assert before.items() <= after.items(), "something finished was made again or taken away"
            check_not_again(place, watch, plain, len(trained), len(read))
            check_whole(place)
            account.modules.append(len(place.trained() - trained))
            account.readings.append(len(place.finished("readings").keys() - read.keys()))
            note(f"attempt {account.attempts}: {killed or 'went through'}")
        again = len(setting.asked) - asked - len(set(setting.asked[asked:]))
        assert again <= CONCURRENCY * judged, (again, judged)
        account.asked_again += again
        check_same(place, plain.place)
        account.rounds += 1
        shutil.rmtree(place.folder)
    account.seconds = time.monotonic() - began
    return account


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill a study and print the account as one line of JSON."""
    parser = argparse.ArgumentParser(
        description="Kill a study at random moments, restart it, compare how it ends."
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=7, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forked", action="store_true", help="copy a process that has imported everything")
    given = parser.parse_args(arguments)
    plans = list(rounds(random.Random(given.seed), given.kills, given.each))
    with tempfile.TemporaryDirectory() as name, setting(Path(name) / "setting") as one:
        folder = Path(name)

        def run(start: Start, launch: str) -> Account:
            plain = undisturbed(one, folder / "undisturbed", start)
            return kill_again_and_again(
                one,
                plain,
                folder,
                start,
                plans,
                seed=given.seed,
                launch=launch,
                note=lambda text: print(text, file=sys.stderr),
            )

        if given.forked:
            with Forked() as forked:
                account = run(forked, "forked")
        else:
            account = run(fresh, "fresh")
    print(account.line())


if __name__ == "__main__":
    main()
