"""Progress that people can read: a live bar on a terminal, plain lines in a log; rates and ETA in both."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

PLAIN_EVERY_SECONDS = 10.0


def clock(seconds: float) -> str:
    """m:ss or h:mm:ss.

    >>> clock(65), clock(3700)
    ('1:05', '1:01:40')
    """
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts work of one stage at a time. Every stage and note is also appended to `log` as JSON lines."""

    def __init__(self, log: Path | None = None, *, live: bool | None = None):
        self.console = Console(stderr=False)
        self.live = sys.stdout.isatty() if live is None else live
        self.log = log
        self.bar: Bar | None = None
        self.stage = ""
        self.printed = time.perf_counter()
        self.replies = self.cached = self.failed = self.reply_tokens = 0

    def say(self, text: str) -> None:
        """A plain line for people and the log."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)
        self._write({"event": "say", "text": text})

    note = say

    def start(self, stage: str, *, total: int, unit: str, things: int) -> None:
        """Begin a stage of `total` units (rows, probes) that finishes `things` (modules, readings)."""
        self.stage, self.total, self.unit, self.things = stage, max(1, total), unit, things
        self.done = self.tokens = self.done_things = 0
        self.began = self.printed = time.perf_counter()
        self._write({"event": "start", "stage": stage, "total": total, "unit": unit, "things": things})
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
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        seconds = now - self.began
        print(
            f"{self.stage}: {self.done_things} of {self.things} done, {self.tokens:,} tokens in {clock(seconds)} ({self.tokens / max(seconds, 1e-9):,.0f} tokens/s)",
            flush=True,
        )
        self._write(
            {
                "event": "stop",
                "stage": self.stage,
                "done": self.done_things,
                "things": self.things,
                "tokens": self.tokens,
                "seconds": round(seconds, 3),
            }
        )

    def _rate(self, now: float) -> str:
        seconds = max(now - self.began, 1e-9)
        left = (self.total - self.done) * seconds / self.done if self.done else 0.0
        eta = f"ETA {clock(left)}" if self.done else "ETA -"
        return f"{self.done_things}/{self.things} {'modules' if self.stage == 'train' else 'readings'} · {self.tokens / seconds:,.0f} tokens/s · {eta}"

    def _line(self, now: float) -> str:
        return f"{self.stage}: {100 * self.done / self.total:.0f} % of {self.total:,} {self.unit} · {self._rate(now)}"

    def _write(self, event: dict) -> None:
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(
                    json.dumps(
                        {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **event},
                        ensure_ascii=False,
                    )
                    + "\n"
                )
