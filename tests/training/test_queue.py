"""A queue of modules through the slots of one bank: who is done leaves no trace, and neither does what memory made of a step."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from loramem.core.errors import InputError, RunFailed
from loramem.modules.bank import Bank
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer
from loramem.training import TrainJob, loop, passes, planner
from loramem.training.optimizer import BankedAdamW
from loramem.training.packing import Queue
from loramem.training.planner import Planner
from training.hand import examples, in_double, job, same, train, whole_distance

ONE = LoraSpec(rank=1, targets=("q_proj",), layers=(1,))
FAST = 1e-10
"""In double precision: what is left where only the order of a sum changed."""


@pytest.fixture
def llama(bases):
    return bases["llama"]


@pytest.fixture
def seen(monkeypatch) -> list:
    """The trainers of the trainings to come."""
    made: list = []

    class Kept(loop._Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(loop, "_Trainer", Kept)
    return made


def trained(found: dict, key: str):
    if isinstance(found[key], Exception):
        raise found[key]
    return found[key].tensors


# -- the order of the queue --------------------------------------------------------------------------
def taken(queue: Queue, running: list[TrainJob], fits=lambda job: True) -> list[str]:
    keys = []
    while (one := queue.take(running, fits)) is not None:
        running.append(one)
        keys.append(one.key)
    return keys


def test_one_kind_follows_itself_and_the_longest_comes_first(llama):
    """The kind with most work leads; small ranks are of one kind, other lengths, targets and variants are not."""
    jobs = [
        job(llama, "other", rank=16, steps=10),
        job(llama, "short", rank=2, steps=5),
        job(llama, "long", rank=8, steps=9),
        job(llama, "dora", variant="dora", steps=4),
    ]
    assert [one.key for one in Queue(jobs).waiting] == ["long", "short", "other", "dora"]
    assert taken(Queue(jobs, rows=8), []) == ["long", "short"], "four rows each"
    assert taken(Queue(jobs, rows=63), []) == ["long", "short"], "an eighth is filled: no other kind joins"
    assert taken(Queue(jobs, rows=65), []) == ["long", "short", "other"], (
        "an eighth is not filled, until it is"
    )


def test_what_does_not_fit_waits_and_the_first_is_tried_all_the_same(llama):
    jobs = [job(llama, str(n), steps=9 - n) for n in range(4)] + [
        job(llama, "big", batch=300, steps=1, rank=16)
    ]
    assert taken(Queue(jobs), [], lambda one: one.key in "13") == ["big"], (
        "the most work, and with it the rows are full"
    )
    queue = Queue(jobs[:4])
    running: list[TrainJob] = []
    assert taken(queue, running, lambda one: one.key in "13") == ["0", "1", "3"]
    assert [one.key for one in queue.waiting] == ["2"] and taken(queue, []) == ["2"] and not queue


# -- leaving and joining -----------------------------------------------------------------------------
def update(optimizer: BankedAdamW, slots, *, lr=0.1, decay=0.5, clip=1.0) -> None:
    optimizer.step(
        lr=dict.fromkeys(slots, lr), decay=dict.fromkeys(slots, decay), clip=dict.fromkeys(slots, clip)
    )


def grade(bank: Bank, slot: int, seed: int) -> None:
    """Give a module a random gradient."""
    bucket = bank.bucket_of[slot]
    place = bucket.slots.index(slot)
    bucket.grad_NP[place] = torch.randn(
        bucket.flat_NP.shape[1], generator=torch.Generator().manual_seed(seed)
    )


def test_a_module_that_is_given_no_rate_stays_as_it_is(llama):
    """Neither gradient nor decay reaches it; its gradient is gone."""
    bank = Bank(llama.model, [ONE] * 2, seeds=[0, 1])
    try:
        optimizer = BankedAdamW(bank)
        before = [bank.tensors(slot) for slot in (0, 1)]
        for slot in (0, 1):
            grade(bank, slot, slot)
        update(optimizer, [1])
        assert same(bank.tensors(0), before[0]) and not same(bank.tensors(1), before[1])
        assert set(optimizer.moments) == {1} and not bank.buckets[0].grad_NP.any()
    finally:
        bank.detach()


def test_a_place_used_again_begins_with_zero_moments(llama):
    bank = Bank(llama.model, [ONE] * 2, seeds=[0, 1])
    try:
        optimizer = BankedAdamW(bank)
        for step in range(3):
            grade(bank, 0, step)
            grade(bank, 1, 10 + step)
            update(optimizer, [0, 1])
        place, kept = bank.bucket_of[0].flat_NP[0].data_ptr(), bank.tensors(1)
        bank.drop([1])
        new = bank.add(ONE, 7)
        bank.drop([0])  # the new one moves into its place
        assert bank.bucket_of[new].flat_NP[0].data_ptr() == place
        grade(bank, new, 5)
        update(optimizer, [new])
        assert set(optimizer.moments) == {new} and float(optimizer.moments[new].steps) == 1
        found = bank.tensors(new)
    finally:
        bank.detach()
    fresh = Bank(llama.model, [ONE], seeds=[7])
    try:
        grade(fresh, 0, 5)
        update(BankedAdamW(fresh), [0])
        assert same(fresh.tensors(0), found) and not same(found, kept)
    finally:
        fresh.detach()


def test_what_is_done_leaves_the_bank_and_its_moments_with_it(llama, seen):
    short, long = job(llama, "short", steps=2, seed=1), job(llama, "long", steps=5, seed=3, rank=3)
    held: list[tuple[int, int]] = []

    def step(rows: int, tokens: int) -> None:
        (trainer,) = seen
        held.append((len(trainer.bank.specs), len(trainer.optimizer.moments)))

    found = train(llama, [short, long], on_step=step)
    assert held == [(2, 2), (2, 2), (1, 1), (1, 1), (1, 1)]
    assert found["short"].steps == 2 and found["long"].steps == 5
    (trainer,) = seen
    assert not trainer.bank.specs and not trainer.learners


def test_two_hundred_modules_stream_through_sixteen_rows(llama, seen):
    jobs = [
        TrainJob(
            f"{n:03}", ONE, Objective(), Optimizer(lr=0.05, batch=2, schedule="constant"), 1, n,
            examples(n % 7, len(llama.tokenizer), 3), 24,
        )
        for n in range(200)
    ]  # fmt: skip
    rows: list[int] = []

    def step(done: int, tokens: int) -> None:
        (trainer,) = seen
        rows.append(done)
        assert done == 2 * len(trainer.bank.specs) <= 16

    found = train(llama, jobs, rows=16, on_step=step)
    assert rows == [16] * 25, "no slot is ever idle"
    for one in jobs:
        assert found[one.key].steps == 1
    for one in jobs[::40]:
        assert whole_distance(trained(found, one.key), trained(train(llama, [one]), one.key)) < 1e-6


def test_short_modules_of_one_kind_join_a_long_one(llama, seen):
    """A free slot is filled at once: the long module never waits for the short ones, nor they for it."""
    long = job(llama, "long", steps=6, seed=0)
    shorts = [job(llama, f"short{n}", steps=2, seed=n, data=n) for n in range(1, 4)]
    rows: list[int] = []
    found = train(llama, [long, *shorts], rows=8, on_step=lambda done, tokens: rows.append(done))
    assert rows == [8] * 6
    for one in (long, *shorts):
        assert whole_distance(trained(found, one.key), trained(train(llama, [one]), one.key)) < 1e-6


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_module_of_any_batch_trains_with_dropout(llama, batch):
    assert trained(train(llama, [job(llama, "x", batch=batch, steps=2, dropout=0.3)]), "x")


# -- modules that fail -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"spec": LoraSpec(rank=4, targets=("q_prj",))}, "Did you mean 'q_proj'"),
        pytest.param({"spec": LoraSpec(rank=4, layers=(9,))}, "layers"),
        pytest.param({"spec": LoraSpec(rank=33, variant="pissa")}, "singular directions"),
        ({"optimizer": Optimizer(lr=0.1, compute="tf32")}, "tf32"),
    ],
    ids=str,
)
def test_a_module_that_cannot_begin_fails_alone(llama, seen, change, words):
    """Whether it is the first of the queue (and taken whatever it needs) or one that must be found to fit."""
    good = job(llama, "good", steps=3)
    bad = [
        dataclasses.replace(job(llama, key, steps=steps), **change)
        for key, steps in (("long", 9), ("short", 1))
    ]
    found = train(llama, [*bad, good])
    for one in bad:
        assert isinstance(found[one.key], InputError) and words in str(found[one.key])
    assert whole_distance(trained(found, "good"), trained(train(llama, [good]), "good")) < 1e-6
    assert not seen[0].bank.specs


@pytest.mark.parametrize("rows", [8, 256], ids=["it waits", "it is in a pass of its own"])
def test_an_error_in_a_pass_fails_the_modules_in_it_and_no_other(llama, monkeypatch, rows):
    broken, beside, other = (
        dataclasses.replace(job(llama, key, steps=3, seed=n, data=n), length=length)
        for n, (key, length) in enumerate([("broken", 16), ("beside", 16), ("other", 24)])
    )
    calls = 0

    def once(base, bank, parts):
        nonlocal calls
        found = passes.part_losses(base, bank, parts)  # gradients are in the bank before it breaks
        if any(part.learner.job.key == "broken" and part.learner.step == 1 for part in parts):
            calls += 1
            raise RuntimeError("the device is gone")
        return found

    monkeypatch.setattr(loop, "part_losses", once)
    found = train(llama, [broken, beside, other], rows=rows)
    assert calls == 1
    for one in (broken, beside):
        assert isinstance(found[one.key], RuntimeError) and "device is gone" in str(found[one.key])
    assert whole_distance(trained(found, "other"), trained(train(llama, [other]), "other")) < 1e-6


# -- memory ------------------------------------------------------------------------------------------
@pytest.fixture
def at_most(monkeypatch):
    """Have every planner begin with a limit of rows."""

    def limit(rows: int | None) -> None:
        class Small(Planner):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.most_rows = rows

        monkeypatch.setattr(loop, "Planner", Small)

    return limit


@pytest.fixture
def heights(monkeypatch) -> list[int]:
    """Rows of the passes to come."""
    found: list[int] = []
    kept = loop.part_losses

    def counted(base, bank, parts):
        found.append(sum(part.stop - part.start for part in parts))
        return kept(base, bank, parts)

    monkeypatch.setattr(loop, "part_losses", counted)
    return found


def mixture(base) -> list[TrainJob]:
    return [
        job(base, "plain", steps=4, seed=1),
        job(base, "dropped", steps=4, seed=2, data=1, rank=2, dropout=0.5),
        job(base, "dora", steps=4, seed=3, data=2, batch=5, variant="dora", dropout=0.3),
        job(base, "pissa", steps=4, seed=4, data=3, batch=2, variant="pissa", dropout=0.1, lr=0.003),
    ]


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_may_be_split_into_passes(llama, at_most, heights, most):
    """Gradients of its parts add up, each seeing its own rows of the masks."""
    with in_double(llama) as base:
        whole = train(base, mixture(base))
        assert max(heights) == 15, "all of them in one pass"
        heights.clear()
        at_most(most)
        split = train(base, mixture(base))
        assert max(heights) == most and sum(heights) == 4 * 15
        for key, one in whole.items():
            assert whole_distance(trained(split, key), one.tensors) < FAST, key
            assert [row["loss"] for row in split[key].log] == pytest.approx([row["loss"] for row in one.log])


def test_split_batches_change_no_more_than_rounding_in_single_precision(llama, at_most):
    whole = train(llama, mixture(llama))
    at_most(3)
    split = train(llama, mixture(llama))
    for key, one in whole.items():
        assert whole_distance(trained(split, key), one.tensors) < 1e-5, key


def test_layers_may_be_recomputed(llama):
    found, again = train(llama, mixture(llama)), train(llama, mixture(llama), recompute=True)
    for key, one in found.items():
        assert whole_distance(trained(again, key), one.tensors) < 1e-6, key
        assert again[key].log[-1]["loss"] == pytest.approx(one.log[-1]["loss"])


def test_with_next_to_no_memory_rows_go_through_one_by_one(llama, heights):
    """The first of the queue is always tried: a prediction is no refusal."""
    with in_double(llama) as base:
        plenty = train(base, mixture(base))
        heights.clear()
        steps: list[int] = []
        little = train(base, mixture(base), memory=1, on_step=lambda rows, tokens: steps.append(rows))
        assert set(heights) == {1} and len(heights) == 4 * 15
        assert sorted(steps) == sorted([4, 4, 5, 2] * 4), "and modules one by one"
        for key, one in plenty.items():
            assert whole_distance(trained(little, key), one.tensors) < FAST, key


@pytest.fixture
def full(monkeypatch):
    """Have memory run out whenever a pass holds more rows than it is said to hold, after its gradients were made."""

    def limit(most: int, *, when=lambda part: True) -> None:
        def tight(base, bank, parts):
            found = passes.part_losses(base, bank, parts)
            if sum(part.stop - part.start for part in parts) > most and any(when(part) for part in parts):
                raise torch.OutOfMemoryError("out of memory")
            return found

        monkeypatch.setattr(loop, "part_losses", tight)

    return limit


def test_when_memory_runs_out_training_goes_on_with_fewer_rows(llama, full):
    with in_double(llama) as base:
        whole = train(base, mixture(base))
        full(4)
        notes: list[str] = []
        less = train(base, mixture(base), on_note=notes.append)
        assert notes == [
            "out of memory with 15 rows at once; going on with 7 at a time",
            # the largest of the passes of at most 7 rows decides what comes next
            *notes[1:],
        ]
        assert len(notes) == 2 and "going on with 3 at a time" in notes[1]
        for key, one in whole.items():
            assert whole_distance(trained(less, key), one.tensors) < FAST, key
            assert (less[key].steps, less[key].tokens) == (one.steps, one.tokens)


def test_when_not_one_row_fits_a_module_fails_and_the_queue_goes_on(llama, full):
    full(0, when=lambda part: part.learner.job.key.startswith("big"))
    jobs = [
        job(llama, "big1", steps=9, seed=1),
        job(llama, "big2", steps=9, seed=2),
        job(llama, "small1", steps=3, seed=3),
        job(llama, "small2", steps=3, seed=4, rank=16),
    ]
    notes: list[str] = []
    found = train(llama, jobs, rows=12, on_note=notes.append)
    for key in ("big1", "big2"):
        assert isinstance(found[key], RunFailed) and "single row" in str(found[key])
    assert notes[-1].endswith("going on with 1 at a time")
    for one in jobs[2:]:
        assert whole_distance(trained(found, one.key), trained(train(llama, [one]), one.key)) < 1e-5, one.key


def test_every_kind_of_full_memory_is_known(llama, monkeypatch):
    """The CPU's allocator says it in words, Python by a kind of its own."""
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ):

        def tight(base, bank, parts, error=error):
            if sum(part.stop - part.start for part in parts) > 2:
                raise error
            return passes.part_losses(base, bank, parts)

        monkeypatch.setattr(loop, "part_losses", tight)
        notes: list[str] = []
        assert trained(train(llama, [job(llama, "x", steps=2)], on_note=notes.append), "x")
        assert len(notes) == 1


def test_a_probe_that_memory_does_not_hold_is_no_failure(llama, monkeypatch):
    def tight(base, bank, parts):
        if sum(part.stop - part.start for part in parts) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return passes.part_losses(base, bank, parts)

    monkeypatch.setattr(loop, "part_losses", tight)
    monkeypatch.setattr(planner, "part_losses", tight)
    assert trained(train(llama, [job(llama, "x", steps=2)]), "x")


def test_a_checking_pass_that_memory_does_not_hold_ends_no_training(llama, monkeypatch):
    def tight(base, bank, slot, feed, **options):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(loop, "memorised", tight)
    monkeypatch.setattr("loramem.training.course.HALF", math.inf)  # every example counts as right when seen
    watched = dataclasses.replace(
        job(llama, "watched", steps=9), budget=Budget(steps=9, stop_when_memorised=True)
    )
    found = train(llama, [watched, job(llama, "other", steps=9, seed=1)])
    assert trained(found, "other")
