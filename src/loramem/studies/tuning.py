"""Learning rates chosen on knowledge that the study never asks about: one sweep per point of the grid.

A study that compares ranks at one rate compares how well that rate suits each rank (PITFALLS 43); a rate
chosen on the test facts is no longer tested on them (PITFALLS 44). So every point of the grid whose rate is
`{sweep: [...], dev_tokens: N}` is trained at each rate on N tokens of the source's dev split, and the rate with the
lowest loss on the answers is taken. The modules lie in the store like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from loramem.answering.readings import ReadingTask
from loramem.base.model import Base
from loramem.core.errors import RunFailed
from loramem.core.files import read_jsonl
from loramem.modules.recipe import ModuleConfig
from loramem.modules.store import Store
from loramem.sources.catalogue import Source, load_dev
from loramem.studies.execute import Outcome, read_missing, train_missing
from loramem.studies.plan import Cell, Learnt, ModulePlan, learn, plan_module
from loramem.studies.progress import Progress
from loramem.studies.spec import Point, Study

SWEEP_SEED = 0


@dataclass(frozen=True)
class Candidate:
    """One rate tried at one point."""

    point: Point
    module: ModulePlan
    task: ReadingTask

    @property
    def lr(self) -> float:
        return self.module.config.optimizer.lr


def at_rate(config: ModuleConfig, lr: float) -> ModuleConfig:
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr": lr})})


def plan_sweeps(study: Study, base: Base) -> dict[str, list[Candidate]]:
    """Per source every (point, rate) to be tried. Raises `InputError` where a source has too little left for a dev split."""
    found: dict[str, list[Candidate]] = {}
    for key, points in study.points.items():
        splits: dict[int, Learnt] = {}
        for point in points:
            if point.sweep is None:
                continue
            size = point.sweep.dev_tokens
            if size not in splits:
                dev = load_dev(study.sources[key], size, base.prompts.count)
                trained = tuple(probe for probe in dev.probes if probe.phrasing == "trained")
                splits[size] = learn(study.file.supervision.recipe, base, key, replace(dev, probes=trained))
            for lr in point.sweep.sweep:
                module = plan_module(base, at_rate(point.config, lr), splits[size], SWEEP_SEED)
                task = ReadingTask("module", splits[size].source, module.id)
                found.setdefault(key, []).append(Candidate(point, module, task))
    return found


def tune(study: Study, base: Base, store: Store, outcome: Outcome, progress: Progress, *, rows: int) -> Study:
    """Run the sweeps and return the study with every rate chosen; a study without sweeps comes back as it is.

    Raises:
        RunFailed: no rate of a point could be trained.
    """
    planned = plan_sweeps(study, base)
    candidates = [candidate for found in planned.values() for candidate in found]
    if not candidates:
        return study
    progress.say(f"sweeping learning rates on dev splits: {len(candidates)} modules")
    train_missing([c.module for c in candidates], base, store, outcome, progress, rows=rows)
    cells = [
        Cell("sweep", SWEEP_SEED, "module", c.module.source_key, c.task.source, c.task, c.module)
        for c in candidates
    ]
    read_missing(cells, base, store, outcome, progress, rows=rows)
    points: dict[str, list[Point]] = {}
    chosen: list[dict] = []
    for key, own in study.points.items():
        points[key] = []
        for point in own:
            tried = {
                c.lr: answer_loss(c.task.source, c.task.identity(base), store)
                for c in planned.get(key, ())
                if c.point == point
            }
            if not tried:
                points[key].append(point)
                continue
            best = _best(key, point, tried)
            points[key].append(replace(point, config=at_rate(point.config, best), sweep=None))
            chosen.append({
                "source": key, "rank": point.config.spec.rank, "budget": point.config.budget.label,
                "dev_tokens": point.sweep.dev_tokens if point.sweep else 0, "lr": best,
                "tried": [{"lr": lr, "nats_per_token": loss} for lr, loss in tried.items()],
                "at_edge": len(tried) > 1 and best in (min(tried), max(tried)),
            })  # fmt: skip
    return study.with_rates(points, chosen)


def _best(source: str, point: Point, tried: dict[float, float | None]) -> float:
    good = [(loss, lr) for lr, loss in tried.items() if loss is not None]
    if not good:
        rates = ", ".join(f"{lr:g}" for lr in tried)
        raise RunFailed(
            f"no learning rate of {rates} could be trained at rank {point.config.spec.rank} on {source}"
        )
    return min(good)[1]


def answer_loss(source: Source, reading: str, store: Store) -> float | None:
    """Mean over facts of the loss on the answer, in nats per token; None without a reading."""
    if not store.has_reading(reading):
        return None
    rows = read_jsonl(store.reading_folder(reading) / "predictions.jsonl")
    losses = [-sum(row["gold_nats"]) / len(row["gold_nats"]) for row in rows if row.get("gold_nats")]
    assert len(losses) == len(source.probes), (len(losses), len(source.probes))
    return sum(losses) / len(losses)
