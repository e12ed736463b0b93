"""Learning-rate schedules as factors of the peak rate; equal to transformers' schedulers step by step."""

from __future__ import annotations

import math


def factor(schedule: str, step: int, *, steps: int, warmup: float) -> float:
    """Factor for optimiser step `step` (from 0) of `steps`, the first `warmup` share rising linearly.

    >>> [round(factor("cosine", s, steps=4, warmup=0.0), 3) for s in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    warm = int(warmup * steps)
    if step < warm:
        return step / max(1, warm)
    progress = (step - warm) / max(1, steps - warm)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    assert schedule == "cosine", schedule
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
