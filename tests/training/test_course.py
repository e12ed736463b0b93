"""The course of a module: its rates, its plateau, its early end; and that neighbours never feel any of it."""

from __future__ import annotations

import copy
import dataclasses
import math
import random

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.base import Encoded
from loramem.modules import peft_format
from loramem.modules.bank import Bank
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer, Plateau
from loramem.training import Trained, TrainJob, train_modules
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.objectives import HALF
from loramem.training.passes import memorised
from loramem.training.schedule import factor

SEEN, CALM = torch.zeros(1, dtype=torch.long), torch.zeros(1)


def course(budget: Budget | None, *, examples=12, batch=4, steps=None, **optimizer) -> Course:
    if steps is None:
        assert budget is not None
        steps = budget.steps_for(examples, batch)
    return Course(budget, Optimizer(lr=0.5, batch=batch, **optimizer), steps=steps, examples=examples)


def follow(one: Course, losses) -> list[float]:
    """Train without a model: the losses are given, the rate of every step taken is returned."""
    rates = []
    for step, loss in enumerate(losses):
        rates.append(one.lr(step))
        one.observe(step + 1, torch.tensor(float(loss)), SEEN, CALM)
        if one.ended is not None:
            break
    return rates


# -- without a plateau -------------------------------------------------------------------------------
@settings(deadline=None)
@given(
    st.sampled_from(["constant", "linear", "cosine"]), st.sampled_from([0.0, 0.1, 0.4]), st.integers(1, 40),
    st.sampled_from([None, "steps", "exposures", "memorised"]), st.lists(st.floats(0, 9), min_size=45, max_size=45),
)  # fmt: skip
def test_without_a_plateau_the_rates_are_the_plain_schedule(schedule, warmup, steps, kind, losses):
    budget = {
        None: None,
        "steps": Budget(steps=steps),
        "exposures": Budget(exposures=steps / 3),
        "memorised": Budget(steps=steps, stop_when_memorised=True),
    }[kind]
    one = course(budget, steps=steps, schedule=schedule, warmup=warmup)
    rates = follow(one, losses)
    assert rates == [0.5 * factor(schedule, s, steps=steps, warmup=warmup) for s in range(steps)]
    assert one.ended == "steps" and one.last == steps


# -- the plateau -------------------------------------------------------------------------------------
def plateau_by_hand(losses, *, window, patience, min_fall, search) -> tuple[int, bool]:
    """(step at which the search ends, whether it found a plateau): windows one after another, best so far kept."""
    best, flat = math.inf, 0
    for step in range(1, search + 1):
        if step % window == 0:
            mean = sum(losses[step - window : step]) / window
            flat = 0 if mean < best * (1 - min_fall) else flat + 1
            best = min(best, mean)
            if flat >= patience:
                return step, True
    return search, False


@settings(deadline=None)
@given(
    losses=st.lists(st.sampled_from([0.1, 0.2, 0.4, 0.8, 1.6]), min_size=60, max_size=60),
    window=st.sampled_from([1, 2, 3, 4]),
    patience=st.integers(1, 3),
    cooldown=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    search=st.integers(1, 30),
    schedule=st.sampled_from(["linear", "cosine"]),
    warmup=st.sampled_from([0.0, 0.3]),
)
def test_the_plateau_is_found_and_cooled_from(losses, window, patience, cooldown, search, schedule, warmup):
    # batch 1 of 1 example: an exposure is a step
    plateau = Plateau(
        max_exposures=search, window=window, min_fall=0.05, patience=patience, cooldown=cooldown
    )
    one = course(Budget(plateau=plateau), examples=1, batch=1, schedule=schedule, warmup=warmup)
    rates = follow(one, losses)
    turn, found = plateau_by_hand(losses, window=window, patience=patience, min_fall=0.05, search=search)
    decay = int(cooldown * turn)
    assert len(rates) == turn + decay == one.last <= Budget(plateau=plateau).steps_for(1, 1)
    assert one.ended == ("plateau" if found else "limit")
    warm = int(warmup * window * (patience + 1))
    assert rates[:turn] == [
        0.5 * min(1.0, step / max(1, warm)) if step < warm else 0.5 for step in range(turn)
    ]
    assert rates[turn:] == [0.5 * factor(schedule, step, steps=decay, warmup=0.0) for step in range(decay)]


def test_a_loss_that_never_falls_ends_after_patience_and_the_first_window():
    one = course(Budget(plateau=Plateau(window=2, patience=2)))  # 12 examples, 4 a step: windows of 6 steps
    rates = follow(one, [1.0] * 99)
    assert one.ended == "plateau" and one.last == len(rates) == 18 + 4
    assert rates[:19] == [0.5] * 19 and rates[19:] == sorted(rates[19:], reverse=True) and rates[-1] > 0


def test_a_loss_that_keeps_falling_ends_at_the_limit_of_the_search():
    budget = Budget(plateau=Plateau(max_exposures=10, window=1))
    one = course(budget)
    rates = follow(one, [0.9**step for step in range(99)])
    assert one.ended == "limit" and len(rates) == 30 + 7 == budget.steps_for(12, 4)


def test_a_fall_begins_the_count_anew_and_a_worse_window_is_no_new_standard():
    def end(losses, **plateau):
        one = course(Budget(plateau=Plateau(window=1, cooldown=0, **plateau)), examples=1, batch=1)
        follow(one, [*losses, *([losses[-1]] * 200)])
        return one.ended, one.last

    assert end([1.0, 1.0, 0.5, 0.5], patience=2) == ("plateau", 5)
    assert end([1.0, 9.0, 2.0], patience=2) == ("plateau", 3), "2 is below 9, but 1 was seen before"
    assert end([1.0, 0.97, 0.94, 0.91], patience=2, min_fall=0.05) == ("plateau", 3)
    assert end([1.0, 0.97, 0.92], patience=2, min_fall=0.05) == ("plateau", 5), "the third fell"
    assert end([1.0, 0.94, 0.88, 0.8], patience=2, min_fall=0.05) == ("plateau", 6)


def test_windows_are_exposures_not_steps():
    for examples, batch in ((12, 4), (30, 8), (5, 8)):
        one = course(
            Budget(plateau=Plateau(window=4, patience=1, cooldown=0)), examples=examples, batch=batch
        )
        follow(one, [1.0] * 999)
        assert one.last == 2 * max(1, round(4 * examples / batch)), (examples, batch)


# -- memorised ---------------------------------------------------------------------------------------
def seen(one: Course, step: int, chosen: list[int], worst: list[float]) -> bool:
    one.observe(step, torch.tensor(1.0), torch.tensor(chosen), torch.tensor(worst))
    return one.may_be_memorised(step)


def test_a_check_is_worth_its_cost_when_all_were_right_when_last_seen():
    one = course(Budget(steps=99, stop_when_memorised=True), examples=4, batch=2)  # two steps an epoch
    right, wrong = HALF - 1e-3, HALF + 1e-3
    assert not seen(one, 1, [0, 1], [right, right]), "in the midst of an epoch"
    assert not seen(one, 2, [2, 3], [right, wrong])
    assert not seen(one, 3, [3, 2], [right, right])
    assert seen(one, 4, [1, 0], [right, right])
    assert not seen(one, 5, [0, 1], [right, right]), "checked in this epoch"
    assert not seen(one, 6, [2, 3], [right, wrong]), "forgotten since"
    assert not seen(one, 7, [2, 3], [right, right])
    assert seen(one, 8, [0, 1], [right, right]), "again, after a check that failed"


def test_unseen_examples_and_exactly_one_half_are_not_memorised():
    one = course(Budget(steps=99, stop_when_memorised=True), examples=3, batch=2)
    assert not seen(one, 2, [0, 1], [0.0, 0.0])
    assert not seen(one, 4, [0, 1], [0.0, 0.0]), "example 2 was not seen"
    assert not seen(one, 6, [2, 1], [HALF, 0.0])
    assert seen(one, 8, [2, 1], [HALF - 1e-4, 0.0])


def test_no_check_where_none_was_asked_for_or_the_course_has_ended():
    silent = course(Budget(steps=9), examples=2, batch=2)
    assert not any(seen(silent, step, [0, 1], [0.0, 0.0]) for step in range(1, 9))
    assert silent.ended is None
    ending = course(Budget(steps=1, stop_when_memorised=True), examples=2, batch=2)
    assert not seen(ending, 1, [0, 1], [0.0, 0.0]) and ending.ended == "steps"


# -- through the training loop -----------------------------------------------------------------------
def examples(seed: int, vocab: int, count: int) -> tuple[Encoded, ...]:
    rng = random.Random(seed)
    return tuple(
        Encoded(tuple(rng.randrange(5, vocab) for _ in range(rng.randint(6, 14))), rng.randint(3, 5))
        for _ in range(count)
    )


def job(base, key: str, budget: Budget, *, seed=0, data=0, count=6, rank=4, lr=0.02, **optimizer) -> TrainJob:
    settings = {"batch": 3, "schedule": "constant", "clip": 1.0, **optimizer}
    return TrainJob(
        key, LoraSpec(rank=rank), Objective(), Optimizer(lr=lr, **settings), budget.steps_for(count, settings["batch"]),
        seed, examples(data, len(base.tokenizer), count), 16, budget,
    )  # fmt: skip


def train(base, jobs) -> dict[str, Trained]:
    found: dict[str, Trained] = {}

    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(base, jobs, on_finish=lambda done: found.update({done.key: done}), on_fail=fail)
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of the updates B A over layers."""
    return max(
        ((x := b[n.replace("lora_A", "lora_B")] @ b[n]) - a[n.replace("lora_A", "lora_B")] @ a[n])
        .norm()
        .item()
        / x.norm().item()
        for n in a
        if "lora_A" in n
    )


@pytest.fixture
def double(sharp):
    """In double precision: what is left of a difference there is not rounding."""
    torch.set_default_dtype(torch.float64)  # the bank's buffers follow it
    yield dataclasses.replace(sharp, model=copy.deepcopy(sharp.model).double())
    torch.set_default_dtype(torch.float32)


def right_everywhere(base, one: TrainJob, tensors: dict[str, torch.Tensor], folder) -> bool:
    """Every learnt token has p > 0.5, by PEFT and transformers alone: one example at a time, no padding."""
    peft_format.save(folder, one.spec, tensors, model=base.model, base_name="x")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), folder).eval()
    for example in one.examples:
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            shares_TV = model(input_ids=ids).logits[0].float().softmax(-1)
        for place in range(example.answer_start, len(example.ids)):
            if shares_TV[place - 1, example.ids[place]] <= 0.5:
                return False
    return True


def test_snapshots_are_the_weights_of_runs_stopped_there(bases):
    base = bases["llama"]
    whole = train(base, [job(base, "x", Budget(steps=9, snapshots=(0, 1, 4, 9)), seed=3)])["x"]
    assert sorted(whole.snapshots) == [0, 1, 4, 9] and whole.steps == 9 and whole.ended == "steps"
    for step in (1, 4, 9):
        stopped = train(base, [job(base, "x", Budget(steps=step), seed=3)])["x"]
        assert same(whole.snapshots[step], stopped.tensors), step
        assert stopped.snapshots == {}
    assert same(whole.snapshots[9], whole.tensors) and not same(whole.snapshots[4], whole.tensors)
    bank = Bank(base.model, [LoraSpec(rank=4)], seeds=[3])
    try:
        assert same(whole.snapshots[0], bank.tensors(0))
    finally:
        bank.detach()
    assert not any(t.any() for name, t in whole.snapshots[0].items() if "lora_B" in name)


def test_taking_snapshots_changes_nothing_and_neighbours_have_their_own(bases):
    base = bases["llama"]
    plain, kept = (
        train(base, [job(base, str(n), Budget(steps=6, snapshots=steps), data=n, seed=n) for n, steps in enumerate(pair)])
        for pair in (((), ()), ((2, 5), (0,)))
    )  # fmt: skip
    assert all(same(plain[key].tensors, kept[key].tensors) for key in "01")
    assert [sorted(kept[key].snapshots) for key in "01"] == [[2, 5], [0]]


def test_a_module_that_stops_when_memorised_has_every_token_right(sharp, tmp_path):
    watching = Budget(steps=200, stop_when_memorised=True, snapshots=(0, 200))
    one = job(sharp, "x", watching, seed=1)
    done = train(sharp, [one])["x"]
    assert done.ended == "memorised" and 4 < done.steps < 200 and done.steps % 2 == 0
    assert right_everywhere(sharp, one, done.tensors, tmp_path / "end")
    assert not right_everywhere(sharp, one, done.snapshots[0], tmp_path / "start")
    assert same(done.snapshots[200], done.tensors), "after its end it stays as it is"
    assert done.log[-1]["step"] == done.steps
    # it is the plain run, ended early, and not late
    plain = train(sharp, [job(sharp, "x", Budget(steps=done.steps), seed=1)])["x"]
    assert same(plain.tensors, done.tensors) and plain.ended == "steps"
    before = train(sharp, [job(sharp, "x", Budget(steps=done.steps // 2), seed=1)])["x"]
    assert not right_everywhere(sharp, one, before.tensors, tmp_path / "before")


def test_the_weights_decide_not_what_was_seen_while_training(sharp, tmp_path, monkeypatch):
    """With a check after every epoch, a module ends at the first after which every token is right."""
    monkeypatch.setattr("loramem.training.course.HALF", math.inf)  # every example counts as right when seen
    ends = tuple(range(2, 42, 2))
    one = job(sharp, "x", Budget(steps=40, stop_when_memorised=True, snapshots=ends), seed=1)
    done = train(sharp, [one])["x"]
    right = [right_everywhere(sharp, one, done.snapshots[step], tmp_path / str(step)) for step in ends]
    assert done.ended == "memorised" and done.steps == ends[right.index(True)] > 4


def test_the_checking_pass_sees_every_token_of_every_example(sharp):
    one = job(sharp, "x", Budget(steps=200, stop_when_memorised=True), seed=1)
    done = train(sharp, [one])["x"]
    last = one.examples[-1]
    wrong = Encoded((*last.ids[:-1], last.ids[-1] ^ 1), last.answer_start)
    bank = Bank(sharp.model, [one.spec, one.spec], seeds=[0, 1])
    try:
        bank.load(1, done.tensors)

        def told(slot: int, *data: Encoded) -> bool:
            asked = dataclasses.replace(one, examples=data)
            return memorised(sharp, bank, slot, Feed(asked, sharp.prompts.pad_id, sharp.device))

        many = one.examples * 12  # more than one batch of the pass
        assert told(1, *one.examples) and told(1, *many) and told(1, last)
        assert not told(0, *one.examples)
        assert not told(1, wrong) and not told(1, *many, wrong) and not told(1, wrong, *many)
    finally:
        bank.detach()


def test_what_is_not_memorised_in_time_ends_by_steps(sharp):
    done = train(sharp, [job(sharp, "x", Budget(steps=8, stop_when_memorised=True), lr=1e-6)])["x"]
    assert done.ended == "steps" and done.steps == 8


def test_an_early_end_never_changes_a_neighbour(double):
    quick = job(double, "quick", Budget(steps=60, stop_when_memorised=True), count=3, seed=1)
    slow = job(double, "slow", Budget(steps=60, snapshots=(30,)), data=7, count=9, seed=2)
    together = train(double, [quick, slow])
    assert together["quick"].ended == "memorised" and together["quick"].steps < 50
    assert together["slow"].ended == "steps" and together["slow"].steps == 60
    for key, one in (("quick", quick), ("slow", slow)):
        alone = train(double, [one])[key]
        assert difference(together[key].tensors, alone.tensors) < 1e-9, key
        assert (together[key].steps, together[key].ended) == (alone.steps, alone.ended)
        assert (together[key].tokens, together[key].supervised_tokens) == (
            alone.tokens,
            alone.supervised_tokens,
        )
        for step in alone.snapshots:
            assert difference(together[key].snapshots[step], alone.snapshots[step]) < 1e-9


def test_in_single_precision_an_early_end_changes_no_more_than_rounding(sharp):
    quick = job(sharp, "quick", Budget(steps=30, stop_when_memorised=True), count=3, rank=8, seed=1)
    slow = job(sharp, "slow", Budget(steps=30), data=7, count=9, lr=0.003, seed=2)
    together, alone = train(sharp, [quick, slow]), train(sharp, [slow])
    assert together["quick"].ended == "memorised" and together["quick"].steps < 28
    assert difference(together["slow"].tensors, alone["slow"].tensors) < 1e-4


def test_a_module_that_learns_nothing_ends_at_its_plateau(bases):
    """Three windows of one exposure (2 steps each), then half as many steps cooling down."""
    base = bases["llama"]
    plateau = Plateau(max_exposures=50, window=1, min_fall=0.5, patience=2, cooldown=0.5)
    done = train(base, [job(base, "x", Budget(plateau=plateau), lr=1e-5, schedule="linear")])["x"]
    assert done.ended == "plateau" and done.steps == 6 + 3
    rates = {row["step"]: row["lr"] for row in done.log}
    assert rates == pytest.approx({1: 1e-5, 3: 1e-5, 6: 1e-5, 9: 1e-5 / 3})


def test_a_module_that_still_learns_ends_at_the_limit_beside_one_at_its_plateau(double):
    base = double
    plateau = {"max_exposures": 8, "window": 1, "patience": 2, "cooldown": 0.25}
    learning = job(
        base, "learning", Budget(plateau=Plateau(min_fall=0.001, **plateau)), seed=1, schedule="cosine"
    )
    flat = job(base, "flat", Budget(plateau=Plateau(min_fall=0.5, **plateau)), lr=1e-5, data=3, seed=2)
    together = train(base, [flat, learning])
    assert (together["learning"].ended, together["learning"].steps) == ("limit", 16 + 4)
    assert (together["flat"].ended, together["flat"].steps) == ("plateau", 6 + 1)
    for one in (learning, flat):
        assert difference(together[one.key].tensors, train(base, [one])[one.key].tensors) < 1e-9


def test_a_plateau_and_memorising_meet_whichever_comes_first(sharp, tmp_path):
    base = sharp
    plateau = Plateau(max_exposures=200, window=20, patience=5)
    one = job(base, "x", Budget(plateau=plateau, stop_when_memorised=True), seed=1)
    done = train(base, [one])["x"]
    assert (
        done.ended == "memorised" and done.steps < 400 and right_everywhere(base, one, done.tensors, tmp_path)
    )
