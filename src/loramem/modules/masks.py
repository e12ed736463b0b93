"""Dropout masks that depend on (module, step, layer and target) alone, so that no neighbour changes a module."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from loramem.core.identity import seed_from

LEVELS = 1 << 16


def dropped_share(probability: float) -> float:
    """The probability that masks use: a multiple of 1 / 65,536, so that two random bytes decide an element.

    >>> dropped_share(0.1), dropped_share(0.5)
    (0.100006103515625, 0.5)
    """
    return round(probability * LEVELS) / LEVELS


def kept_mask(
    probability: float, *, seed: int, step: int, name: str, rows: int, columns: int, device: torch.device
) -> Tensor:
    """True where an input survives: bool `[rows, columns]`.

    On a CPU the bits come from numpy's SFC64 (ten times as fast as torch's Bernoulli draw), on an accelerator from a
    generator of its own there; the two draw different masks.

    Args:
        seed, step: Of the module.
        name: Of the target layer, full.
        rows: All positions of the module's batch, padding included.
    """
    own = seed_from("dropout", seed, step, name)
    if device.type != "cpu":
        generator = torch.Generator(device=device).manual_seed(own)
        shape = (rows, columns)
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(
            1 - dropped_share(probability), generator=generator
        )
    count = rows * columns
    words = np.random.SFC64(own).random_raw(-(-count // 4)).view(np.uint16)[:count]
    return torch.from_numpy(words >= round(probability * LEVELS)).view(rows, columns)
