"""How long an answer takes: the same questions asked of every reading, part by part, and when a module has paid for itself.

Every reading is asked

- `one` at a time: a context is read anew for every question (the documents of ICL are what makes it slow), weights are held;
- `batch`: all questions in one call, a context that several share read once, equal sets of modules merged once;
- `loaded`: one at a time with nothing of a module held: weights come from disk and are attached for every question.

Whole passes are made `warmup` times before any is counted (PITFALLS 24). In each of `repeats` rounds every reading takes its
turn, each round beginning elsewhere, so that a machine that slows down does so for all. What is shown is the median of
the rounds with their range. Nothing of it enters a hash or the store: it is measured anew at every run.

The published study (arXiv 2603.01097, question 15) times 30 questions and counts neither training nor synthesis. Here both are
counted (`metrics.breakeven`). Training is timed anew too, by a few probe steps of the same modules side by side, so that
both sides of the comparison are of one machine; the seconds of their ledgers were shared with whatever trained beside them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import pandas as pd
import torch
from pydantic import Field

from loramem.answering.readings import STEMS
from loramem.base.model import Base
from loramem.core.config import Config
from loramem.core.errors import InputError, LoramemError
from loramem.metrics.breakeven import spread
from loramem.modules.store import Store
from loramem.sources.types import Probe
from loramem.studies.paying import Training, break_even, making
from loramem.studies.timed_ways import PARTS, Kept, Pass, Posed, Way

if TYPE_CHECKING:
    from loramem.sources.catalogue import Source
    from loramem.studies.cells import Cell
    from loramem.studies.expectations import Expectation
    from loramem.studies.plan import Plan

Asked = Literal["one", "batch", "loaded"]
SECONDS, DOUBLINGS, TOKENS = "seconds_per_question", "log2_seconds_per_question", "tokens_per_question"
LATENCY_METRICS = (SECONDS, DOUBLINGS, TOKENS)
"""What expectations may be about. The logarithm makes a factor a difference: a margin of 1 is twice as slow."""


class LatencyChoice(Config):
    """How the time of an answer is measured."""

    questions: Annotated[int, Field(ge=1, le=10_000)] = 30
    """Asked of every reading; spread over the source, in held-out wording where there is one."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Rounds that count."""
    warmup: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Rounds before them that do not."""


def measure(
    study_source: str,
    source: Source,
    plan: Plan,
    base: Base,
    store: Store,
    choice: LatencyChoice,
    *,
    rows: int = 64,
) -> list[dict]:
    """One row per reading and way of asking; a reading without a result has `failure` and nothing else.

    Readings of training seed 0 (or of none) as they ended; controls are left out.

    Args:
        study_source: The source's key in the study.
        rows: Rows that are decoded at once in `batch`.
    """
    probes = questions_of(source, choice.questions)
    ways: list[tuple[Cell, Asked, Way]] = []
    found: list[dict] = []
    prepared: dict[str, float] = {}
    kept = Kept()
    for cell in _timed(plan, study_source, source):
        try:
            way = Way(base, _posed(cell, probes, store, base), store, rows, kept)
            prepared[cell.slug] = way.prepare()
            _check(way, choice.warmup)
        except LoramemError as error:
            found.append({"cell": cell.slug, "failure": str(error)})
            continue
        modes: tuple[Asked, ...] = (
            ("one", "batch", "loaded") if STEMS.get(cell.stem).uses_module else ("one", "batch")
        )
        ways += [(cell, asked, way) for asked in modes]
    passes: list[list[Pass]] = [[] for _ in ways]
    for repeat in range(choice.repeats):
        for number in rotated(len(ways), repeat, choice.repeats):
            _, asked, way = ways[number]
            passes[number].append(_run(way, asked))
    for (cell, asked, way), own in zip(ways, passes, strict=True):
        found.append(_row(cell, asked, way, own, prepared[cell.slug], store))
    return found


def rotated(count: int, repeat: int, repeats: int) -> list[int]:
    """The order of one round: the same circle, begun a share of it further on in each round.

    >>> [rotated(4, repeat, 2) for repeat in range(2)]
    [[0, 1, 2, 3], [2, 3, 0, 1]]
    """
    start = repeat * count // repeats
    return [(start + place) % count for place in range(count)]


def timed_source(plan: Plan) -> tuple[str, Source] | None:
    """The first source that is asked for answers in words, at its largest size."""
    for key, sources in plan.sources.items():
        for source in reversed(sources):
            if _askable(source):
                return key, source
    return None


def questions_of(source: Source, count: int) -> list[Probe]:
    """At most `count` questions, spread over the source, each wording once.

    Raises:
        InputError: it asks for no answers in words.
    """
    asked = list({probe.prompt: probe for probe in _askable(source)}.values())
    if not asked:
        raise InputError(f"latency: source {source.name} asks for no answer in words")
    count = min(count, len(asked))
    return [asked[(2 * place + 1) * len(asked) // (2 * count)] for place in range(count)]


def _askable(source: Source) -> list[Probe]:
    words = [probe for probe in source.probes if probe.kind == "generate"]
    for phrasing in ("heldout", "trained"):
        if own := [probe for probe in words if probe.phrasing == phrasing]:
            return own
    return []


def _timed(plan: Plan, key: str, source: Source) -> list[Cell]:
    return [
        cell for cell in plan.cells
        if cell.source_key == key and cell.source.hash == source.hash and cell.seed in (None, 0)
        and cell.snapshot is None and not STEMS.get(cell.stem).control
    ]  # fmt: skip


def _posed(cell: Cell, probes: Sequence[Probe], store: Store, base: Base) -> list[Posed]:
    """Each question with the task of its part. Raises `InputError` where the cell has no result for one."""
    tasks = {probe.id: task for task in cell.tasks for probe in task.probes}
    found = []
    for probe in probes:
        task = tasks.get(probe.id)
        if task is None or not store.has_reading(task.identity(base)):
            raise InputError(f"it has no result for question {probe.id!r}")
        found.append(Posed(probe, task))
    return found


def _run(way: Way, asked: Asked) -> Pass:
    return way.together() if asked == "batch" else way.one_at_a_time(loaded=asked == "loaded")


def _check(way: Way, warmup: int) -> None:
    for _ in range(warmup):
        for asked in ("one", "batch", *(("loaded",) if way.ids else ())):
            _run(way, asked)  # type: ignore[arg-type]


# -- rows ----------------------------------------------------------------------------------------------------
def _row(cell: Cell, asked: Asked, way: Way, passes: Sequence[Pass], prepared: float, store: Store) -> dict:
    """Medians and ranges of one way of asking, in seconds per question."""
    parts = [one.parts() for one in passes]
    totals = [sum(own.values()) for own in parts]
    last, count = passes[-1], len(way.posed)
    sizes = {name: _bytes(tensors) for name, (_, tensors) in way.held.items()}
    by_document: dict[str, list[float]] = {}
    if asked != "batch":
        for one in passes:
            seconds: dict[str, list[float]] = {}
            for posed, took in zip(way.posed, one.by_question(), strict=True):
                seconds.setdefault(posed.probe.document, []).append(took)
            for name, own in seconds.items():
                by_document.setdefault(name, []).append(sum(own) / len(own))
    return {
        "cell": cell.slug, "source": cell.source_key, "reading": cell.stem, "partition": cell.partition, "asked": asked,
        "probe": way.posed[0].probe.phrasing, "questions": count, "modules": len(way.ids),
        "seconds": {**spread(totals), "repeats": totals},
        "parts": {name: spread([own[name] for own in parts]) for name in PARTS},
        "questions_per_second": 1 / spread(totals)["median"],
        "prompt_tokens": sum(clock.tokens for clock in last.clocks) / count,
        "new_tokens": sum(len(said.ids) for said in last.said if said is not None) / count,
        "module_bytes": sum(sizes[name] for own in last.modules for name in own) / count,
        "held_bytes": 0 if asked == "loaded" else sum(sizes.values()),
        "context_bytes": round(sum(last.contexts) / count * kv_bytes_per_token(way.base)),
        "cut_tokens": sum(last.cuts) / count,
        "index_seconds": prepared,
        "as_read": _as_read(way, last, store),
        "by_document": by_document,
    }  # fmt: skip


def _bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors.values())


@torch.inference_mode()
def kv_bytes_per_token(base: Base) -> float:
    """Bytes of keys and values that one more token of context takes: of what the base itself keeps of it."""
    ids_BT = torch.full((1, 8), base.prompts.pad_id, device=base.device)
    cache = base.model(input_ids=ids_BT, use_cache=True, logits_to_keep=1).past_key_values
    kept = [one for layer in cache.layers for one in (layer.keys, layer.values) if one is not None]
    return sum(one.numel() * one.element_size() for one in kept) / ids_BT.shape[1]


def _as_read(way: Way, last: Pass, store: Store) -> float:
    """Share of answers that are those of the study's own reading: what is timed is what is scored. On an accelerator in half
    precision a batch of another size may break a tie otherwise, and documents that do not fit are cut to the longest of the
    questions that share them, which may be others here."""
    known: dict[str, str] = {}
    for task in way.tasks:
        rows = store.predictions(task.identity(way.base))
        known |= {row["probe"]: row.get("prediction", "") for row in rows}
    same = [
        said is None or said.text == known[posed.probe.id]
        for posed, said in zip(way.posed, last.said, strict=True)
    ]
    return sum(same) / len(same)


# -- one base of a study -------------------------------------------------------------------------------------
def latency_of(
    plan: Plan, base: Base, store: Store, choice: LatencyChoice, *, training: Training, rows: int = 64
) -> dict:
    """What latency.json holds of one base: how it was measured, rows, what modules cost before, and break-even points."""
    where = timed_source(plan)
    if where is None:
        raise InputError("latency: no source of this study asks for answers in words")
    key, source = where
    found = measure(key, source, plan, base, store, choice, rows=rows)
    measured = [row for row in found if "failure" not in row]
    timed = {row["cell"] for row in measured}
    made: dict[str, dict] = {}
    known: dict[tuple, dict] = {}
    for cell in _timed(plan, key, source):
        if cell.slug in timed and cell.modules:
            mark = tuple(module.id for module in cell.modules)
            if mark not in known:
                known[mark] = making(cell, store, training)
            made[cell.slug] = known[mark]
    return {
        "source": key, "base": base.name, "settings": choice.model_dump(), "machine": machine(base), "rows": measured,
        "left_out": [row for row in found if "failure" in row], "made": made,
        "break_even": break_even(measured, made, {one.id: len(one.text) for one in source.documents}),
    }  # fmt: skip


def machine(base: Base) -> dict:
    """What the seconds were measured on."""
    cuda = base.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(base.device) if cuda else "cpu", "processor": platform.processor() or platform.machine(),
        "platform": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__, "dtype": base.precision,
        "attention": str(getattr(base.model.config, "_attn_implementation", "unknown")),
    }  # fmt: skip


def as_cells(latency: dict, cells: Sequence[dict]) -> pd.DataFrame:
    """Latency as cells that an expectation can be judged by (`expectations.judge`): the columns of the study's own cells, the
    median as the mean and the range of the repeats as the interval; `asked` says how."""
    about = {cell["cell"]: cell for cell in reversed(cells)}
    found = []
    for row in latency["rows"]:
        if row["cell"] not in about:
            continue
        tokens = row["prompt_tokens"] + row["new_tokens"]
        doublings = torch.tensor(row["seconds"]["repeats"], dtype=torch.float64).log2().tolist()
        for metric, own in (
            (SECONDS, row["seconds"]),
            (DOUBLINGS, spread(doublings)),
            (TOKENS, {"median": tokens, "low": tokens, "high": tokens}),
        ):
            found.append({
                **about[row["cell"]], "metric": metric, "probe": row["probe"], "asked": row["asked"], "mean": own["median"],
                "ci_low": own["low"], "ci_high": own["high"], "n": row["questions"], "seeds": 1,
            })  # fmt: skip
    return pd.DataFrame(found)


def with_verdicts(summary: dict, expect: Sequence[Expectation]) -> list[dict]:
    """The verdicts on all expectations, in their order: those about latency judged by what was timed, the others as they are."""
    from loramem.studies.expectations import judge  # which knows the names of the metrics from here

    tables = [as_cells(one, summary["cells"]) for one in summary.get("latency", ())]
    table = pd.concat(tables, ignore_index=True) if any(map(len, tables)) else None
    scored = iter(summary["verdicts"])
    return [
        next(scored)
        if one.metric not in LATENCY_METRICS
        else judge(one, table)
        if table is not None
        else {"claim": one.claim, "verdict": "undecided", "reason": "nothing was timed", "cells": []}
        for one in expect
    ]
