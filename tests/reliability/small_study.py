"""A small study of every kind of work, where a run of it lies, and what it is doing, seen from outside."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loramem.core.files import TEMPORARY, read_json
from loramem.modules.store import MODULE_MARKER, READING_MARKER
from reliability.processes import Process, Start
from synthesis.server import Server
from tiny import make_checkpoint

PHASES = ("plan", "train", "save", "read", "judge", "score", "report")
"""What a run does, in order; `save` is a moment of `train` at which a module is being written."""
MARKERS = {"modules": MODULE_MARKER, "readings": READING_MARKER}
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
                "budget": {"exposures": 12, "snapshots": [2]},
                "optimizer": {"lr": 0.05, "batch": 2},
            },
            "contrasts": [{"modules.objective": {"name": "dcd"}, "modules.budget": {"steps": 21, "snapshots": [4]}}],
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

    def command(self, setting: Setting, *, rows: int = 2) -> list[str]:
        """By default with rows for one module at a time, so that some are finished while others have not begun."""
        places = ["--store", str(self.store), "--out", str(self.out)]
        return ["study", "run", str(setting.file), *places, "--rows", str(rows), "--offline"]

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
        """CPU seconds of a phase; of training and saving, of one module."""
        return self.cpu[phase] / (self.stages["train"] if phase in ("train", "save") else 1)


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


def reach(process: Process, watch: Watch, phase: str, cpu_seconds: float = 0.0, *, modules: int = 0) -> bool:
    """Wait until a run has spent so much CPU time in a phase, or has left it. False: it came to its end before.

    Args:
        modules: So many must be finished before the time counts.
    """
    entered = None
    while process.poll() is None:
        now = watch.phase()
        if entered is None and now == phase and len(watch.place.finished("modules")) >= modules:
            entered = process.cpu()
        if PHASES.index(now) > PHASES.index(phase) or (
            entered is not None and process.cpu() - entered >= cpu_seconds
        ):
            return True
        time.sleep(0.002)
    return False
