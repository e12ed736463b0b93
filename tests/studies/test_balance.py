"""Packs of work for many workers: each piece in one, balanced, and a queue that can be played before it is run."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.answering.readings import ReadingTask
from loramem.base import load_base
from loramem.base.prompts import Encoded
from loramem.core.errors import InputError, RunFailed
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import load_source
from loramem.studies.balance import Pack, Speeds, in_turn, packs_of, reading_packs, training_packs
from loramem.studies.plan import make_plan
from loramem.studies.queueing import bounds, eta, simulate
from loramem.studies.workload import (
    Item,
    Machine,
    machine_of,
    reading_kind,
    reading_seconds,
    tokens_of,
    training_items,
)
from loramem.training import TrainJob, train_modules
from loramem.training.packing import kind
from tinystudy import study

MACHINE = Machine(
    weights=10**6, per_rank=1000, flops=1e9, adapter_flops=5e8, weight_bytes=4e6, bandwidth=1e9, step_seconds=0.5
)  # fmt: skip
SPEED = Speeds(MACHINE)


def job(key: str, *, rank: int = 4, steps: int = 10, batch: int = 8, length: int = 32, **changes) -> TrainJob:
    return TrainJob(
        key, LoraSpec(rank=rank), Objective(), Optimizer(lr=0.01, batch=batch), steps, 0, (), length, **changes
    )  # fmt: skip


def pack(key: str, seconds: float) -> Pack:
    return Pack(("read",), (Item(key, ("read",), seconds),))


def packs(costs) -> list[Pack]:
    return in_turn(pack(f"p{number}", cost) for number, cost in enumerate(costs))


jobs_ = st.lists(
    st.tuples(
        st.sampled_from([1, 4, 8, 16, 64]),
        st.integers(1, 60),
        st.sampled_from([2, 8, 32]),
        st.sampled_from([16, 32, 200]),
    ),
    min_size=1,
    max_size=40,
).map(
    lambda rows: [
        job(f"m{n}", rank=rank, steps=steps, batch=batch, length=length)
        for n, (rank, steps, batch, length) in enumerate(rows)
    ]
)
costs_ = st.lists(st.floats(0.1, 50.0), min_size=1, max_size=8)


# -- costs ---------------------------------------------------------------------------------------------------
def test_a_token_costs_four_flop_a_weight_and_six_a_module_parameter():
    (item,) = training_items([job("m", rank=16, steps=10, batch=8, length=32)], MACHINE)
    assert item.seconds == pytest.approx(10 * 8 * 32 * (4 * 10**6 / 1e9 + 6 * 16000 / 5e8))
    fast = dataclasses.replace(job("m", rank=16), optimizer=Optimizer(lr=0.01, batch=8, compute="bfloat16"))
    assert training_items([fast], MACHINE)[0].seconds == pytest.approx(10 * 8 * 32 * (4 * 10**6 + 6 * 16000) / 1e9)  # fmt: skip
    small, eight = (training_items([job("m", rank=rank)], MACHINE)[0].seconds for rank in (1, 8))
    assert small == eight  # in the bank they are padded to one rank
    assert (item.steps, item.rows, item.floor) == (10, 8, 0.5)


def test_a_teacher_reads_each_example_once_or_at_every_step():
    told = (Encoded((1,) * 100, 99),) * 5
    own = (Encoded((1, 1), 1),) * 5

    def seconds(**changes) -> float:
        return training_items([dataclasses.replace(job("m"), **changes)], MACHINE)[0].seconds

    plain = seconds()
    last = seconds(examples=own, teacher=told, objective=Objective(name="dcd"))
    every = seconds(examples=own, teacher=told, objective=Objective(name="dcd", hidden="all"))
    assert last - plain == pytest.approx(500 * 2 * 10**6 / 1e9)
    assert every - plain == pytest.approx(10 * 8 * 100 * 2 * 10**6 / 1e9)


def test_the_machine_of_a_base_has_its_shapes_whether_or_not_its_weights_are_there(bases):
    base = bases["llama"]
    found = machine_of(base)
    inner = sum(p.numel() for name, p in base.model.named_parameters() if "layers" in name and p.ndim == 2)
    assert found.weights == inner + base.model.lm_head.weight.numel()
    assert found.weight_bytes == sum(4 * p.numel() for p in base.model.parameters())
    empty = dataclasses.replace(
        base, model=type(base.model)(base.model.config).to("meta"), device=torch.device("meta")
    )
    assert machine_of(empty, device="cpu") == found
    assert machine_of(empty).flops > found.flops  # an accelerator plans for those that compute


def test_a_pack_takes_the_steps_of_the_loop():
    """Two of three run side by side; the third takes the place of the first that is done."""
    items = (
        Item("a", ("train",), 4.0, steps=4, rows=8),
        Item("b", ("train",), 2.0, steps=2, rows=8),
        Item("c", ("train",), 3.0, steps=3, rows=8, floor=1.5),
    )
    one = Pack(("train",), items, at_once=16)
    # a and b: 2 steps of 2 s; a and c: 2 steps of 2 s; c alone: 1 step, of 1.5 s at least
    assert one.ends() == {"b": 4.0, "a": 8.0, "c": 9.5}
    assert one.cost == 9.5 and one.rows == 16
    assert one.without(["a", "b"]).cost == 4.5 and one.without(["a", "b", "c"]) is None


def test_what_one_loop_trains_is_what_a_pack_says_it_does(bases):
    """The order in which real modules end, and after how many steps of the loop, from the real queue."""
    base, examples = bases["llama"], (Encoded((5, 6, 7, 8), 2), Encoded((5, 9, 7), 2))
    jobs = [
        dataclasses.replace(job(f"m{n}", rank=2, steps=steps, batch=4, length=8), examples=examples)
        for n, steps in enumerate([3, 9, 5, 5, 2, 7])
    ]
    done, steps = [], [0]

    def step(rows: int, tokens: int) -> None:
        steps[0] += 1

    train_modules(
        base, jobs, rows=12, on_step=step, on_fail=lambda key, error: pytest.fail(str(error)),
        on_finish=lambda one: done.append((steps[0], one.key)),
    )  # fmt: skip
    # a floor of a second a step and no other cost: ends are numbers of steps
    (one,) = training_packs(jobs, workers=1, rows=12, speed=Speeds(dataclasses.replace(MACHINE, flops=1e99, adapter_flops=1e99, step_seconds=1.0)))  # fmt: skip
    assert sorted(one.ends().items()) == sorted((key, float(at)) for at, key in done)


# -- packs ---------------------------------------------------------------------------------------------------
@settings(deadline=None)  # other work may share the machine
@given(jobs_, st.integers(1, 9), st.sampled_from([32, 256]), st.integers(1, 4))
def test_every_job_is_in_one_pack(jobs, workers, rows, per_worker):
    found = training_packs(jobs, workers=workers, rows=rows, speed=SPEED, per_worker=per_worker)
    assert sorted(key for one in found for key in one.keys) == sorted(one.key for one in jobs)
    assert [one.cost for one in found] == sorted((one.cost for one in found), reverse=True)
    shuffled = random.Random(1).sample(jobs, len(jobs))
    assert training_packs(shuffled, workers=workers, rows=rows, speed=SPEED, per_worker=per_worker) == found


@settings(deadline=None)  # other work may share the machine
@given(jobs_, st.integers(2, 9), st.integers(1, 4))
def test_a_pack_is_a_part_of_a_share_unless_its_steps_would_not_be_filled(jobs, workers, per_worker):
    by_key = {one.key: one for one in jobs}
    found = training_packs(jobs, workers=workers, rows=256, speed=SPEED, per_worker=per_worker)
    total = sum(item.seconds for item in training_items(jobs, MACHINE))
    for one in found:
        work = sum(item.seconds for item in one.items)
        steps = [item.seconds / item.steps for item in one.items]
        kinds = {kind(by_key[key]) for key in one.keys}
        lengths = {by_key[key].length for key in one.keys}
        if len(kinds) == 1:
            assert work <= total / (workers * per_worker) + 1e-9 or sum(steps[:-1]) < MACHINE.step_seconds
            assert one.kind == ("train", *kinds.pop())
        else:
            assert len(lengths) == 1 and one.kind[-1] == "mixed" and sum(steps) < 2 * MACHINE.step_seconds


def test_kinds_that_do_not_fill_a_step_go_through_it_together():
    jobs = [job(f"m{rank}", rank=rank, steps=10, batch=1, length=32) for rank in (4, 16, 64)]
    (one,) = training_packs(jobs, workers=2, rows=256, speed=SPEED, per_worker=1)
    assert set(one.keys) == {"m4", "m16", "m64"} and one.kind[-1] == "mixed"
    jobs[2] = dataclasses.replace(jobs[2], length=40)  # never in one pass with the others
    assert len(training_packs(jobs, workers=2, rows=256, speed=SPEED, per_worker=1)) == 2


@pytest.mark.parametrize("workers", [2, 7, 64])
def test_many_modules_leave_nobody_waiting(workers):
    """Two kinds of 3,000 modules that fill a step by themselves: the last worker ends within 2 % of an even share."""
    jobs = [job(f"m{n}", rank=[4, 16][n % 2], steps=100 + n % 7, length=200) for n in range(3000)]
    found = training_packs(jobs, workers=workers, rows=256, speed=SPEED)
    even = sum(one.cost for one in found) / workers
    assert found[0].cost <= even / 4 + 1e-9
    assert simulate(found, workers=workers).makespan <= 1.02 * even
    assert len(found) <= 16 * 4 * workers + 2  # and packs are not cut smaller than that needs


def test_one_worker_gets_each_kind_whole():
    jobs = [job(f"m{n}", rank=[4, 16][n % 2], steps=500) for n in range(100)]
    found = training_packs(jobs, workers=1, rows=256, speed=SPEED)
    assert sorted(len(one.keys) for one in found) == [50, 50]


def test_modules_too_few_to_fill_all_workers_are_given_one_each():
    jobs = [
        job(f"m{n}", steps=500, length=400) for n in range(6)
    ]  # a step of one takes longer than its floor
    found = training_packs(jobs, workers=64, rows=256, speed=SPEED)
    assert [len(one.keys) for one in found] == [1] * 6


def test_bad_numbers_are_refused():
    with pytest.raises(InputError, match="workers 0"):
        training_packs([job("m")], workers=0, rows=8, speed=SPEED)
    with pytest.raises(InputError, match="speed_spread 1"):
        simulate([], workers=1, speed_spread=1)


def test_no_work_is_no_packs():
    assert training_packs([], workers=3, rows=8, speed=SPEED) == []
    assert reading_packs({}, workers=3, rows=8, speed=SPEED) == []
    assert simulate([], workers=3, load_seconds=5).makespan == 0.0
    assert bounds([], 3) == (0.0, 0.0) and eta([], [], workers=2) == 0.0


# -- readings ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tasks(bases):
    plan = make_plan(
        study(readings=["closed", "module", "wrong-module", "icl", "rag", "module+rag"]), bases["llama"]
    )
    every = {task.identity(bases["llama"]): task for cell in plan.cells for task in cell.tasks}
    return {identity: task for identity, task in every.items() if task.module or "module" not in task.stem}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_reading_is_in_one_pack_and_a_module_in_one_of_a_kind(tasks, workers):
    found = reading_packs(tasks, workers=workers, rows=16, speed=SPEED)
    assert sorted(key for one in found for key in one.keys) == sorted(tasks)
    assert reading_packs(dict(reversed(tasks.items())), workers=workers, rows=16, speed=SPEED) == found
    seen: dict[tuple, int] = {}
    for number, one in enumerate(found):
        assert {reading_kind(tasks[key]) for key in one.keys} == {one.kind}
        for key in one.keys:
            if tasks[key].module:
                assert seen.setdefault((one.kind, tasks[key].module), number) == number
    stems = {tuple(sorted({tasks[key].stem for key in one.keys})) for one in found}
    if workers == 1:  # the right module and the wrong one are asked in one batch, as `readings.read` does it
        assert ("module", "wrong-module") in stems


def test_readings_are_cut_for_many_workers(tasks):
    few, many = (reading_packs(tasks, workers=n, rows=16, speed=SPEED) for n in (1, 20))
    assert len(many) > len(few)
    assert max(one.cost for one in many) <= max(one.cost for one in few)


def test_tokens_of_a_reading_are_of_the_size_of_those_that_are_read():
    """Against the embedded base's own tokenizer, whose vocabulary is small: it makes more of them than is assumed."""
    base = load_base()
    source = load_source({"name": "phonebook", "sizes": [500]}, base.prompts.count)[0]
    found = tokens_of(ReadingTask("closed", source))
    asked = [probe for probe in source.probes if probe.kind == "generate"]
    assert found.written == 50 * len(asked) and found.writers == len(asked)
    told = [probe.prompt for probe in asked] + [p.prompt for p in asked if p.phrasing == "trained"]
    exact = sum(len(base.prompts.chat(prompt)) for prompt in told)
    assert 0.5 * exact < found.read < 2 * exact


def test_a_context_is_counted_once_and_passages_for_each_question(bases):
    source = load_source({"name": "phonebook", "sizes": [300]}, bases["llama"].prompts.count)[0]
    icl, rag = ReadingTask("icl", source), ReadingTask("rag", source, retrieval=Retrieval(chunk_tokens=32))
    bare = tokens_of(ReadingTask("icl", dataclasses.replace(source, documents=()))).read
    assert tokens_of(icl).read - bare == math.ceil(len(source.documents[0].text) / 4)
    assert tokens_of(rag).read - bare == len(rag.probes) * 3 * 32


def test_decoding_costs_a_reading_of_the_weights_for_each_step_of_a_batch(bases):
    source = load_source({"name": "phonebook", "sizes": [300]}, bases["llama"].prompts.count)[0]
    tokens = tokens_of(ReadingTask("closed", source))
    alone, together = (reading_seconds(tokens, MACHINE, rows=rows) for rows in (1, tokens.writers))
    step = MACHINE.weight_bytes / MACHINE.bandwidth
    assert alone - together == pytest.approx(50 * (tokens.writers - 1) * step)


# -- speeds --------------------------------------------------------------------------------------------------
@settings(deadline=None)  # other work may share the machine
@given(st.floats(0.01, 100), st.lists(st.floats(0.7, 1.3), min_size=1, max_size=30), st.data())
def test_measured_speed_converges_to_the_true_one(truth, noise, data):
    """Whatever it starts from, a kind's prediction is what was measured on average, within the noise."""
    speed = data.draw(st.sampled_from([SPEED, SPEED.measured(("train", "other"), 1.0, 1e3)]))
    jobs = [job(f"m{n}", steps=50) for n in range(8)]
    (one,) = training_packs(jobs, workers=1, rows=256, speed=speed)
    for factor in noise:
        speed = speed.observe(one, truth * one.work * factor)
    assert speed.ratio(one.kind) == pytest.approx(truth * sum(noise) / len(noise))
    assert speed.priced(one).cost == pytest.approx(one.work * truth * sum(noise) / len(noise))


def test_an_unseen_kind_costs_what_its_stage_did_then_what_anything_did():
    seen = SPEED.observe(pack("r", 10.0), 20.0)
    assert seen.ratio(("read", "other")) == 2.0 and seen.ratio(("train", "any")) == 2.0
    seen = seen.measured(("train", "one"), 10.0, 50.0)
    assert seen.ratio(("train", "any")) == 5.0 and seen.ratio(("read",)) == 2.0
    assert SPEED.ratio(("train", "any")) == 1.0 and SPEED.seen == {}


def test_a_clock_that_was_set_teaches_nothing():
    assert SPEED.observe(pack("r", 10.0), 0.0) == SPEED == SPEED.observe(pack("r", 10.0), -3.0)


def test_a_probe_and_ledgers_are_a_first_guess_that_measurements_outweigh():
    jobs = [job(f"m{n}", steps=50) for n in range(64)]
    work = sum(item.seconds for item in training_items(jobs, MACHINE))
    probed = SPEED.probed(jobs, 3 * work)
    assert probed.ratio(("train", *kind(jobs[0]))) == pytest.approx(3.0)
    # 64 modules, 32 of which a step holds: two rounds; every ledger has the seconds of its round
    ledger = {"seconds": work / 2 * 3}
    seeded = SPEED.seeded([(one, ledger) for one in jobs], rows=256)
    assert seeded.ratio(("train", *kind(jobs[0]))) == pytest.approx(3.0)
    (one,) = training_packs(jobs, workers=1, rows=256, speed=seeded)
    assert seeded.observe(one, 5 * one.work).ratio(one.kind) == pytest.approx(5.0, rel=0.02)


# -- the queue -----------------------------------------------------------------------------------------------
def by_hand(costs: list[float], workers: int) -> float:
    """List scheduling: each cost in turn to whoever is free first."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heappush(free, heapq.heappop(free) + cost)
    return max(free)


def best_of_all(costs: list[float], workers: int) -> float:
    return min(
        max(
            sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == w) for w in range(workers)
        )
        for owners in itertools.product(range(workers), repeat=len(costs))
    )


@settings(deadline=None)  # other work may share the machine
@given(st.lists(st.floats(0.1, 50.0), min_size=1, max_size=7), st.integers(2, 3))
def test_largest_first_is_within_its_bound_of_the_best_there_is(costs, workers):
    best = best_of_all(costs, workers)
    found = simulate(packs(costs), workers=workers).makespan
    assert max(sum(costs) / workers, max(costs)) - 1e-9 <= best <= found + 1e-9
    assert found <= (4 / 3 - 1 / (3 * workers)) * best + 1e-9


@settings(deadline=None)  # other work may share the machine
@given(costs_, st.integers(1, 5))
def test_without_deaths_it_is_list_scheduling(costs, workers):
    queue = packs(costs)
    found = simulate(queue, workers=workers, load_seconds=7.0)
    assert found.makespan == pytest.approx(7 + by_hand([one.cost for one in queue], workers))
    assert found.makespan - 7 == pytest.approx(eta(queue, [], workers=workers))
    low, high = bounds(queue, workers)
    assert low - 1e-9 <= found.makespan - 7 <= high + 1e-9
    assert found.busy_share == pytest.approx(sum(costs) / (workers * found.makespan))
    assert found.lost_seconds == found.deaths == 0 and found.longest_pack == max(costs)


def test_a_timeline_by_hand():
    found = simulate(packs([5, 4, 3, 3]), workers=2, load_seconds=1)
    rows = [[(span.what, span.start, span.end) for span in line] for line in found.timeline]
    assert rows == [
        [("load", 0, 1), ("p0", 1, 6), ("p3", 6, 9)],
        [("load", 0, 1), ("p1", 1, 5), ("p2", 5, 8)],
    ]
    assert found.makespan == 9


@settings(deadline=None)  # other work may share the machine
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.floats(0, 300), st.integers(0, 9),
    st.floats(0, 0.5),
)  # fmt: skip
def test_whoever_dies_all_is_done_and_nothing_twice(sizes, workers, deaths, seed, spread):
    """Packs of several items, one after the other or side by side; deaths every dozen seconds and more."""
    queue = [
        Pack(("train",), tuple(Item(f"{n}-{k}", ("train",), 1.0 + k, steps=1 + k) for k in range(size)), at_once=1 + n % 2)
        for n, size in enumerate(sizes)
    ]  # fmt: skip
    found = simulate(
        queue, workers=workers, deaths=deaths, restart_seconds=2.0, seed=seed, speed_spread=spread
    )  # fmt: skip
    again = simulate(
        queue, workers=workers, deaths=deaths, restart_seconds=2.0, seed=seed, speed_spread=spread
    )  # fmt: skip
    assert found == again
    total = sum(one.cost for one in queue)
    assert found.makespan >= total / (workers * (1 + spread)) - 1e-9
    spans = [span for line in found.timeline for span in line if span.what not in ("load", "down")]
    # every pack's last span is a finished one, or it died with nothing left to do
    last = {span.what.split("-")[0]: span for span in sorted(spans, key=lambda one: one.end)}
    assert set(last) == {str(n) for n in range(len(sizes))}
    assert sum(span.end - span.start for span in spans) >= total / (1 + spread) - 1e-6
    assert (found.lost_seconds > 0) <= (found.deaths > 0)
    for line in found.timeline:
        assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(line))


def test_a_death_costs_what_was_not_finished():
    """One worker, three items of 60 s one after the other: what ended before the death is not done again."""
    items = tuple(Item(f"i{n}", ("read",), 60.0) for n in range(3))
    queue = [Pack(("read",), items)]
    found = next(
        one
        for seed in range(1000)
        if (one := simulate(queue, workers=1, deaths=12, restart_seconds=10.0, seed=seed)).deaths == 1
        and 70 < one.timeline[0][0].end < 110
    )
    first, down, second = found.timeline[0]
    assert (first.what, first.finished, down.what, second.what) == ("i0", False, "down", "i1")
    assert found.lost_seconds == pytest.approx(first.end - 60)
    assert found.makespan == pytest.approx(first.end + 10 + 120)
    assert found.busy_share == pytest.approx(180 / found.makespan)


def test_work_that_no_worker_lives_to_end_is_said():
    with pytest.raises(RunFailed, match="live too short"):
        simulate(packs([3600.0]), workers=1, deaths=1000, restart_seconds=1.0)


def test_faster_workers_take_more():
    queue = packs([10.0] * 60)
    found = simulate(queue, workers=4, speed_spread=0.5, seed=3)
    counts = [len(line) for line in found.timeline]
    assert max(counts) > min(counts)
    assert found.busy_share > 0.9


@settings(deadline=None)  # other work may share the machine
@given(costs_, st.integers(1, 4), st.floats(0, 20))
def test_the_time_left_counts_what_is_running(costs, workers, since):
    queue = packs(costs)
    running = [(one, since) for one in queue[:workers]]
    left = eta(queue[workers:], running, workers=workers)
    assert left <= eta(queue, [], workers=workers) + 1e-9
    if len(queue) <= workers:
        assert left == pytest.approx(max(0.0, max(one.cost for one in queue) - since))


def test_items_of_equal_context_stay_together():
    items = [Item(f"{c}{n}", ("read",), 1.0, together=c) for c in "abcd" for n in range(5)]
    for one in packs_of(items, workers=8, rows=4, speed=SPEED):
        owners = {key[0] for key in one.keys}
        assert all(sum(key[0] == owner for key in one.keys) == 5 for owner in owners)
