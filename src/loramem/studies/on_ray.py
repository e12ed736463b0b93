"""Workers on one machine or many, through Ray: each holds the base once and works beside a store that all can see.

The driver plans, hands out packs and keeps the books; modules and answers never pass through it, for workers write them to
the store, and a marker written last says that they are whole (`modules.store`). So a worker that dies costs what it had not
finished: what is left of its pack goes back to the front of the queue, and what killed three workers is given up by name.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from loramem import __version__
from loramem.answering.readings import ReadingTask
from loramem.base import load_base
from loramem.core.errors import InputError, LoramemError, RunFailed
from loramem.core.files import read_marker
from loramem.modules.store import READING_MARKER, Store
from loramem.studies.balance import Pack, Speeds, in_turn, reading_packs, training_packs
from loramem.studies.cells import ModulePlan
from loramem.studies.executors import FEWEST_READ
from loramem.studies.ray_worker import Fleet, Worker
from loramem.studies.work import Advanced, Event, Failed, Finished, Said, Tell, explain
from loramem.studies.workload import machine_of
from loramem.training.packing import DEFAULT_ROWS

DEATHS = 3
"""Workers that may die over a module or a reading before it is given up; after the second it is tried alone."""
POLL = 1.0
"""Seconds between two looks at workers that say nothing."""
SLOW_START = 60.0
"""Seconds without any worker after which the user is told what is waited for, again and again."""


class Cluster:
    """A Ray cluster, joined or started; leaving the block lets its workers go.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, fleet: Fleet):
        self.fleet = fleet
        self._crew: OnRay | None = None

    def __enter__(self) -> Cluster:
        self.ray = _ray(self.fleet.address)
        own = {} if self.fleet.address else {"include_dashboard": False}
        try:
            self.ray.init(
                address=self.fleet.address or "local", log_to_driver=False, logging_level="ERROR",
                namespace="loramem", **own,
            )  # fmt: skip
        except Exception as error:
            where = f"a cluster at {self.fleet.address}" if self.fleet.address else "a Ray of its own"
            raise InputError(
                f"--executor ray: {where} cannot be had: {explain(error)}; start one with `ray start --head` and give "
                "--address HOST:6379 (and its token: RAY_AUTH_TOKEN or ~/.ray/auth_token), or leave --address out"
            ) from None
        return self

    def __exit__(self, *reason: object) -> None:
        self.ray.shutdown()

    def crew(self, base: str, store: Store, *, rows: int = DEFAULT_ROWS) -> OnRay:
        """Workers on a base beside a store. Those of another make room for them: each holds one base."""
        crew = self._crew
        if crew is not None and crew.asked == (base, store.place, rows):
            return crew
        if crew is not None:
            crew.dismiss()
        self._crew = OnRay(self.ray, base, store, self.fleet, rows=rows)
        return self._crew


def _ray(address: str | None) -> ModuleType:
    """Ray, set up by its environment, which it reads when it is imported; what is set there already stays.

    Who reaches a cluster without a token may run anything on it. Ray makes one for a cluster of its own, `ray start` uses one that
    is there, and a driver that joins must be told to (Ray 2.60).
    """
    token = Path.home() / ".ray" / "auth_token"
    if address is None or token.exists() or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns at every start
    try:
        import ray
    except ImportError:
        raise InputError("--executor ray needs Ray: pip install 'loramem[ray]'") from None
    return ray


def sized(ray: ModuleType, fleet: Fleet) -> tuple[Fleet, int]:
    """The fleet with its open questions answered by what the cluster holds, and how many workers there are to be.

    Raises:
        InputError: no machine of the cluster holds one worker, or they ask for more in sum than there is.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    if fleet.gpus is None:
        fleet = replace(fleet, gpus=1.0 if total["GPU"] and fleet.device in (None, "auto", "cuda") else 0.0)
    wanted = {"CPU": fleet.cpus, "GPU": fleet.gpus or 0.0, "memory": (fleet.memory or 0.0) * 2**30}

    def fits(node: Mapping[str, float]) -> int:
        return min(int(node.get(name, 0.0) / need + 1e-9) for name, need in wanted.items() if need)

    room = sum(fits(node) for node in nodes)
    if room < max(1, fleet.workers or 1):
        held = ", ".join(
            f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {node.get('memory', 0) / 2**30:.0f} GiB"
            for node in nodes
        )
        raise InputError(
            f"--executor ray: {fleet.workers or 1} workers of {wanted['CPU']:g} CPU, {wanted['GPU']:g} GPU, {wanted['memory'] / 2**30:.0f} GiB each "
            f"do not fit this cluster, which holds {room} of them ({held}); lower --workers, --cpus, --gpus or --memory"
        )
    return fleet, fleet.workers or room


@dataclass
class _Seat:
    """A worker as the driver sees it: it starts until `ready` answers, and works while it has a `pack`."""

    number: int
    actor: Any
    ready: Any
    stream: Any = None
    pack: Pack | None = None
    left: set[str] = field(default_factory=set)
    open_amount: int = 0
    """Rows or probes told that belong to nothing finished yet."""
    began: float = 0.0


@dataclass(frozen=True)
class _Task:
    """What is handed out: modules or readings."""

    method: str
    items: Mapping[str, Any]
    sizes: Mapping[str, int]
    tell: Tell
    kept: Callable[[str], Mapping[str, float] | None]
    """Costs of what is in the store already."""


class OnRay:
    """An executor (`studies.executors.Executor`) whose workers Ray places and starts again.

    Raises:
        InputError: the cluster cannot hold the workers, or the base does not load there.
    """

    def __init__(self, ray: ModuleType, base: str, store: Store, fleet: Fleet, *, rows: int):
        self.ray, self.store, self.rows = ray, store, rows
        self.asked = (base, store.place, rows)
        self.fleet, count = sized(ray, fleet)
        options: dict[str, Any] = {
            "num_cpus": self.fleet.cpus, "num_gpus": self.fleet.gpus, "max_restarts": -1, "max_task_retries": 0,
        }  # fmt: skip
        if fleet.memory is not None:
            options["memory"] = int(fleet.memory * 2**30)
        made = ray.remote(Worker).options(**options)
        actors = [made.remote(base, store.place, self.fleet, rows) for _ in range(count)]
        self.seats = [_Seat(number, actor, actor.about.remote()) for number, actor in enumerate(actors)]
        self.deaths = 0
        about = self._first()
        self.base = load_base(base, dtype=about["precision"], offline=fleet.offline, weights=False)
        self.speeds = Speeds(machine_of(self.base, device="cuda" if self.fleet.gpus else "cpu"))
        own = {"fingerprint": self.base.fingerprint, "loramem": __version__}
        if differs := [key for key in own if own[key] != about[key]]:
            raise InputError(
                f"--executor ray: workers and this machine differ in {differs[0]}: {about[differs[0]]} there, {own[differs[0]]} here; "
                "install the same loramem and give every machine the same base"
            )
        self.about = about

    @property
    def label(self) -> str:
        each = f"{self.fleet.gpus:g} GPU" if self.fleet.gpus else f"{self.fleet.cpus:g} CPU"
        return f"ray: {len(self.seats)} workers of {each}"

    def dismiss(self) -> None:
        """End the workers."""
        for seat in self.seats:
            self.ray.kill(seat.actor)

    def train(self, modules: Sequence[ModulePlan], tell: Tell) -> None:
        jobs = [module.job for module in modules]
        packs = training_packs(jobs, workers=len(self.seats), rows=self.rows, speed=self.speeds)
        sizes = {job.key: job.steps * job.optimizer.batch for job in jobs}

        def kept(key: str) -> Mapping[str, float] | None:
            if not self.store.has_module(key):
                return None
            return read_marker(self.store.module_record(key) / "ledger.json")

        self._hand_out(packs, _Task("train", {module.id: module for module in modules}, sizes, tell, kept))

    def read(self, tasks: Mapping[str, ReadingTask], tell: Tell) -> None:
        at_once = max(FEWEST_READ, self.rows)
        packs = reading_packs(tasks, workers=len(self.seats), rows=at_once, speed=self.speeds)
        sizes = {key: len(task.probes) for key, task in tasks.items()}

        def kept(key: str) -> Mapping[str, float] | None:
            if not self.store.has_reading(key):
                return None
            return read_marker(self.store.reading_folder(key) / READING_MARKER)["ledger"]

        self._hand_out(packs, _Task("read", tasks, sizes, tell, kept))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        seat = self.seats[0]
        for _ in range(DEATHS):
            while not self._is_ready(seat):
                time.sleep(POLL)
            try:
                return self.ray.get(seat.actor.call.remote(function, arguments))
            except self.ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except self.ray.exceptions.RayError as error:
                died = error
                seat.ready = seat.actor.about.remote()
        raise RunFailed(f"a worker died {DEATHS} times over {function.__name__} (last: {_first_line(died)})")

    # -- handing out -----------------------------------------------------------------------------
    def _first(self) -> dict[str, str]:
        """Wait until a worker is there; what it is. Raises what kept it from starting."""
        waited = 0.0
        while True:
            ready, _ = self.ray.wait([seat.ready for seat in self.seats], timeout=SLOW_START)
            if ready:
                try:
                    return self.ray.get(ready[0])
                except self.ray.exceptions.RayTaskError as error:
                    raise _cause(error) from None
                except self.ray.exceptions.RayError as error:
                    raise RunFailed(f"no worker can start: {_first_line(error)}") from None
            waited += SLOW_START
            print(f"waiting for a worker ({waited:.0f} s): {self.label}", flush=True)

    def _hand_out(self, packs: Sequence[Pack], task: _Task) -> None:
        """Give every free worker the next pack until none is left; tell what happens."""
        waiting = deque(packs)
        again: deque[Pack] = deque()  # what a death left over goes first
        deaths: Counter[str] = Counter()
        while waiting or again or any(seat.pack is not None for seat in self.seats):
            for seat in self.seats:
                if (waiting or again) and seat.pack is None and self._is_ready(seat):
                    self._give(seat, (again or waiting).popleft(), task)
            watched = {
                seat.stream or seat.ready: seat for seat in self.seats if seat.pack or waiting or again
            }
            arrived, _ = self.ray.wait([*watched], timeout=POLL, fetch_local=False)
            for reference in arrived:
                seat = watched[reference]
                if seat.pack is None:
                    continue  # it has started: the next round gives it something
                try:
                    for event in self.ray.get(next(seat.stream)):
                        self._pass_on(seat, event, task)
                except StopIteration:
                    self.speeds = self.speeds.observe(seat.pack, time.monotonic() - seat.began)
                    seat.pack = seat.stream = None
                    waiting = deque(in_turn(map(self.speeds.priced, waiting)))
                except self.ray.exceptions.RayTaskError as error:
                    raise _cause(error) from None
                except self.ray.exceptions.RayError as error:
                    again.extend(self._lost(seat, task, deaths, error))

    def _is_ready(self, seat: _Seat) -> bool:
        """Whether a worker has started. Raises `RunFailed` when it never will, and none of the others has."""
        if not self.ray.wait([seat.ready], timeout=0)[0]:
            return False
        try:
            self.ray.get(seat.ready)
        except self.ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self.ray.exceptions.RayError as error:
            if isinstance(error, self.ray.exceptions.ActorDiedError):
                raise RunFailed(f"a worker cannot start again: {_first_line(error)}") from None
            seat.ready = seat.actor.about.remote()  # it died while it started: asked again
            return False
        return True

    def _give(self, seat: _Seat, pack: Pack, task: _Task) -> None:
        given = [task.items[key] for key in pack.keys]
        argument = given if task.method == "train" else dict(zip(pack.keys, given, strict=True))
        method = getattr(seat.actor, task.method)
        seat.pack, seat.left, seat.open_amount = pack, set(pack.keys), 0
        seat.began = time.monotonic()
        seat.stream = method.options(num_returns="streaming").remote(argument)

    def _pass_on(self, seat: _Seat, event: Event, task: _Task) -> None:
        match event:
            case Advanced(amount):
                seat.open_amount += amount
            case Finished(key):
                seat.left.discard(key)
                seat.open_amount -= task.sizes[key] - event.early_rows
            case Failed(key):
                seat.left.discard(key)
        task.tell(event)

    def _lost(self, seat: _Seat, task: _Task, deaths: Counter[str], error: Exception) -> list[Pack]:
        """A worker died over its pack: what of it is to be done again, and by itself where it was the second time."""
        assert seat.pack is not None
        pack, seat.pack, seat.stream = seat.pack, None, None
        seat.ready = seat.actor.about.remote()  # Ray starts it again, on this machine or another
        self.deaths += 1
        for key in sorted(seat.left):  # saved, and the telling was lost
            if (costs := task.kept(key)) is not None:
                self._pass_on(seat, Finished(key, costs, {}), task)
        task.tell(Advanced(-seat.open_amount, 0))
        again = []
        for key in (key for key in pack.keys if key in seat.left):
            deaths[key] += 1
            if deaths[key] >= DEATHS:
                task.tell(
                    Failed(key, f"{DEATHS} workers died while it was made (last: {_first_line(error)})")
                )
            else:
                again.append(key)
        what = "modules" if task.method == "train" else "readings"
        task.tell(
            Said(f"worker {seat.number} died ({_first_line(error)}); {len(again)} {what} are made again")
        )
        if again and max(deaths[key] for key in again) > 1:  # which of them is it?
            rest = [pack.without(set(pack.keys) - {key}) for key in again]
        else:
            rest = [pack.without(set(pack.keys) - set(again))]
        return [one for one in rest if one is not None]


def _cause(error: Exception) -> LoramemError:
    """What went wrong on a worker, as it would have been raised here."""
    cause = getattr(error, "cause", None) or error
    return cause if isinstance(cause, LoramemError) else RunFailed(f"on a worker: {explain(cause)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
