"""Who trains and reads what: packs of work for many workers, balanced by what packs were measured to cost.

The workers share one queue. A free worker takes the first waiting pack; a pack whose worker dies goes back to the front without
what it had finished. Packs stand largest first, so that the last to end are small, and none is larger than a part of a
worker's share and the later ones are smaller still, so that nobody waits long for the last one. `queueing.simulate` plays exactly
this, for plans that are too large to try.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from loramem.answering.readings import ReadingTask
from loramem.core.errors import InputError
from loramem.studies.workload import Item, Machine, reading_items, training_items
from loramem.training import TrainJob

PER_WORKER = 4
"""Packs for each worker, at least, where the work can be cut that small."""
TAPER = 16
"""So much smaller than the largest packs are the smallest that are cut on purpose: they even out how workers end."""


@dataclass(frozen=True)
class Pack:
    """Work that one worker does in one go.

    Attributes:
        kind: What it costs is learnt for all packs of a kind.
        items: In the order in which they are begun.
        at_once: Rows that are worked on side by side.
        ratio: Measured seconds over predicted ones.
    """

    kind: tuple
    items: tuple[Item, ...]
    at_once: int = 1
    ratio: float = 1.0

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(item.key for item in self.items)

    @property
    def rows(self) -> int:
        """Rows of its fullest step."""
        return min(self.at_once, sum(item.rows for item in self.items))

    @cached_property
    def _course(self) -> dict[str, float]:
        """Predicted seconds from its start to the end of each item, before `ratio`: every step takes all that are running one
        step further, and whoever is done leaves its rows to the next (as `training.loop` has it)."""
        waiting, running = deque(self.items), list[list]()
        ends: dict[str, float] = {}
        now, used = 0.0, 0
        while waiting or running:
            while waiting and (not running or used + waiting[0].rows <= self.at_once):
                item = waiting.popleft()
                running.append([item.steps, item])
                used += item.rows
            steps = min(left for left, _ in running)
            step = sum(item.seconds / item.steps for _, item in running)
            now += steps * max(step, *(item.floor for _, item in running))
            for entry in running:
                entry[0] -= steps
            for left, item in running:
                if left == 0:
                    ends[item.key] = now
                    used -= item.rows
            running = [entry for entry in running if entry[0]]
        return ends

    @property
    def work(self) -> float:
        """Predicted seconds, before anything was measured."""
        return max(self._course.values())

    @property
    def cost(self) -> float:
        """Predicted seconds."""
        return self.ratio * self.work

    def ends(self) -> dict[str, float]:
        """Predicted seconds from its start until each key is finished."""
        return {key: self.ratio * end for key, end in self._course.items()}

    def without(self, keys: Iterable[str]) -> Pack | None:
        """What is left of it when `keys` are finished; None: nothing."""
        gone = set(keys)
        left = tuple(item for item in self.items if item.key not in gone)
        return replace(self, items=left) if left else None


@dataclass(frozen=True)
class Speeds:
    """What work costs on these workers: predictions, corrected by what was measured.

    A kind that was seen costs what it cost, on average over all that was done of it; one that was not, what its stage
    (`train`, `read`) cost; before that, what anything cost. New values go into new packs (`priced` for those that wait).

    Attributes:
        seen: Per kind the seconds measured and those that had been predicted for the same work.
    """

    machine: Machine
    seen: Mapping[tuple, tuple[float, float]] = field(default_factory=dict)

    def ratio(self, kind: tuple) -> float:
        """Measured over predicted seconds of a kind; 1 where nothing is known."""
        stage = [pair for other, pair in self.seen.items() if other[:1] == kind[:1]]
        known = [self.seen[kind]] if kind in self.seen else stage or list(self.seen.values())
        work = sum(predicted for _, predicted in known)
        return sum(seconds for seconds, _ in known) / work if work else 1.0

    def measured(self, kind: tuple, work: float, seconds: float) -> Speeds:
        """With one more measurement: `work` predicted seconds took `seconds`."""
        if not (work > 0 and 0 < seconds < math.inf):
            return self  # nothing was done, or a clock was set: nothing is learnt
        before = self.seen.get(kind, (0.0, 0.0))
        return replace(self, seen={**self.seen, kind: (before[0] + seconds, before[1] + work)})

    def observe(self, pack: Pack, seconds: float) -> Speeds:
        """With a pack that was done in `seconds`."""
        return self.measured(pack.kind, pack.work, seconds)

    def priced(self, pack: Pack) -> Pack:
        """The same pack at what is known now."""
        return replace(pack, ratio=self.ratio(pack.kind))

    def probed(self, jobs: Sequence[TrainJob], seconds: float) -> Speeds:
        """With a probe that says how long `jobs` would train (`studies.estimates.estimate`); it counts as one module of them, so that
        what is measured later soon outweighs it."""
        work = sum(item.seconds for item in training_items(jobs, self.machine))
        return self.measured(("train", "probe"), work / max(1, len(jobs)), seconds / max(1, len(jobs)))

    def seeded(self, trained: Iterable[tuple[TrainJob, Mapping[str, float]]], *, rows: int) -> Speeds:
        """With modules that are in a store, each with its ledger.

        A ledger's seconds run from a module's first step to its last and are shared with all that trained beside it; how many
        these were it does not say. They are taken to be as many of its kind as `rows` hold, so this is a first guess and
        counts as one module of each kind.
        """
        by_kind: dict[tuple, list[tuple[Item, float]]] = defaultdict(list)
        for job, ledger in trained:
            (item,) = training_items([job], self.machine)
            by_kind[item.kind].append((item, float(ledger.get("seconds", 0.0))))
        found = self
        for kind, members in by_kind.items():
            abreast = max(1, min(len(members), rows // max(item.rows for item, _ in members)))
            seconds = sum(own for _, own in members) / abreast
            work = sum(item.seconds for item, _ in members)
            found = found.measured(kind, work / len(members), seconds / len(members))
        return found


# -- packs ---------------------------------------------------------------------------------------------------
def training_packs(
    jobs: Sequence[TrainJob], *, workers: int, rows: int, speed: Speeds, per_worker: int = PER_WORKER
) -> list[Pack]:
    """Jobs in packs, largest first: each job in one, modules of a kind side by side.

    A pack ends where it would take more than a worker's share of everything over `per_worker`, once its steps are filled (a
    step of few rows takes as long as one of more, so smaller packs would end no sooner). One worker gets each kind as
    one pack. What it finished is kept when a worker dies, so a large pack risks no more than what is running.

    Args:
        rows: Rows of a step.
    """
    return packs_of(
        training_items(jobs, speed.machine), workers=workers, rows=rows, speed=speed, per_worker=per_worker
    )


def reading_packs(
    tasks: Mapping[str, ReadingTask], *, workers: int, rows: int, speed: Speeds, per_worker: int = PER_WORKER
) -> list[Pack]:
    """Readings in packs, largest first: each in one; alike ones together, never two packs for one module's of a kind.

    Args:
        tasks: By the id of the reading.
        rows: Questions that are answered at once.
    """
    items = reading_items(tasks, speed.machine, rows=rows)
    return packs_of(items, workers=workers, rows=rows, speed=speed, per_worker=per_worker)


def packs_of(
    items: Sequence[Item], *, workers: int, rows: int, speed: Speeds, per_worker: int = PER_WORKER
) -> list[Pack]:
    """Items in packs, largest first; those of a kind are taken in the order given."""
    if workers < 1 or rows < 1 or per_worker < 1:
        raise InputError(
            f"workers {workers}, rows {rows}, packs per worker {per_worker}: give at least 1 of each"
        )
    by_kind: dict[tuple, list[Item]] = defaultdict(list)
    for item in items:
        by_kind[item.kind].append(item)
    works = {k: speed.ratio(k) * sum(item.seconds for item in members) for k, members in by_kind.items()}
    total = sum(works.values())
    largest = total / (workers * per_worker) if workers > 1 else math.inf
    cut: list[list[Item]] = []
    done = 0.0
    for kind in sorted(by_kind, key=lambda kind: (-works[kind], str(kind))):
        cut += _cut(by_kind[kind], rows, speed.ratio(kind), largest, done, total)
        done += works[kind]
    found = []
    for group in _joined(cut, rows):
        kinds = {item.kind for item in group}
        kind = group[0].kind if len(kinds) == 1 else (group[0].kind[0], *group[0].beside, "mixed")
        found.append(Pack(kind, tuple(group), rows, speed.ratio(kind)))
    return in_turn(found)


def in_turn(packs: Iterable[Pack]) -> list[Pack]:
    """The order of the queue: largest first."""
    return sorted(packs, key=lambda pack: (-pack.cost, pack.keys[0]))


def _cut(
    items: Sequence[Item], rows: int, ratio: float, largest: float, done: float, total: float
) -> list[list[Item]]:
    """Consecutive parts of at most `largest` seconds, and the smaller the more of all work is `done`; but never of unfilled
    steps while there are more to fill them."""
    parts: list[list[Item]] = []
    work, most = 0.0, largest
    for item in items:
        seconds = ratio * item.seconds
        here = parts[-1] if parts else None
        if here is None or not (
            work + seconds <= most
            or not _filled(here, rows)
            or (item.together and item.together == here[-1].together)
        ):
            done, work = done + work, 0.0
            most = largest * max(1 - done / total, 1 / TAPER)
            parts.append(here := [])
        here.append(item)
        work += seconds
    return parts


def _filled(items: Sequence[Item], rows: int) -> bool:
    """Whether more of the same beside them would make a step longer."""
    step, used = 0.0, 0
    for item in items:
        step, used = step + item.seconds / item.steps, used + item.rows
        if used >= rows or step >= item.floor:
            return True
    return False


def _joined(parts: Sequence[list[Item]], rows: int) -> list[list[Item]]:
    """The parts, those of unfilled steps joined with others that go through the same passes: together they take no longer."""
    found: list[list[Item]] = []
    open_: dict[tuple, list[Item]] = {}
    for part in parts:
        if _filled(part, rows):
            found.append(part)
            continue
        group = open_.get(part[0].beside)
        if group is None or _filled(group, rows):
            open_[part[0].beside] = group = []
            found.append(group)
        group.extend(part)
    return found
