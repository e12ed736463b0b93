"""When has a memory paid for its making? Arithmetic of fixed and running costs, in seconds or in tokens; nothing is measured here.

A module costs something before its first question (supervision, training) and little for each; reading the documents for every
question costs nothing before and much for each; retrieval lies between (an index, then short passages). The break-even
point is the number of questions from which on one way has cost less than another, all in all.

The published comparison (arXiv 2603.01097, question 15) counts questions only; training and synthesis are left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from fractions import Fraction

BACKWARD = 2
"""Forward passes that the backward pass of a token is counted as; a trained token then counts three times (a convention: with a
frozen base the gradients of its weights are not computed, which makes this an upper bound)."""

Number = int | float | Fraction


def questions_to_pay(
    fixed: Number, per_question: Number, other_fixed: Number, other_per_question: Number
) -> int | None:
    """The smallest number of questions from which on a way stays strictly cheaper than another; None: never.

    Smallest n >= 1 with fixed + m * per_question < other_fixed + m * other_per_question for every m >= n. Exact: floats are
    taken as the fractions they are.

    Raises:
        ValueError: a cost that is negative or no finite number.

    >>> questions_to_pay(10, 1, 0, 2), questions_to_pay(10, 1, 0, 3), questions_to_pay(0, 1, 0, 2)
    (11, 6, 1)
    >>> questions_to_pay(10, 2, 0, 2) is None, questions_to_pay(0, 3, 100, 2) is None
    (True, True)
    >>> questions_to_pay(5, 2, 7, 2)
    1
    """
    costs = (fixed, per_question, other_fixed, other_per_question)
    if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
        raise ValueError(f"costs are finite and not negative; given {costs}")
    ahead = Fraction(fixed) - Fraction(other_fixed)
    saved = Fraction(other_per_question) - Fraction(per_question)
    if saved > 0:
        return max(1, math.floor(ahead / saved) + 1)
    return 1 if saved == 0 and ahead < 0 else None


def training_tokens(trained: int, *, teacher: int = 0, prompt: int = 0, new: int = 0) -> int:
    """Tokens through a model before the first question: each trained one counts `1 + BACKWARD` times, what a teacher reads
    and what a generator reads and writes once.

    >>> training_tokens(1000, teacher=50, prompt=20, new=30)
    3100
    """
    return (1 + BACKWARD) * trained + teacher + prompt + new


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of repeated measurements.

    The range of n repeats holds the median of all such repeats with 1 - 2^(1 - n) (94 % of 5, 97 % of 6), whatever their
    distribution; it says nothing of another machine or another day.

    Raises:
        ValueError: no values.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    if not values:
        raise ValueError("nothing was measured")
    return {"median": float(statistics.median(values)), "low": float(min(values)), "high": float(max(values))}


def spread_to_pay(counts: Sequence[int | None]) -> dict[str, int | None]:
    """`spread` of numbers of questions, where None (never) is more than any number. The median of an even number of repeats is
    the upper one of the middle pair, so that it is a number of questions.

    >>> spread_to_pay([5, None, 7]), spread_to_pay([None, None, 7])
    ({'median': 7, 'low': 5, 'high': None}, {'median': None, 'low': 7, 'high': None})
    """
    if not counts:
        raise ValueError("nothing was measured")
    found = sorted(math.inf if count is None else count for count in counts)
    low, middle, high = found[0], found[len(found) // 2], found[-1]

    def shown(value: float) -> int | None:
        return None if value == math.inf else int(value)

    return {"median": shown(middle), "low": shown(low), "high": shown(high)}
