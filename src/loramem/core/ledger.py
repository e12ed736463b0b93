"""The cost ledger: what synthesis, training and reading spent, in tokens, seconds, bytes and calls."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Ledger:
    """Sums of costs by stage and unit. Seconds are wall seconds of this process.

    >>> ledger = Ledger()
    >>> ledger.add("train", tokens=10, seconds=0.5)
    >>> ledger.add("train", tokens=5)
    >>> ledger.as_dict()
    {'train': {'seconds': 0.5, 'tokens': 15.0}}
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, stage: str, **amounts: float) -> None:
        for unit, amount in amounts.items():
            self._sums[stage][unit] += float(amount)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall seconds of the block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, seconds=time.perf_counter() - start)

    def as_dict(self) -> dict[str, dict[str, float]]:
        return {stage: dict(sorted(sums.items())) for stage, sums in sorted(self._sums.items())}
