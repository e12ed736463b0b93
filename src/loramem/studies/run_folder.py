"""The run folder: made, filled with what a study found, taken away again where nothing could be done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from loramem.core.errors import InputError
from loramem.core.files import clear_temporary, read_marker, write_json
from loramem.modules.store import Store
from loramem.studies.capacity import capacity, derived_rows
from loramem.studies.costs import costs_of, module_costs
from loramem.studies.execute import Outcome
from loramem.studies.judging import Judging, accounts
from loramem.studies.latency import LATENCY_METRICS, with_verdicts
from loramem.studies.plan import Plan
from loramem.studies.results import as_frame, write_parquet
from loramem.studies.routed import merge_rows
from loramem.studies.run_log import LOG
from loramem.studies.spec import Study
from loramem.studies.summary import clean, summarise


@dataclass
class RunResult:
    """Where a run lies and what it found.

    Attributes:
        info: What the run was, for its report: environment, costs, examples, training curves, failures.
        summary: summary.json.
    """

    out: Path
    info: dict
    summary: dict

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    @property
    def failures(self) -> list[dict]:
        return self.info["failures"]


@dataclass(frozen=True)
class Leg:
    """A study on one of its bases, done: what it planned and found, and what its report needs of the base."""

    study: Study
    plan: Plan
    outcome: Outcome
    results: pd.DataFrame
    items: pd.DataFrame
    examples: list[dict]
    modules: pd.DataFrame
    contexts: list[dict]
    failures: list[dict]
    environment: dict
    fingerprint: str
    judging: Judging
    merges: pd.DataFrame
    latency: dict | None


def prepare_out(out: Path) -> Path:
    """Make the run folder, or clear what a killed run left in it. Raises `InputError` where that is impossible."""
    try:
        if (out / LOG).exists():  # it is one: no other folder is searched
            clear_temporary(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG).touch()
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}") from None
    return out


def forget_out(out: Path) -> None:
    """Take a run folder away in which nothing was done yet: what cannot be used leaves nothing behind."""
    for name in (LOG, "study.yaml"):
        (out / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody put something else there
        out.rmdir()


def default_out(study: Study) -> Path:
    return Path("runs") / f"{study.name}-{study.scale}"


def record(study: Study, legs: Sequence[Leg], store: Store, out: Path, *, began: float) -> RunResult:
    """Write what the legs found: results, summary, verdicts, costs.

    Args:
        began: When the run did (`time.time`).
    """
    environments = [leg.environment for leg in legs]
    shown = {**environments[0], "bases": [one["base"] for one in environments]}
    counts = merged_counts([leg.plan.counts() for leg in legs])
    write_json(out / "environment.json", shown)
    write_json(out / "plan.json", counts)
    results = pd.concat([leg.results for leg in legs], ignore_index=True)
    items = pd.concat([leg.items for leg in legs], ignore_index=True)
    write_parquet(items, out / "items.parquet")
    supervision = [
        {"base": base, **row}
        for base, leg in zip(study.bases, legs, strict=True)
        for row in leg.plan.supervision
    ]
    write_json(out / "supervision.json", clean(supervision))
    scored = [one for one in study.file.expect if one.metric not in LATENCY_METRICS]
    summary = summarise(results, items, scored, metrics=study.file.metrics)
    modules = pd.concat([leg.modules for leg in legs], ignore_index=True)
    found = capacity(study.file.capacity, pd.DataFrame(summary["cells"]), items, modules)
    derived = as_frame([{"base": legs[0].fingerprint[:12], **row} for row in derived_rows(study.name, found)])
    write_parquet(pd.concat([results, derived], ignore_index=True), out / "results.parquet")
    failures = [failure for leg in legs for failure in leg.failures]
    summary.update(
        capacity=clean(found), sweeps=[row for leg in legs for row in leg.study.chosen], failures=failures,
        supervision=clean([{k: v for k, v in row.items() if k != "documents"} for row in supervision]),
    )  # fmt: skip
    summary["contexts"] = clean([row for leg in legs for row in leg.contexts])
    summary.update(accounts([leg.judging for leg in legs]))
    merges = pd.concat([leg.merges for leg in legs], ignore_index=True)
    if len(merges):
        write_parquet(merges, out / "merges.parquet")
    summary["merges"] = clean(merge_rows(merges))
    timed = [leg.latency for leg in legs if leg.latency is not None]
    if timed:
        write_json(out / "latency.json", timed)
        summary["latency"] = timed
    summary["verdicts"] = with_verdicts(summary, study.file.expect)
    summary["run"] = {
        "study": study.name,
        "scale": study.scale,
        "version": study.file.version,
        "seeds": study.file.seeds,
        "base": ", ".join(study.bases),
    }
    write_json(out / "summary.json", summary)
    spent = module_costs((leg.plan for leg in legs), store)
    info = {
        "study": study.name, "question": study.file.question, "version": study.file.version, "scale": study.scale,
        "environment": shown, "plan": counts, "rows": len(results) + len(derived), "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "costs": costs_of(spent, ((leg.plan, leg.outcome) for leg in legs)), "contexts": [row for leg in legs for row in leg.contexts], "failures": failures,
        "examples": [row for leg in legs for row in leg.examples], "training": [row for leg in legs for row in training_curves(leg.plan, store)],
        "body": yaml.safe_dump(study.body, sort_keys=False, allow_unicode=True), "wall_seconds": time.time() - began,
        "reused": {name: sum(getattr(leg.outcome, f"{name}_reused") for leg in legs) for name in ("modules", "readings")},
    }  # fmt: skip
    write_json(
        out / "costs.json",
        {
            **{key: info[key] for key in ("created", "wall_seconds", "costs", "reused", "plan")},
            "modules": spent,
        },
    )
    return RunResult(out, info, summary)


def merged_counts(counts: Sequence[dict]) -> dict:
    """The counts of several plans: numbers add up, sources are those of the first base (sizes in its tokens)."""
    return {
        key: value if key == "sources" else sum(one[key] for one in counts)
        for key, value in counts[0].items()
    }


def training_curves(plan: Plan, store: Store) -> list[dict]:
    """Loss curves of every finished module of the plan."""
    curves = []
    for module in plan.modules.values():
        if store.has_module(module.id):
            folder = store.module_record(module.id)
            marker = read_marker(folder / "recipe.json")
            curves.append({
                "module": module.id[:12], "source": module.source_key, "size_tokens": module.source.size_tokens, "facts": len(module.source.records),
                "rank": module.config.spec.rank, "seed": module.seed, "steps": marker.get("steps_taken", module.job.steps),
                "budget": module.config.budget.label, "ended": marker.get("ended", "steps"),
                "parameters": module.parameters, "final_loss": marker.get("final_loss"), "ledger": read_marker(folder / "ledger.json"),
                "log": store.training_log(module.id),
            })  # fmt: skip
    return curves
