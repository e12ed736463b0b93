"""Asynchronous work for a caller that is not: an event loop beside it, which tells it things as they happen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 5.0
"""Seconds for stopped work to end; not more, as looking up a host's name cannot be stopped."""


def listen(work: Callable[[Callable[[T], Awaitable[None]]], Coroutine], take: Callable[[T], None]) -> None:
    """Run `work(tell)` in a thread and an event loop of its own; whatever it tells is taken here, at once and in order.

    What `tell` gives can be awaited until the thing was taken, so that work does not run far ahead of who keeps what comes
    of it: a process that is killed loses no more than that. The caller's own loop may run. An error of the work is raised
    here. Where the caller is interrupted, or `take` fails, the work is cancelled; what it had told by then is still taken,
    and any further failure of `take` ignored.

    >>> async def count(tell):
    ...     for number in range(3):
    ...         await tell(number)
    >>> listen(count, print)
    0
    1
    2
    """
    inbox: SimpleQueue[Any] = SimpleQueue()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None] | None]] = Future()
    ended: Future[None] = Future()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def tell(told: T) -> Awaitable[None]:
            taken = loop.create_future()

            def settle() -> None:
                if not taken.done():  # the work was cancelled meanwhile
                    taken.set_result(None)

            inbox.put((told, lambda: loop.call_soon_threadsafe(settle)))
            return taken

        begun.set_result((loop, asyncio.current_task()))
        await work(tell)

    def run() -> None:
        try:
            ended.set_result(asyncio.run(main()))
        except BaseException as error:
            ended.set_exception(error)
        inbox.put(ended)

    def stop() -> None:
        loop, task = begun.result(_PATIENCE)
        with suppress(RuntimeError):  # the loop has ended by itself
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
        thread.join(_PATIENCE)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (given := inbox.get()) is not ended:
            told, taken = given
            take(told)
            with suppress(RuntimeError):  # the loop has ended by itself
                taken()
        ended.result()
    except BaseException:
        stop()
        with suppress(Empty):
            while (given := inbox.get_nowait()) is not ended:
                with suppress(Exception):
                    take(given[0])
        raise
