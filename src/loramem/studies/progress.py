"""Progress that people can read: a live bar on a terminal, plain lines in a log; rates and ETA in both.

The same goes to RUN/log.jsonl for whoever comes back later (`studies.run_log` reads it): one object per line, each with `time`,
`event`, `run` (random, one for each start), `pid` and `host`.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from loramem.core.files import append_jsonl, host
from loramem.core.memory import accelerator_bytes, available_bytes, resident_bytes
from loramem.core.shown import told
from loramem.core.signals import signals_told

PLAIN_EVERY_SECONDS = 10.0
BEAT_SECONDS = 30.0
"""Between two `progress` events of a run, whatever it is doing."""
NO_MEMORY = re.compile(r"\b(?:out of|not enough|no) memory\b|\bMemoryError\b", re.IGNORECASE)


class Tracker(Protocol):
    """Shows numbers of a run elsewhere (`studies.tracking`)."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


def clock(seconds: float) -> str:
    """m:ss or h:mm:ss.

    >>> clock(65), clock(3700)
    ('1:05', '1:01:40')
    """
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts work of one stage at a time, and is the one who writes `log`.

    Args:
        log: log.jsonl of the run folder; None: nothing is kept.
        tracker: Told the numbers of the log, too; one that fails is not asked again.

    Attributes:
        holes: Cells without a result, once that is known; any make the run `incomplete`.
    """

    def __init__(self, log: Path | None = None, *, live: bool | None = None, tracker: Tracker | None = None):
        self.console = Console(stderr=False)
        self.live = sys.stdout.isatty() if live is None else live
        self.log, self.tracker = log, tracker
        self.bar: Bar | None = None
        self.stage = self.said = ""
        self.total, self.unit, self.things = 1, "", 0
        self.done = self.tokens = self.done_things = 0
        self.began = self.printed = time.perf_counter()
        self.replies = self.cached = self.failed = self.reply_tokens = 0
        self.run, self.holes = secrets.token_hex(4), 0
        self.counts: Counter[str] = Counter()
        self._steps = itertools.count()

    # -- a run -----------------------------------------------------------------------------------
    @contextmanager
    def running(self, **facts: Any) -> Iterator[None]:
        """Log that a run begins, what signals come, every 30 s how far it is, and how it ends.

        The end is `done`, `incomplete` (something failed, the rest is there), `stopped` (by a signal or a key) or `failed`.

        Args:
            facts: What the run is: command, study, scale, versions, ...
        """
        self.run, self.holes, began = secrets.token_hex(4), 0, time.perf_counter()
        self.counts.clear()
        self._write("run-start", **facts)
        state, error, over = "done", None, threading.Event()
        heart = threading.Thread(target=self._beat_until, args=(over,), name="beat", daemon=True)
        heart.start()
        try:
            with signals_told(self._signal):
                yield
        except BaseException as problem:
            state = "failed" if isinstance(problem, Exception) else "stopped"
            error = f"{type(problem).__name__}: {problem}".split("\n")[0]
            raise
        finally:
            self.close()
            over.set()
            heart.join(timeout=5)
            if state == "done" and (
                self.holes or self.counts["module-failed"] or self.counts["reading-failed"]
            ):
                state = "incomplete"
            end = {
                "state": state,
                "error": error,
                "seconds": time.perf_counter() - began,
                "holes": self.holes,
            }
            with suppress(OSError):  # a full disk has an error of its own on its way
                self._write("run-end", **end, **self._memory(), counts=dict(self.counts))
            self._track(None)

    def beat(self) -> None:
        """Log how far the run is and what memory it takes; between stages, what was said last."""
        where: dict[str, Any] = {"stage": None, "said": self.said}
        if self.stage:
            seconds = max(time.perf_counter() - self.began, 1e-9)
            rate = self.done / seconds
            where = {
                "stage": self.stage, "done": self.done, "total": self.total, "unit": self.unit, "things_done": self.done_things,
                "things": self.things, "tokens": self.tokens, "seconds": seconds, "per_second": rate,
                "tokens_per_second": self.tokens / seconds, "eta_seconds": (self.total - self.done) / rate if rate else None,
            }  # fmt: skip
        memory = self._memory()
        self._write("progress", **where, **memory)
        part = f"{self.stage or 'between'}/"
        self._track(
            {
                **{part + name: value for name, value in where.items()},
                **{f"memory/{n}": v for n, v in memory.items()},
            }
        )

    def _beat_until(self, over: threading.Event) -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(OSError):  # the work itself meets a full disk, and says so
                self.beat()

    def _memory(self) -> dict[str, int | None]:
        return {
            "resident_bytes": resident_bytes(), "available_bytes": available_bytes(), "accelerator_bytes": accelerator_bytes()
        }  # fmt: skip

    def _signal(self, name: str) -> None:
        with suppress(OSError):
            self._write("signal", signal=name)

    # -- modules and readings --------------------------------------------------------------------
    def module_done(self, identity: str, *, early_rows: int = 0, **facts: Any) -> None:
        """Count and log a module that is in the store.

        Args:
            early_rows: Planned rows that it turned out not to need; they leave the total.
            facts: E.g. seconds, tokens, steps, loss, how it ended.
        """
        self.finished_thing(early_rows=early_rows)
        self._thing("module-done", identity, **facts)

    def reading_done(self, identity: str, **facts: Any) -> None:
        """Count and log a reading that is in the store (stem, seconds, tokens, probes)."""
        self.finished_thing()
        self._thing("reading-done", identity, **facts)

    def module_failed(self, identity: str, error: str) -> None:
        """Say and log that a module could not be made."""
        self._show(f"module {identity[:12]} failed: {error}")
        self._thing("module-failed", identity, error=error, out_of_memory=bool(NO_MEMORY.search(error)))

    def reading_failed(self, identity: str, error: str, *, stem: str = "") -> None:
        """Say and log that a reading could not be made."""
        self._show(f"reading {identity[:12]}{f' ({stem})' if stem else ''} failed: {error}")
        self._thing(
            "reading-failed", identity, error=error, out_of_memory=bool(NO_MEMORY.search(error)), stem=stem
        )

    def _thing(self, event: str, identity: str, **facts: Any) -> None:
        self.counts[event] += 1
        self._write(event, id=identity, **facts)
        self._track({f"{event.partition('-')[0]}/{name}": value for name, value in facts.items()})

    # -- words -----------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """A plain line for people and the log: without secrets, and without what would act on a terminal."""
        self._show(text)
        self.said = text
        self._write("out-of-memory" if NO_MEMORY.search(text) else "note", text=text)

    note = say

    def _show(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(told(text), markup=False, highlight=False)
        else:
            print(told(text), flush=True)

    # -- stages ----------------------------------------------------------------------------------
    def start(self, stage: str, *, total: int, unit: str, things: int) -> None:
        """Begin a stage of `total` units (rows, probes) that finishes `things` (modules, readings)."""
        self.total, self.unit, self.things = max(1, total), unit, things
        self.done = self.tokens = self.done_things = 0
        self.began = self.printed = time.perf_counter()
        self.stage = stage
        self._write("stage-start", stage=stage, total=total, unit=unit, things=things)
        if self.live:
            self.bar = Bar(
                TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task(stage, total=self.total, rate="")
            self.bar.start()

    def advance(self, amount: int, tokens: int) -> None:
        """Count `amount` units and `tokens` of work."""
        self.done += amount
        self.tokens += tokens
        now = time.perf_counter()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, rate=self._rate(now))
        elif now - self.printed >= PLAIN_EVERY_SECONDS:
            self.printed = now
            print(self._line(now), flush=True)

    def replied(self, reply: Any) -> None:
        """Count an answer (or failure) of a model that writes or judges; a line now and then says how many there are."""
        self.replies += 1
        self.cached += bool(getattr(reply, "cached", False))
        self.failed += not hasattr(reply, "text")
        self.reply_tokens += reply.new_tokens
        now = time.perf_counter()
        if now - self.printed >= PLAIN_EVERY_SECONDS:
            self.printed = now
            self.say(
                f"model: {self.replies:,} answers ({self.cached:,} kept from before, {self.failed:,} failed), {self.reply_tokens:,} tokens written"
            )

    def finished_thing(self, *, early_rows: int = 0) -> None:
        """Count a finished thing; work it turned out not to need (it ended early) leaves the total."""
        self.done_things += 1
        self.total = max(1, self.total - early_rows)
        if self.bar is not None:
            self.bar.update(self.task, total=self.total)

    def stop(self) -> None:
        """End the stage with one line of totals."""
        now = time.perf_counter()
        self.close()
        seconds = now - self.began
        print(
            f"{self.stage}: {self.done_things} of {self.things} done, {self.tokens:,} tokens in {clock(seconds)} ({self.tokens / max(seconds, 1e-9):,.0f} tokens/s)",
            flush=True,
        )
        stage, self.stage = self.stage, ""
        self._write(
            "stage-end", stage=stage, done=self.done_things, things=self.things, tokens=self.tokens, seconds=seconds
        )  # fmt: skip

    def close(self) -> None:
        """Take the bar away, so that the terminal is as it was; also where a stage does not come to its end."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _rate(self, now: float) -> str:
        seconds = max(now - self.began, 1e-9)
        left = (self.total - self.done) * seconds / self.done if self.done else 0.0
        eta = f"ETA {clock(left)}" if self.done else "ETA -"
        return f"{self.done_things}/{self.things} {'modules' if self.stage == 'train' else 'readings'} · {self.tokens / seconds:,.0f} tokens/s · {eta}"

    def _line(self, now: float) -> str:
        return f"{self.stage}: {100 * self.done / self.total:.0f} % of {self.total:,} {self.unit} · {self._rate(now)}"

    # -- the log ---------------------------------------------------------------------------------
    def _write(self, event: str, **facts: Any) -> None:
        if self.log is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        stamp = {"time": now, "event": event, "run": self.run, "pid": os.getpid(), "host": host()}
        append_jsonl(self.log, {**stamp, **_fit(facts)})

    def _track(self, values: Mapping[str, Any] | None) -> None:
        """Tell the tracker what is a number; None: that the run is over."""
        if self.tracker is None:
            return
        try:
            if values is None:
                self.tracker.finish()
                return
            numbers = {
                n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)
            }
            self.tracker.log(next(self._steps), {n: v for n, v in numbers.items() if math.isfinite(v)})
        except Exception as error:  # a run of a week does not end for want of a chart
            self.tracker = None
            self.say(f"tracking stopped: {type(error).__name__}: {error}")


def _fit(value: Any) -> Any:
    """A value as the log keeps it: no secrets, numbers that JSON has, to a thousandth where they are times and rates."""
    if isinstance(value, Mapping):
        return {str(name): _fit(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_fit(inner) for inner in value]
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return None if not math.isfinite(value) else round(value, 3) if abs(value) >= 1 else value
    return told(value)
