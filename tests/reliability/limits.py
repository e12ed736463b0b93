"""A limit of time within this process, for what must end soon."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 300
"""Seconds by the clock: a process that waits for ever uses no CPU."""


class Hangs(BaseException):
    """Something did not end. No `Exception`, so that nothing of ours catches it."""


@contextmanager
def soon(cpu_seconds: float) -> Iterator[None]:
    """Raise `Hangs` where the block takes more CPU seconds than that: on a busy machine everything takes long by the clock."""

    def stop(*_: object) -> None:
        raise Hangs(f"no end after {cpu_seconds} s of CPU, or {PATIENCE} s")

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before:
            signal.signal(number, handler)
