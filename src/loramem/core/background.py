"""Work that need not be waited for, in one thread beside the caller's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

Report = Callable[[BaseException | None], None]


class Background:
    """Runs calls in order in a thread of its own; what became of each is told in the caller's thread.

    Leaving the block waits for all of them, also when it is left by an exception: what was finished is kept.

    Args:
        most: Calls that may wait; a further one waits for room, so that memory stays bounded.

    >>> told = []
    >>> with Background() as work:
    ...     work.run(lambda: 1 / 0, told.append)
    >>> told
    [ZeroDivisionError('division by zero')]
    """

    def __init__(self, most: int = 8):
        self.most = most
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future, Report]] = deque()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        self.collect()

    def run(self, call: Callable[[], object], report: Report) -> None:
        """Have `call` made; `report` gets its exception or None, at the next `collect`."""
        while len(self._waiting) >= self.most:
            self._tell()
        self._waiting.append((self._pool.submit(call), report))

    def collect(self) -> None:
        """Report what is done by now."""
        while self._waiting and self._waiting[0][0].done():
            self._tell()

    def wait(self) -> None:
        """Wait for everything, and report it."""
        while self._waiting:
            self._tell()

    def _tell(self) -> None:
        future, report = self._waiting.popleft()
        report(future.exception())
