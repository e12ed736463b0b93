"""Questions 8 to 11: readings that choose among modules, in words, and lists of what was tested of them.

Sentences (`studies/q08` to `q11`) and figures (`report/routing_figures.py`) name routers and rules by the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from loramem.studies.findings import Beside, difference, listed, points, share, verb
from loramem.studies.many import Tested, one, tested
from loramem.studies.ways import At

KEYS = ("introduction", "summary")
"""What stands for a document when questions are held against it, where that is not all of its text."""
Judged = tuple[pd.Series, Tested]
"""A cell and its tested difference to what it is held against."""


def router_name(router: str) -> str:
    """A router for people.

    >>> router_name("bm25"), router_name("embedding-bge-large-summary")
    ('bm25', 'embedding-bge-large by summary')
    """
    stem, _, key = router.rpartition("-")
    return f"{stem} by {key}" if stem and key in KEYS else router


def space(rule: str) -> str:
    """Where a rule works: `factors` (A and B apart, as PEFT does) or `update` (B A, or exactly its sum).

    >>> space("ties-factors"), space("dare-ties-delta-d0.3"), space("cat"), space("knots-ties")
    ('factors', 'update', 'update', 'update')
    """
    return "factors" if "-factors" in rule else "update"


def held_against(summary: dict, cells: Sequence[pd.Series], other: pd.Series | None) -> list[Judged]:
    """The cells whose difference to another was tested, in their order."""
    if other is None:
        return []
    return [(cell, found) for cell in cells if (found := tested(summary, cell, other)) is not None]


def tally(judged: Sequence[Judged], name: Callable[[pd.Series], str], words: tuple[str, str]) -> str:
    """`none clearly above, 2 clearly below (a and b), 1 not told apart (c)`; names where there is more than one group.

    Args:
        words: For a difference above zero, and below.
    """
    groups: dict[str, list[str]] = {
        f"clearly {words[0]}": [],
        f"clearly {words[1]}": [],
        "not told apart": [],
    }
    for cell, (_, low, high) in judged:
        groups[verb(low, high, f"clearly {words[0]}", f"clearly {words[1]}", "not told apart")].append(
            name(cell)
        )
    return ", ".join(
        f"{len(names) or 'none'} {word}" + (f" ({listed(names)})" if 0 < len(names) < len(judged) else "")
        for word, names in groups.items()
    )


def unrelated(summary: dict, cell: pd.Series, metric: str) -> pd.Series | None:
    """A score of a cell on text that no module learnt (`kl_to_base`, `common_accuracy`)."""
    return one(summary, cell=cell["cell"], metric=metric, probe="unrelated")


def nats(cell: pd.Series) -> str:
    """A divergence with its interval.

    >>> nats({"mean": 2.0, "ci_low": 1.5, "ci_high": 2.5})
    '2.00 nats a token [1.50, 2.50]'
    """
    return f"{cell['mean']:.2f} nats a token [{cell['ci_low']:.2f}, {cell['ci_high']:.2f}]"


def harm(summary: dict, named: Sequence[tuple[str, pd.Series | None]]) -> str | None:
    """What modules change beside their facts: of each its divergence from the base and the common facts it still answers."""
    parts = []
    for name, cell in named:
        if cell is None:
            continue
        kl, common = (unrelated(summary, cell, metric) for metric in ("kl_to_base", "common_accuracy"))
        said = (
            []
            if kl is None or cell["reading"] == "closed"
            else [f"is {nats(kl)} from the base on unrelated text"]
        )
        said += [] if common is None else [f"answers {share(common)} of the common facts"]
        parts += [f"{name} {' and '.join(said)}"] if said else []
    return f"Beside what was written (not paired): {'; '.join(parts)}" if len(parts) > 1 else None


def beside(label: str, published: str, cell: pd.Series | None) -> list[Beside]:
    """A published figure and ours; nothing where we have none."""
    return [] if cell is None else [Beside(label, published, f"{share(cell)}")]


def unpaired(a: pd.Series, b: pd.Series, names: tuple[str, str]) -> str:
    """Two cells whose difference was not tested, by their intervals alone: errs towards "not told apart"."""
    found = difference(b, a)
    word = verb(found[1], found[2], "more", "less", "not told apart")
    return f"{names[0]} {share(a)} and {names[1]} {share(b)}: {word} (by their intervals, not paired: {points(*found)})"


def scored_by(at: At, cell: pd.Series, metric: str) -> str | None:
    """Another score of a cell in the same wording, in per cent."""
    found = at.other(cell, metric)
    return None if found is None else share(found)
