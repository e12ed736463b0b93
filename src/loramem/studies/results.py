"""From predictions to the rows of results.parquet."""

from __future__ import annotations

import json
from collections import defaultdict

import pandas as pd

from loramem.answering.readings import STEMS
from loramem.base.model import Base
from loramem.core.files import read_jsonl, read_marker, write_jsonl
from loramem.metrics.edits import harmonic_mean
from loramem.metrics.scorers import METRICS, score
from loramem.modules.store import Store
from loramem.studies.execute import Outcome
from loramem.studies.plan import Cell, Plan
from loramem.studies.spec import Study

COLUMNS = (
    "study", "question", "cell", "base", "source", "size_tokens", "facts", "partition", "n_modules", "supervision", "generator",
    "objective", "rank", "alpha", "targets", "layers", "variant", "lr", "steps", "exposures", "seed", "reading", "router", "merge",
    "top_k", "passages_k", "chunk", "pool", "probe", "judge", "metric", "value", "n_scored", "n_failed", "module_ids",
    "reading_id", "settings",
)  # fmt: skip
ITEM_COLUMNS = ("cell", "seed", "metric", "probe", "case", "document", "value")
EXAMPLES_PER_CELL = 2


def _cell_columns(study: Study, cell: Cell, base: Base) -> dict:
    """The columns that say what a cell is; null where a column does not apply."""
    row: dict = dict.fromkeys(COLUMNS)
    row.update(
        study=study.name, question=study.file.question, cell=cell.slug, base=base.fingerprint[:12], source=cell.source_key,
        size_tokens=cell.source.size_tokens, facts=len(cell.source.records), partition=study.file.partition,
        reading=cell.stem, seed=cell.seed, n_modules=0,
        settings=json.dumps({"source": cell.source.settings, "base": base.name}, sort_keys=True),
    )  # fmt: skip
    if cell.module is not None:
        config = cell.module.config
        row.update(
            n_modules=1, supervision=study.file.supervision.recipe, generator="source",
            objective=f"{config.objective.name}-{config.objective.loss_on}", rank=config.spec.rank, alpha=config.spec.scale * config.spec.rank,
            targets=_joined(config.spec.targets), layers=_joined(config.spec.layers), variant=config.spec.variant,
            lr=config.optimizer.lr, steps=cell.module.job.steps, exposures=cell.module.exposures,
            module_ids=json.dumps([cell.task.module] if cell.task.module else []),
        )  # fmt: skip
    return row


def _joined(value: str | tuple) -> str:
    return value if isinstance(value, str) else "+".join(map(str, value))


def collect(
    study: Study, plan: Plan, base: Base, store: Store, outcome: Outcome
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict]]:
    """(rows of results.parquet, scored items, examples of predictions) of everything that has a reading."""
    rows: list[dict] = []
    items: list[dict] = []
    examples: list[dict] = []
    shown: dict[tuple, int] = defaultdict(int)
    for cell in plan.cells:
        identity = cell.task.identity(base)
        columns = {**_cell_columns(study, cell, base), "reading_id": identity}
        if identity in outcome.failed_readings or not store.has_reading(identity):
            continue
        predictions = {
            row["probe"]: row for row in read_jsonl(store.reading_folder(identity) / "predictions.jsonl")
        }
        own_rows: list[dict] = []
        for name in study.file.metrics:
            metric = METRICS.get(name)
            by_phrasing: dict[str, list[dict]] = defaultdict(list)
            scored: list[dict] = []
            for probe in cell.task.probes:
                if metric.applies(probe):
                    value = score(metric, probe, predictions[probe.id])
                    by_phrasing[probe.phrasing].append(
                        {"case": probe.case, "document": probe.document, "value": value}
                    )
                    scored.append({"probe": probe.id, "metric": name, "value": value})
                    key = (cell.slug, name, value)
                    if (
                        probe.phrasing in ("trained", "heldout")
                        and shown[key] < EXAMPLES_PER_CELL
                        and cell.seed in (None, 0)
                    ):
                        shown[key] += 1
                        examples.append(_example(cell, probe, predictions[probe.id], name, value))
            if scored:
                write_scores(store, identity, name, scored)
            for phrasing, found in by_phrasing.items():
                good = [item["value"] for item in found if item["value"] is not None]
                value = sum(good) / len(good) if good else None
                own_rows.append(
                    {
                        **columns,
                        "probe": phrasing,
                        "metric": name,
                        "value": value,
                        "n_scored": len(good),
                        "n_failed": len(found) - len(good),
                    }
                )
                items += [
                    {
                        "cell": cell.slug,
                        "seed": -1 if cell.seed is None else cell.seed,
                        "metric": name,
                        "probe": phrasing,
                        **item,
                    }
                    for item in found
                ]
        for name in study.file.metrics:
            parts = METRICS.get(name).derived_from
            found_parts = [row for part in parts for row in own_rows if row["metric"] == part]
            if parts and len(found_parts) == len(parts):
                values = [row["value"] for row in found_parts]
                value = None if any(value is None for value in values) else harmonic_mean(values)
                own_rows.append({
                    **columns, "probe": None, "metric": name, "value": value,
                    "n_scored": sum(row["n_scored"] for row in found_parts), "n_failed": sum(row["n_failed"] for row in found_parts),
                })  # fmt: skip
        rows += own_rows
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in ("size_tokens", "facts", "n_modules", "rank", "steps", "seed", "n_scored", "n_failed"):
        frame[column] = frame[column].astype("Int64")
    for column in ("alpha", "lr", "exposures", "value"):
        frame[column] = frame[column].astype("Float64")
    table = pd.DataFrame(items, columns=list(ITEM_COLUMNS))
    table["value"] = table["value"].astype(float)
    return frame, table, examples


def context_cuts(plan: Plan, base: Base, store: Store) -> list[dict]:
    """Per in-context cell how many tokens of its context did not fit and were cut away (never a question)."""
    found = []
    for cell in plan.cells:
        identity = cell.task.identity(base)
        if STEMS.get(cell.stem).in_context and store.has_reading(identity):
            ledger = read_marker(store.reading_folder(identity) / "reading.json")["ledger"]
            found.append({"cell": cell.slug, "tokens": int(ledger["context_cut_tokens"])})
    return found


def write_scores(store: Store, identity: str, metric: str, scored: list[dict]) -> None:
    """Keep the scores of one metric beside the predictions they belong to."""
    path = store.reading_folder(identity) / "scores" / f"{metric}.jsonl"
    if not path.exists():
        write_jsonl(path, scored)


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
