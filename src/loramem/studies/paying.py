"""What modules cost before their first question, and after how many they have paid for it (rows of `studies.latency`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loramem.answering.readings import STEMS
from loramem.core.files import read_marker
from loramem.metrics.breakeven import questions_to_pay, spread, spread_to_pay, training_tokens
from loramem.modules.store import MODULE_MARKER, Store

if TYPE_CHECKING:
    from loramem.studies.cells import Cell
    from loramem.training import TrainJob

Training = Callable[[list["TrainJob"]], float]
"""Seconds that these jobs train, side by side."""


def making(cell: Cell, store: Store, training: Training) -> dict:
    """Seconds and tokens of training and synthesis of a cell's modules, in all and by document.

    Documents share the seconds of training by the padded tokens of their modules; a module of several documents is in no
    document's account. `ledger_seconds` is the longest wall time that any of the modules was in training, whatever trained
    beside it and on whichever machine.
    """
    jobs, ledgers = [], []
    for module in cell.modules:
        folder = store.module_record(module.id)
        steps = read_marker(folder / MODULE_MARKER).get("steps_taken", module.job.steps)
        jobs.append(replace(module.job, steps=steps))
        ledgers.append(read_marker(folder / "ledger.json"))
    padded = [job.steps * job.optimizer.batch * job.length for job in jobs]
    trained = training(jobs)
    found: dict[str, Any] = {
        "train_seconds": trained, "ledger_seconds": max(ledger["seconds"] for ledger in ledgers),
        "synthesis_seconds": 0.0, "train_tokens": 0, "synthesis_tokens": 0, "tokens": 0, "modules": len(jobs),
    }  # fmt: skip
    by_document: dict[str, dict[str, float]] = {}
    for module, ledger, share in zip(cell.modules, ledgers, padded, strict=True):
        spent = module.learnt.spent()
        teacher = ledger.get("teacher_tokens", 0)
        tokens = training_tokens(
            ledger["tokens"], teacher=teacher, prompt=spent["prompt_tokens"], new=spent["new_tokens"]
        )
        found["synthesis_seconds"] += spent["seconds"]
        found["synthesis_tokens"] += spent["prompt_tokens"] + spent["new_tokens"]
        found["train_tokens"] += ledger["tokens"]
        found["tokens"] += tokens
        names = {document.id for document in module.source.documents}
        if len(names) == 1:
            own = by_document.setdefault(names.pop(), {"seconds": 0.0, "tokens": 0})
            own["seconds"] += trained * share / sum(padded) + spent["seconds"]
            own["tokens"] += tokens
    found["seconds"] = trained + found["synthesis_seconds"]
    whole = {document.id for module in cell.modules for document in module.source.documents}
    found["by_document"] = by_document if set(by_document) == whole else {}
    return found


def break_even(rows: Sequence[dict], made: dict[str, dict], lengths: dict[str, int]) -> list[dict]:
    """After how many questions, asked one at a time, every reading of modules has cost less than every context without one.

    Args:
        rows: Of `measure`.
        made: `making` of every cell with modules.
        lengths: Characters of each document, by which they share the making of an index.
    """
    contexts = [
        row for row in rows
        if row["asked"] == "one" and STEMS.get(row["reading"]).context in ("documents", "passages")
        and not STEMS.get(row["reading"]).uses_module and "gold" not in row["reading"]
    ]  # fmt: skip
    found = []
    for row in rows:
        if row["asked"] == "batch" or row["cell"] not in made:
            continue
        for other in contexts:
            found += _paid(row, other, made[row["cell"]], lengths)
    return found


def _paid(row: dict, other: dict, made: dict, lengths: dict[str, int]) -> list[dict]:
    """One module's reading against one context: the whole source in seconds and in tokens, and each document in seconds."""
    about = {"cell": row["cell"], "asked": row["asked"], "against": other["cell"]}

    def seconds(scope: str, fixed: float, index: float, own: list[float], theirs: list[float]) -> dict:
        counts = [questions_to_pay(fixed, a, index, b) for a, b in zip(own, theirs, strict=True)]
        return {
            **about, "of": scope, "unit": "seconds", "fixed": fixed, "other_fixed": index,
            "each": spread(own)["median"], "other_each": spread(theirs)["median"], "questions": spread_to_pay(counts),
        }  # fmt: skip

    index = other["index_seconds"]
    found = [
        seconds("source", made["seconds"] + row["index_seconds"], index, row["seconds"]["repeats"], other["seconds"]["repeats"])
    ]  # fmt: skip
    each, other_each = (one["prompt_tokens"] + one["new_tokens"] for one in (row, other))
    count = questions_to_pay(made["tokens"], each, 0, other_each)
    found.append({
        **about, "of": "source", "unit": "tokens", "fixed": made["tokens"], "other_fixed": 0, "each": each, "other_each": other_each,
        "questions": {"median": count, "low": count, "high": count},
    })  # fmt: skip
    for name, own in made["by_document"].items():
        if name in row["by_document"] and name in other["by_document"]:
            share = lengths[name] / sum(lengths.values())
            fixed = own["seconds"] + share * row["index_seconds"]
            found.append(
                seconds(name, fixed, share * index, row["by_document"][name], other["by_document"][name])
            )
    return found
