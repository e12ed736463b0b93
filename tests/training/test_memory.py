"""Predicted peak memory is within 15 % of what was measured; passes keep within the budget."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from meter import measured_peak

from loramem.base import Base, Encoded, load_base
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.training import TrainJob, train_modules
from loramem.training import loop as training_loop
from loramem.training.memory import Need, SavedBytes, memory_budget, state_bytes
from loramem.training.planner import Planner


@pytest.fixture(scope="module")
def embedded() -> Base:
    return load_base()


@pytest.fixture
def planners(monkeypatch) -> list[Planner]:
    """The planners of the trainings to come."""
    made: list[Planner] = []

    class Kept(Planner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(training_loop, "Planner", Kept)
    return made


def jobs(base: Base, specs, *, length: int, batch: int, answer: int, objective=Objective()) -> list[TrainJob]:  # noqa: B008
    rng = random.Random(0)
    examples = tuple(
        Encoded(tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(length)), length - answer)
        for _ in range(batch)
    )
    teacher = examples if objective.name == "dcd" else ()
    optimizer = Optimizer(lr=1e-3, batch=batch)
    return [
        TrainJob(str(i), spec, objective, optimizer, 3, i, examples, length, teacher=teacher)
        for i, spec in enumerate(specs)
    ]


def train(base: Base, wanted, **options) -> list[str]:
    failed: list[str] = []
    train_modules(
        base, wanted, on_finish=lambda done: None, on_fail=lambda key, error: failed.append(str(error)), rows=10**6, **options
    )  # fmt: skip
    return failed


CASES = {
    "four small": ([LoraSpec(rank=4)] * 4, dict(length=32, batch=8, answer=10), {}),
    "a large rank": ([LoraSpec(rank=1024)], dict(length=32, batch=8, answer=10), {}),
    "dropout": ([LoraSpec(rank=16, dropout=0.1)] * 3, dict(length=32, batch=8, answer=10), {}),
    "long answers": ([LoraSpec(rank=16)] * 2, dict(length=256, batch=8, answer=250), {}),
    "long rows": ([LoraSpec(rank=16)], dict(length=1000, batch=4, answer=50), {}),
    "recomputed": ([LoraSpec(rank=16)] * 2, dict(length=600, batch=4, answer=50), dict(recompute=True)),
    "dora": ([LoraSpec(rank=16, variant="dora")] * 3, dict(length=64, batch=8, answer=20), {}),
    "pissa": ([LoraSpec(rank=16, variant="pissa")] * 3, dict(length=64, batch=8, answer=20), {}),
    "distilled": ([LoraSpec(rank=4)] * 4, dict(length=32, batch=8, answer=10, objective=Objective(name="dcd")), {}),
    "mixed": ([LoraSpec(rank=4)] * 6 + [LoraSpec(rank=64, targets="mlp")] * 2, dict(length=32, batch=8, answer=10), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_predicted_peak_is_within_15_percent_of_the_measured_one(embedded, planners, case):
    specs, data, options = CASES[case]
    wanted = jobs(embedded, specs, **data)
    assert train(embedded, wanted, **options) == []  # what is made once is there
    measured = measured_peak(lambda: train(embedded, wanted, **options), torch.device("cpu"))
    predicted = planners[-1].peak(wanted)
    assert predicted == pytest.approx(measured, rel=0.15), (
        f"{predicted / 2**20:.1f} of {measured / 2**20:.1f} MiB"
    )


def test_within_a_small_budget_rows_are_split_and_layers_recomputed_and_the_peak_keeps_within_it(
    embedded, planners
):
    wanted = jobs(embedded, [LoraSpec(rank=8)] * 2, length=384, batch=8, answer=20)
    states = sum(state_bytes(embedded, job.spec) for job in wanted)
    free: dict = {}
    train_modules(embedded, wanted, on_finish=lambda done: free.update({done.key: done}), on_fail=pytest.fail)
    budget = states + 40 * 2**20
    assert planners[-1].peak(wanted) > 1.5 * budget
    bound: dict = {}

    def run() -> None:
        train_modules(
            embedded, wanted, on_finish=lambda done: bound.update({done.key: done}), on_fail=pytest.fail, memory=budget
        )  # fmt: skip

    # the probe of the first kind runs three rows without a plan, so it is measured apart
    run()
    own = Planner.observe
    needs = planners[-1]._needs
    try:
        Planner.observe = lambda self, learner, bank: self._needs.update(needs)  # type: ignore[method-assign]
        measured = measured_peak(run, torch.device("cpu"))
    finally:
        Planner.observe = own  # type: ignore[method-assign]
    assert measured < 1.15 * budget
    for key, done in bound.items():
        assert done.final_loss == pytest.approx(free[key].final_loss, rel=1e-3)


def test_jobs_wait_where_there_is_no_memory_for_them(embedded, planners, monkeypatch):
    wanted = jobs(embedded, [LoraSpec(rank=64)] * 6, length=32, batch=2, answer=5)
    one = state_bytes(embedded, wanted[0].spec)
    most = 0
    own = Planner.passes

    def watched(self, learners, bank):
        nonlocal most
        most = max(most, len(learners))
        return own(self, learners, bank)

    monkeypatch.setattr(Planner, "passes", watched)
    assert train(embedded, wanted, memory=int(2.5 * one) + 2**23) == []
    assert 1 <= most <= 3


def test_what_autograd_keeps_is_counted_once_and_weights_never():
    weight = torch.randn(50, 50, requires_grad=True)
    x = torch.randn(10, 50, requires_grad=True)
    with SavedBytes([weight]) as saved:
        y = (x @ weight) * (x @ weight)
    assert saved.total == (10 * 50 + 2 * 10 * 50) * 4 and y.requires_grad


def test_rows_within_a_room_are_the_most_that_fit():
    need = Need(row=100.0, passing=10.0, answer=50.0, part=400.0)
    for room in (0, 99, 150, 1000, 12345):
        rows = need.rows_within(room)
        assert need.of(rows) <= room < need.of(rows + 1)


def test_the_budget_is_a_share_of_what_is_free():
    total = 1024 * int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert 0 < memory_budget(torch.device("cpu")) <= total / 2
