"""Signals told to somebody on their way to whoever handles them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TOLD = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Of a key, a scheduler, a terminal that closes, and a scheduler's warning."""


@contextmanager
def signals_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block `tell` gets the name of each signal that comes; what it does then is what it did before.

    A signal that is ignored (as under `nohup`) stays ignored, and in another than the main thread nothing is told.
    """
    before: dict[int, Any] = {}

    def came(number: int, frame: FrameType | None) -> None:
        tell(signal.Signals(number).name)
        if callable(before[number]):
            before[number](number, frame)
        else:  # nobody handles it: it ends the process
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)

    for number in (getattr(signal, name) for name in TOLD if hasattr(signal, name)):
        handler = signal.getsignal(number)
        if handler in (signal.SIG_IGN, None):
            continue
        before[number] = handler
        try:
            signal.signal(number, came)
        except ValueError:  # not the main thread: signals go there
            before.clear()
            break
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is came:
                signal.signal(number, handler)
