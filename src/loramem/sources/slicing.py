"""Nested slices of one fixed order, cut where the token count first exceeds the size (the published rule)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from loramem.core.errors import Faults
from loramem.core.identity import seed_from

MOST_TOKENS = 10_000_000
"""Of a source: what is more is a slip of the pen, and would take hours to be generated."""
Size = Annotated[int, Field(gt=0, le=MOST_TOKENS)]


def spread(cases: Sequence[str], count: int | None) -> frozenset[str]:
    """`count` of the cases (None: all), drawn by their names alone, so that they lie all over a document.

    The first ones would not do: they are what a context that is cut at its end still holds.

    >>> len(spread(["a", "b", "c"], 2)), spread(["a", "b"], None) == {"a", "b"}
    (2, True)
    """
    chosen = cases if count is None else sorted(cases, key=lambda case: seed_from("spread", case))[:count]
    return frozenset(chosen)


def nested_slices(
    lines: Sequence[str], sizes: Sequence[int], count_tokens: Callable[[str], int], *, what: str
) -> dict[int, int]:
    """For each size, how many of the first `lines` make its slice.

    A slice ends with the line whose tokens first carry the count above the size, so a slice is at most
    one line longer than its size, and smaller slices begin larger ones.

    Raises:
        Faults: every size that the lines cannot reach, with the largest that they can.

    >>> nested_slices(["a b", "c d", "e f"], [3, 5], lambda s: len(s.split()), what="lines")
    {3: 2, 5: 3}
    """
    found: dict[int, int] = {}
    wanted = sorted(set(sizes))
    total = 0
    for number, line in enumerate(lines, start=1):
        if len(found) == len(wanted):
            break
        total += count_tokens(line)
        while len(found) < len(wanted) and total > wanted[len(found)]:
            found[wanted[len(found)]] = number
    missing = [size for size in wanted if size not in found]
    if missing:
        raise Faults(
            [
                f"size {size} is larger than the data: {len(lines)} {what} hold {total} tokens of this base; allowed: sizes below {total}"
                for size in missing
            ]
        )
    return found
