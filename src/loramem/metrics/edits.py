"""Scores of an edit, over mean log-likelihoods of all target tokens (PITFALLS 13)."""

from __future__ import annotations


def prefers(wanted_nats: float, other_nats: float) -> float:
    """1.0 if the wanted target is likelier, 0.5 at a tie, else 0.0.

    Both are mean log-probabilities per target token, in nats: a target is not punished for its length,
    and two targets that share their first token can still be told apart.

    >>> prefers(-1.0, -2.0), prefers(-1.0, -1.0)
    (1.0, 0.5)
    """
    return 1.0 if wanted_nats > other_nats else 0.5 if wanted_nats == other_nats else 0.0


def harmonic_mean(values: list[float]) -> float:
    """Harmonic mean of non-negative values; 0.0 if one of them is 0 (the ROME edit score, section 3.4).

    >>> harmonic_mean([1.0, 0.5])
    0.6666666666666666
    """
    return (
        len(values) / sum(1 / value for value in values)
        if values and all(value > 0 for value in values)
        else 0.0
    )
