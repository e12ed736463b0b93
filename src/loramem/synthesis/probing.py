"""Evaluation questions for documents that have none, at the three levels of PaperQA (arXiv 2603.01097, section 4).

Whoever writes the supervision should not write the exam: a model asks about what it noticed, and a module that learnt
what the same model noticed looks better than it is. So the command refuses the supervision's own generator unless it is
forced to, leaves out questions that the supervision asks already, and splits what is left, so that settings are chosen on
questions that no result is reported on.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from loramem.core.errors import InputError, RunFailed
from loramem.core.identity import seed_from
from loramem.sources.probe_file import SPLITS
from loramem.synthesis.making import Writer
from loramem.synthesis.recipes import Portion, RecipeKind
from loramem.synthesis.supervision import Example, Made
from loramem.synthesis.units import Unit

LEVELS = {
    "recall": (
        "Write {n} examination questions with short answers. Each asks for one thing that the text states outright, in other "
        "words than the text uses, and can be marked right or wrong."
    ),
    "comprehension": (
        "Write {n} examination questions with short answers. Each can be answered only by someone who has understood how "
        "several statements of the text belong together: a reason, a consequence, a comparison, an order in time."
    ),
    "structure": (
        "Write {n} examination questions with short answers about how the text is built: what is treated first or last, which "
        "point prepares which, what the parts are, what a part is for."
    ),
}
CHECKED = frozenset({"recall"})
"""Levels whose answers must stand in the text; the others are said in words of one's own."""


def portion_of(level: str, n: int) -> Portion:
    """The questions of one level, as what a writer is asked for."""
    return Portion(RecipeKind(level, "chat", True, True, f"{level} questions", LEVELS[level]), n)


def refuse_same(others: Collection[str], writer: str) -> None:
    """Raises `InputError` if one generator writes both the supervision and the questions."""
    if writer in others:
        raise InputError(
            f"{writer} would write both the supervision and the questions, and examine what it taught; give another generator, "
            "or force it (data probe --force; in a study supervision.same_examiner: true)"
        )


def split_of(count: int, shares: Sequence[float], *parts: object) -> list[str]:
    """A split for each of `count` questions of one document and level: as near to the shares as whole numbers allow, in a
    drawn order.

    >>> sorted(split_of(10, (0.0, 0.2, 0.8), "d", "recall"))
    ['dev', 'dev', 'test', 'test', 'test', 'test', 'test', 'test', 'test', 'test']
    """
    ends = [round(count * sum(shares[: number + 1])) for number in range(len(shares))]
    names = [SPLITS[sum(place >= end for end in ends[:-1])] for place in range(count)]
    random.Random(seed_from("probe-split", *parts)).shuffle(names)
    return names


def write_probes(
    units: Sequence[Unit],
    writer_of: Mapping[str, Writer],
    n: int,
    *,
    shares: Sequence[float],
    exclude: Collection[str] = (),
) -> tuple[list[dict], list[Made]]:
    """Rows of a probe file (`sources.probe_file`) and the account of the making.

    Args:
        writer_of: The writer of each level.
        n: Questions per document and level.
        shares: Shares of train, dev and test.
        exclude: Questions that the supervision asks.

    Raises:
        RunFailed: no question was written.
    """
    rows: list[dict] = []
    accounts: list[Made] = []
    asked = set(exclude)
    for level, writer in writer_of.items():
        for examples, account in writer.write(units, portion_of(level, n), asked):
            accounts.append(account)
            splits = split_of(len(examples), shares, account.unit, level)
            for number, (example, split) in enumerate(zip(examples, splits, strict=True)):
                asked.add(example.prompt)
                rows.append(_row(example, f"{example.document}-{level}-{number}", level, split))
    if not rows:
        reasons = "; ".join(f"{one.unit} {one.recipe}: {one.why}" for one in accounts[:3])
        raise RunFailed(f"no question was written ({reasons})")
    return rows, accounts


def _row(example: Example, id: str, level: str, split: str) -> dict:
    return {
        "id": id, "document": example.document, "question": example.prompt, "answers": [example.answer], "level": level,
        "split": split, "generator": example.generator, "prompt_hash": example.prompt_hash, "tokens_spent": example.tokens_spent,
    }  # fmt: skip
