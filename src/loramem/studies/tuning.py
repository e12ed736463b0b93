"""Settings chosen on knowledge that the study never asks about: one sweep per point of the grid.

A study that compares ranks or bases at one rate compares how well that rate suits each of them (PITFALLS 43); settings
chosen on the test facts are no longer tested on them (PITFALLS 44). So every point of the grid whose rate is
`{sweep: [...], dev_tokens: N}` (and, where given, whose budget is a sweep) is trained at every setting on N tokens of the
source's dev split, and the setting with the lowest loss on the answers is taken, or (`by: exact_match`) the one that gives
back most of them. The modules lie in the store like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from loramem.answering.readings import ReadingTask
from loramem.base.model import Base
from loramem.core.errors import RunFailed
from loramem.metrics.scorers import METRICS
from loramem.modules.recipe import ModuleConfig
from loramem.modules.store import Store
from loramem.sources.catalogue import Source, load_dev
from loramem.studies.cells import Cell, ModulePlan
from loramem.studies.execute import Outcome, read_missing, train_missing
from loramem.studies.executors import Executor
from loramem.studies.learning import Synthesis
from loramem.studies.plan import plan_module
from loramem.studies.points import Point
from loramem.studies.progress import Progress
from loramem.studies.spec import Study
from loramem.synthesis.recipes import parse_recipe

SWEEP_SEED = 0


@dataclass(frozen=True)
class Candidate:
    """One setting tried at one point: a module for each part of the dev split, each asked its own questions."""

    point: Point
    config: ModuleConfig
    modules: tuple[ModulePlan, ...]
    tasks: tuple[ReadingTask, ...]


def plan_sweeps(study: Study, base: Base, synthesis: Synthesis | None = None) -> dict[str, list[Candidate]]:
    """Per source every (point, setting) to be tried, on the study's first partition and most written supervision.

    Raises:
        InputError: a source has too little left for a dev split, or none.
    """
    synthesis = synthesis or Synthesis(base, pieces=study.file.chunking)
    found: dict[str, list[Candidate]] = {}
    # of several supervisions the one with most parts: settings are chosen once, for all that are compared
    choice = max(study.supervisions, key=lambda one: len(parse_recipe(one.recipe)))
    for key, points in study.points.items():
        splits: dict[int, Source] = {}
        for point in points:
            if not point.tried:
                continue
            size = point.dev_tokens
            if size not in splits:
                dev = load_dev(study.sources[key], size, base.prompts.count)
                trained = tuple(probe for probe in dev.probes if probe.phrasing == "trained")
                splits[size] = replace(dev, probes=trained)
            parts = synthesis.learn(key, None, splits[size], choice, study.partitions[0])
            for config in point.tried:
                modules = tuple(plan_module(base, config, part, SWEEP_SEED) for part in parts)
                tasks = tuple(ReadingTask("module", m.source, m.id) for m in modules if m.source.probes)
                found.setdefault(key, []).append(Candidate(point, config, modules, tasks))
    return found


def tune(
    study: Study,
    store: Store,
    outcome: Outcome,
    progress: Progress,
    executor: Executor,
    synthesis: Synthesis | None = None,
) -> Study:
    """Run the sweeps and return the study with every setting chosen; a study without sweeps comes back as it is.

    Raises:
        RunFailed: no setting of a point could be trained.
    """
    base = executor.base
    planned = plan_sweeps(study, base, synthesis)
    candidates = [candidate for found in planned.values() for candidate in found]
    if not candidates:
        return study
    modules = {module.id: module for candidate in candidates for module in candidate.modules}
    progress.say(f"sweeping settings on dev splits: {len(modules)} modules")
    train_missing(modules.values(), store, outcome, progress, executor)
    cells = [
        Cell("sweep", SWEEP_SEED, "module", c.modules[0].source_key, c.modules[0].source, c.tasks, c.modules)
        for c in candidates
    ]
    read_missing(cells, base, store, outcome, progress, executor)
    points: dict[str, list[Point]] = {}
    chosen: list[dict] = []
    for key, own in study.points.items():
        points[key] = []
        for point in own:
            tried = [
                (c.config, answer_loss(c.tasks, base, store), answers_right(c.tasks, base, store))
                for c in planned.get(key, ())
                if c.point == point
            ]
            if not tried:
                points[key].append(point)
                continue
            best = _best(key, point, tried)
            points[key].append(replace(point, config=best, tried=()))
            chosen.append({
                "base": base.name, "source": key, "rank": point.config.spec.rank, "budget": best.budget.label,
                "dev_tokens": point.dev_tokens, "lr": best.optimizer.lr, "by": point.by,
                "tried": [
                    {"lr": c.optimizer.lr, "budget": c.budget.label, "nats_per_token": loss, "exact_match": right}
                    for c, loss, right in tried
                ],
                "swept": _swept([config for config, _, _ in tried]),
                "at_edge": _at_edge(best, [config for config, _, _ in tried]),
            })  # fmt: skip
    return study.with_rates(points, chosen)


def _best(
    source: str, point: Point, tried: list[tuple[ModuleConfig, float | None, float | None]]
) -> ModuleConfig:
    good = [
        (-(right or 0.0) if point.by == "exact_match" else 0.0, loss, number)
        for number, (_, loss, right) in enumerate(tried)
        if loss is not None
    ]
    if not good:
        rates = ", ".join(f"{config.optimizer.lr:g} for {config.budget.label}" for config, _, _ in tried)
        raise RunFailed(
            f"no setting of {rates} could be trained at rank {point.config.spec.rank} on {source}"
        )
    return tried[min(good)[2]][0]


def _swept(tried: list[ModuleConfig]) -> list[str]:
    """What differs among the settings tried."""
    differs: dict[str, set] = {
        "lr": {config.optimizer.lr for config in tried},
        "budget": {config.budget.label for config in tried},
    }
    return [name for name, values in differs.items() if len(values) > 1]


def _at_edge(best: ModuleConfig, tried: list[ModuleConfig]) -> bool:
    """Whether the chosen rate or length is the lowest or highest one tried: a better one may lie beyond."""
    for value in (lambda c: c.optimizer.lr, lambda c: c.budget.steps or c.budget.exposures or 0):
        values = {value(config) for config in tried}
        if len(values) > 1 and value(best) in (min(values), max(values)):
            return True
    return False


def answer_loss(tasks: tuple[ReadingTask, ...], base: Base, store: Store) -> float | None:
    """Mean over facts of the loss on the answer, in nats per token; None without a reading of every task."""
    losses: list[float] = []
    for task in tasks:
        reading = task.identity(base)
        if not store.has_reading(reading):
            return None
        rows = store.predictions(reading)
        own = [-sum(row["gold_nats"]) / len(row["gold_nats"]) for row in rows if row.get("gold_nats")]
        assert len(own) == len(task.probes), (len(own), len(task.probes))
        losses += own
    return sum(losses) / len(losses) if losses else None


def answers_right(tasks: tuple[ReadingTask, ...], base: Base, store: Store) -> float | None:
    """Share of the dev questions answered exactly; None without a reading, or where nothing is answered in words."""
    metric = METRICS.get("exact_match")
    scores: list[float] = []
    for task in tasks:
        reading = task.identity(base)
        if not store.has_reading(reading):
            return None
        rows = {row["probe"]: row for row in store.predictions(reading)}
        scores += [metric.score(p, rows[p.id]) or 0.0 for p in task.probes if metric.applies(p)]
    return sum(scores) / len(scores) if scores else None
