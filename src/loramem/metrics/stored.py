"""What a memory holds, measured in information: bits of an answer that the model no longer lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence

LN2 = math.log(2.0)


def bits_stored(entropy: float, nats: Sequence[float]) -> float:
    """max(0, H - NLL) in bits: what the model knows of an answer of `entropy` bits (arXiv 2404.05405, 2505.24832).

    Args:
        entropy: H, log2 of the declared value set.
        nats: Log-probability of each token of the answer (nats, <= 0).

    >>> round(bits_stored(33.2, [-0.1] * 10), 2), bits_stored(4.0, [-5.0])
    (31.76, 0.0)
    """
    return max(0.0, entropy + sum(nats) / LN2)


def share_above_half(nats: Sequence[float]) -> float:
    """Share of answer tokens with p > 0.5; 1.0 is sufficient for greedy recall (arXiv 2605.30260).

    >>> share_above_half([-0.1, -0.9])
    0.5
    """
    return sum(-value < LN2 for value in nats) / len(nats)
