"""What a Ray worker is: one resident base beside the store, whose work is a stream of events (`studies.work`)."""

from __future__ import annotations

import math
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any

import torch

from loramem import __version__
from loramem.answering.readings import ReadingTask
from loramem.base import Base, load_base
from loramem.core.errors import InputError
from loramem.modules.store import Store
from loramem.studies.cells import ModulePlan
from loramem.studies.executors import FEWEST_READ
from loramem.studies.work import Advanced, Event, Tell, read_here, train_here

_ADDRESS = re.compile(r"auto|[^\s/:]+:[0-9]{1,5}")
TOLD_EVERY = 0.5
"""Seconds between two tellings of how far it is; what is finished is told at once."""


@dataclass(frozen=True)
class Fleet:
    """What workers are asked of Ray, and how each loads its base.

    Attributes:
        address: HOST:PORT or `auto` of a cluster started by `ray start --head`; None: a Ray of its own on this machine.
        workers: How many; None: as many as the cluster holds.
        gpus: GPUs of each; None: one where the cluster has any.
        cpus: CPU cores of each, which are its threads.
        memory: GiB of each that Ray sets aside; None: not counted.
        device, dtype, offline: As `load_base` takes them, on the worker.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    cpus: float = 1.0
    memory: float | None = None
    device: str | None = None
    dtype: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if self.address is not None and not _ADDRESS.fullmatch(self.address):
            raise InputError(
                f"--address {self.address!r}: give HOST:PORT of the head (e.g. 10.0.0.1:6379) or auto"
            )
        for name, least in (("workers", 1), ("gpus", 0.0), ("cpus", 0.01), ("memory", 0.01)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise InputError(f"--{name} {value}: give at least {least}")


class Worker:
    """One resident base beside the store; a Ray actor. Its work is a stream of events (`studies.work`)."""

    def __init__(self, base: str, place: str, fleet: Fleet, rows: int):
        self.threads = max(1, int(fleet.cpus))
        torch.set_num_threads(self.threads)
        self.named, self.place, self.fleet, self.rows = base, place, fleet, rows

    @cached_property
    def base(self) -> Base:
        """Loaded at the first question, not at the start: what Ray tells of an actor that failed to start holds no reason."""
        fleet = self.fleet
        return load_base(self.named, device=fleet.device, dtype=fleet.dtype, offline=fleet.offline)

    @cached_property
    def store(self) -> Store:
        return Store(self.place)

    def about(self) -> dict[str, str]:
        """What must be equal on all workers, and where this one is."""
        return {
            "host": platform.node(),
            "pid": str(os.getpid()),
            "fingerprint": self.base.fingerprint,
            "precision": self.base.precision,
            "loramem": __version__,
        }

    def train(self, modules: Sequence[ModulePlan]) -> Iterator[list[Event]]:
        yield from self._told(lambda tell: train_here(modules, self.base, self.store, tell, rows=self.rows))

    def read(self, tasks: Mapping[str, ReadingTask]) -> Iterator[list[Event]]:
        rows = max(FEWEST_READ, self.rows)
        yield from self._told(lambda tell: read_here(tasks, self.base, self.store, tell, rows=rows))

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        return function(self.base, self.store, *arguments)

    def _told(self, work: Callable[[Tell], None]) -> Iterator[list[Event]]:
        """The events of `work`, which runs in a thread beside: steps added up, everything else at once."""
        events: SimpleQueue[Event | BaseException | None] = SimpleQueue()

        def run() -> None:
            torch.set_num_threads(self.threads)  # a setting of the thread
            try:
                work(events.put)
                events.put(None)
            except BaseException as error:
                events.put(error)

        threading.Thread(target=run, daemon=True).start()
        amount = tokens = 0
        last = time.monotonic()
        while True:
            try:
                event = events.get(timeout=TOLD_EVERY)
            except Empty:
                event = Advanced(0, 0)
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Advanced):
                amount, tokens = amount + event.amount, tokens + event.tokens
                if not amount or time.monotonic() - last < TOLD_EVERY:
                    continue
            told: list[Event] = [Advanced(amount, tokens)] if amount else []
            amount = tokens = 0
            last = time.monotonic()
            if event is not None and not isinstance(event, Advanced):
                told.append(event)
            if told:
                yield told
            if event is None:
                return
