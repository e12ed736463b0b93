"""From predictions to the rows of results.parquet."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from loramem.answering.readings import STEMS
from loramem.base.model import Base
from loramem.core.files import new_file, read_marker, write_jsonl
from loramem.metrics.edits import harmonic_mean
from loramem.metrics.scorers import JUDGE, METRICS, Metric, score
from loramem.modules.store import MODULE_MARKER, READING_MARKER, Store
from loramem.studies.cells import Cell
from loramem.studies.execute import Outcome
from loramem.studies.judging import Judging
from loramem.studies.plan import Plan
from loramem.studies.routed import add_fits
from loramem.studies.spec import Study

COLUMNS = (
    "study", "question", "cell", "base", "source", "size_tokens", "facts", "partition", "n_modules", "supervision", "generator",
    "objective", "rank", "alpha", "targets", "layers", "variant", "lr", "steps", "exposures", "seed", "reading", "router", "merge",
    "top_k", "passages_k", "chunk", "pool", "probe", "judge", "metric", "value", "n_scored", "n_failed", "module_ids",
    "reading_id", "settings", "budget", "ended", "snapshot", "retriever", "base_name", "base_parameters", "examples",
    "supervision_tokens", "module_on", "pool_size", "distractors", "adaptive",
    "parameters",
)  # fmt: skip
ITEM_COLUMNS = ("cell", "seed", "metric", "probe", "case", "document", "level", "value")
EXAMPLES_PER_CELL = 2
NOT_READ = {"failure": "the part it belongs to was not read", "prediction": "", "kind": ""}
"""What stands for the prediction of a probe whose part failed, so that it is counted."""
SHOWN = ("exact_match", "efficacy", "token_f1", "rouge_l", "judge")
"""Metrics whose predictions are shown as examples."""


def _cell_columns(study: Study, cell: Cell, base: Base, store: Store) -> dict:
    """The columns that say what a cell is; null where a column does not apply."""
    row: dict = dict.fromkeys(COLUMNS)
    row.update(
        study=study.name, question=study.file.question, cell=cell.slug, base=base.fingerprint[:12], source=cell.source_key,
        size_tokens=cell.source.size_tokens, facts=len(cell.source.records), partition=cell.partition,
        reading=cell.stem, seed=cell.seed, n_modules=0, base_name=base.name, base_parameters=base.parameters,
        settings=json.dumps({"source": cell.source.settings, "base": base.name}, sort_keys=True),
    )  # fmt: skip
    retrieval = cell.tasks[0].retrieval if cell.tasks else None
    if retrieval is not None:
        row.update(retriever=retrieval.label, passages_k=retrieval.passages_k, chunk=retrieval.chunk_tokens)
    row.update(_choice_columns(cell))
    trained = [module for module in cell.modules if store.has_module(module.id)]
    if trained:
        config = trained[0].config
        markers = [read_marker(store.module_record(module.id) / MODULE_MARKER) for module in trained]
        taken = [m.get("steps_taken", module.job.steps) for m, module in zip(markers, trained, strict=True)]
        ended: str | None = "+".join(dict.fromkeys(marker.get("ended", "steps") for marker in markers))
        if cell.snapshot is not None:  # one later than an early end is the module as it ended
            taken, ended = [min(cell.snapshot, steps) for steps in taken], None
        exposures = [module.exposures(steps) for module, steps in zip(trained, taken, strict=True)]
        row.update(
            n_modules=len(cell.modules), supervision=trained[0].learnt.choice.recipe, generator=trained[0].learnt.choice.who,
            examples=sum(len(module.learnt.examples) for module in cell.modules),
            supervision_tokens=sum(module.learnt.tokens for module in cell.modules),
            objective=config.objective.label, rank=config.spec.rank, alpha=config.spec.scale * config.spec.rank,
            targets=_joined(config.spec.targets), layers=_joined(config.spec.layers), variant=config.spec.variant,
            lr=config.optimizer.lr, steps=round(sum(taken) / len(taken)), budget=config.budget.label, ended=ended, snapshot=cell.snapshot,
            exposures=sum(exposures) / len(exposures), module_ids=json.dumps(cell.module_ids),
            distractors=config.distractors.label if config.distractors else None,
            parameters=sum(module.parameters for module in cell.modules),
        )  # fmt: skip
    return row


def _choice_columns(cell: Cell) -> dict:
    """How modules were chosen, merged and switched on."""
    if not cell.tasks or not STEMS.get(cell.stem).uses_module:
        return {}
    task = cell.tasks[0]
    found: dict = {"module_on": task.module_on}
    if task.pool is not None and task.routing is not None:
        found.update(
            router=task.routing.label, pool=task.pool.name, pool_size=len(task.pool.candidates),
            top_k=1 if task.merging is None else task.routing.top_k, adaptive=task.routing.adaptive, merge=task.merging.label if task.merging else None,
        )  # fmt: skip
    return found


def _joined(value: str | tuple) -> str:
    return value if isinstance(value, str) else "+".join(map(str, value))


def collect(
    study: Study, plan: Plan, base: Base, store: Store, outcome: Outcome, judging: Judging | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict]]:
    """(rows of results.parquet, scored items, examples of predictions) of everything that has a reading."""
    judging = judging or Judging()
    rows: list[dict] = []
    items: dict[str, list] = {column: [] for column in ITEM_COLUMNS}
    examples: list[dict] = []
    shown: dict[tuple, int] = defaultdict(int)
    store.fetch("readings", (task.identity(base) for cell in plan.cells for task in cell.tasks))
    store.fetch("modules", plan.modules)
    for cell in plan.cells:
        ids = {identity: task for task in cell.tasks if store.has_reading(identity := task.identity(base))}
        if not ids:
            continue
        shown_ids = next(iter(ids)) if len(ids) == 1 else json.dumps(list(ids))
        columns = {**_cell_columns(study, cell, base, store), "reading_id": shown_ids}
        predictions = {row["probe"]: row for identity in ids for row in store.predictions(identity)}
        judging.add_to(predictions, ids)
        if any(task.pool for task in cell.tasks):
            add_fits(predictions, [probe for task in cell.tasks for probe in task.probes])
        own: list[dict] = []
        for name in study.file.metrics:
            scored = _scored(METRICS.get(name), cell, predictions)
            for identity, task in ids.items() if name != JUDGE else ():  # verdicts lie there already
                asked = {probe.id for probe in task.probes}
                write_scores(store, identity, name, [item for item in scored if item["probe"] in asked])
            own += _rows({**columns, **judging.columns(name)}, METRICS.get(name), scored)
            _add_items(items, cell, name, scored)
            if cell.seed in (None, 0) and cell.snapshot is None:
                examples += _examples(cell, name, scored, predictions, shown)
        rows += own + _derived_rows(columns, study.file.metrics, own)
    return as_frame(rows), pd.DataFrame(items).astype({"value": float}), examples


def as_frame(rows: list[dict]) -> pd.DataFrame:
    """Rows as results.parquet holds them: every column, integers that may be null, floats."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in ("size_tokens", "facts", "n_modules", "rank", "steps", "seed", "top_k", "passages_k", "chunk",
                   "n_scored", "n_failed", "snapshot", "pool_size", "parameters", "examples", "supervision_tokens", "base_parameters"):  # fmt: skip
        frame[column] = frame[column].astype("Int64")
    for column in ("alpha", "lr", "exposures", "value", "adaptive"):
        frame[column] = frame[column].astype("Float64")
    return frame


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    with new_file(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _scored(metric: Metric, cell: Cell, predictions: dict[str, dict]) -> list[dict]:
    """The probes of a cell that a metric applies to, each with its score (None: it failed, or its part was not read)."""
    rows = ((probe, predictions.get(probe.id, NOT_READ)) for task in cell.tasks for probe in task.probes)
    return [
        {"probe": probe.id, "metric": metric.name, "value": score(metric, probe, row), "asked": probe}
        for probe, row in rows
        if metric.applies(probe) and metric.measured(row)
    ]


def _rows(columns: dict, metric: Metric, scored: list[dict]) -> list[dict]:
    """One row per phrasing: the mean (or the sum) of what could be scored, and how much could not."""
    by_phrasing: dict[str, list[float | None]] = defaultdict(list)
    for item in scored:
        by_phrasing[item["asked"].phrasing].append(item["value"])
    found = []
    for phrasing, values in by_phrasing.items():
        good = [value for value in values if value is not None]
        value = (sum(good) if metric.total else sum(good) / len(good)) if good else None
        found.append(
            {
                **columns,
                "probe": phrasing,
                "metric": metric.name,
                "value": value,
                "n_scored": len(good),
                "n_failed": len(values) - len(good),
            }
        )
    return found


def _derived_rows(columns: dict, metrics: Sequence[str], own: list[dict]) -> list[dict]:
    """Rows of metrics that are made of other metrics' means."""
    found = []
    for name in metrics:
        parts = METRICS.get(name).derived_from
        found_parts = [row for part in parts for row in own if row["metric"] == part]
        if parts and len(found_parts) == len(parts):
            values = [row["value"] for row in found_parts]
            value = None if any(value is None for value in values) else harmonic_mean(values)
            found.append({
                **columns, "probe": None, "metric": name, "value": value,
                "n_scored": sum(row["n_scored"] for row in found_parts), "n_failed": sum(row["n_failed"] for row in found_parts),
            })  # fmt: skip
    return found


def _add_items(items: dict[str, list], cell: Cell, metric: str, scored: list[dict]) -> None:
    count = len(scored)
    items["cell"] += [cell.slug] * count
    items["seed"] += [-1 if cell.seed is None else cell.seed] * count
    items["metric"] += [metric] * count
    items["probe"] += [item["asked"].phrasing for item in scored]
    items["case"] += [item["asked"].known for item in scored]
    items["document"] += [item["asked"].document for item in scored]
    items["level"] += [item["asked"].level for item in scored]
    items["value"] += [item["value"] for item in scored]


def _examples(
    cell: Cell, metric: str, scored: list[dict], predictions: dict[str, dict], shown: dict[tuple, int]
) -> list[dict]:
    """The first right and the first wrong predictions of a cell, in the order of the source."""
    found = []
    for item in scored:
        key = (cell.slug, metric, item["value"])
        if (
            metric in SHOWN
            and item["asked"].phrasing in ("trained", "heldout")
            and item["probe"] in predictions
            and shown[key] < EXAMPLES_PER_CELL
        ):
            shown[key] += 1
            found.append(_example(cell, item["asked"], predictions[item["probe"]], metric, item["value"]))
    return found


def context_costs(plan: Plan, base: Base, store: Store) -> list[dict]:
    """Per reading with a context: tokens cut away where it did not fit (never a question), and passages that hit."""
    found = []
    for cell in plan.cells:
        if not STEMS.get(cell.stem).in_context:
            continue
        ledgers = [
            read_marker(store.reading_folder(identity) / READING_MARKER)["ledger"]
            for task in cell.tasks
            if store.has_reading(identity := task.identity(base))
        ]
        if ledgers:
            retrieves = cell.tasks[0].retrieval is not None
            found.append({
                "cell": cell.slug, "tokens": max(int(ledger["context_cut_tokens"]) for ledger in ledgers),
                **{key: sum(int(ledger[name]) for ledger in ledgers)
                   for key, name in (("probes_cut", "context_cut_probes"), ("probes", "probes"))},
                "hits": sum(int(ledger["passage_hits"]) for ledger in ledgers) if retrieves else None,
            })  # fmt: skip
    return found


def write_scores(store: Store, identity: str, metric: str, scored: list[dict]) -> None:
    """Keep the scores of one metric beside the predictions they belong to."""
    path = store.reading_folder(identity) / "scores" / f"{metric}.jsonl"
    if scored and not path.exists():
        write_jsonl(path, ({key: item[key] for key in ("probe", "metric", "value")} for item in scored))


def _example(cell: Cell, probe, row: dict, metric: str, value: float | None) -> dict:
    if row["kind"] == "compare":
        means = [total / count for total, count in zip(row["sum_nats"], row["tokens"], strict=True)]
        said = " | ".join(
            f"{option}: {nats:.2f} nats/token" for option, nats in zip(row["options"], means, strict=True)
        )
    else:
        said = row["prediction"]
    return {
        "cell": cell.slug, "source": cell.source_key, "reading": cell.stem, "probe": probe.phrasing, "metric": metric,
        "prompt": probe.prompt, "gold": probe.answers[probe.gold], "prediction": said, "value": value,
    }  # fmt: skip
