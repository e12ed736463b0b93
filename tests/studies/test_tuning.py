"""Sweeps: every rate is tried on facts the study never asks, the lowest loss wins, and the winner enters the grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loramem.core.errors import InputError, RunFailed
from loramem.modules.bank import Bank
from loramem.modules.recipe import ModuleConfig
from loramem.modules.runs import Block
from loramem.modules.store import Store
from loramem.studies.cells import ModulePlan
from loramem.studies.estimates import dry_run
from loramem.studies.execute import Outcome
from loramem.studies.executors import Local
from loramem.studies.plan import make_plan
from loramem.studies.points import Point
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.studies.tuning import Candidate, _best, plan_sweeps, tune
from tinystudy import PHONES, study

RATES = [0.001, 0.05, 1e30]
"""The second learns, the third diverges (without clipping)."""
SWEPT = {
    "modules__spec__rank": [2],
    "modules__budget": {"steps": 20},
    "modules__optimizer": {"lr": {"sweep": RATES, "dev_tokens": 100}, "batch": 2, "clip": None},
}


def only(candidate: Candidate) -> ModulePlan:
    """The module of a candidate whose source is not cut."""
    (module,), (task,) = candidate.modules, candidate.tasks
    assert task.module == module.id and task.probes == module.source.probes
    return module


def rate(candidate: Candidate) -> float:
    assert only(candidate).config == candidate.config
    return candidate.config.optimizer.lr


def tuned(made, base, folder: Path):
    store = Store(folder)
    return tune(made, store, Outcome(), Progress(live=False), Local(base, store, rows=32))


@pytest.fixture(scope="module")
def swept(bases, tmp_path_factory):
    """(the study, the same with its rates chosen, the store)."""
    made, folder = study(**PHONES, **SWEPT), tmp_path_factory.mktemp("swept")
    return made, tuned(made, bases["llama"], folder), Store(folder)


def loss_by_hand(base, store: Store, module) -> float:
    """Mean over facts of the loss on the answer without its end of turn, one example at a time."""
    spec, tensors = store.module(module.id).load()
    bank = Bank(base.model, [spec])
    try:
        bank.load(0, tensors)
        losses = []
        for example in module.learnt.examples:
            ids, start = torch.tensor([example.ids]), example.answer_start
            stop = len(example.ids) - len(base.prompts.end)
            with torch.no_grad(), bank.active([Block(0, 1)]):
                logits = base.model(input_ids=ids).logits[0]
            nats = torch.nn.functional.cross_entropy(logits[start - 1 : stop - 1], ids[0, start:stop])
            losses.append(nats.item())
    finally:
        bank.detach()
    return sum(losses) / len(losses)


def test_the_rate_of_the_lowest_loss_on_the_dev_split_is_taken(swept, bases):
    made, done, store = swept
    (row,) = done.chosen
    candidates = plan_sweeps(made, bases["llama"])["phonebook"]
    assert [rate(c) for c in candidates] == RATES == [one["lr"] for one in row["tried"]]
    by_hand = [loss_by_hand(bases["llama"], store, only(c)) for c in candidates[:2]]
    assert [one["nats_per_token"] for one in row["tried"][:2]] == pytest.approx(by_hand, rel=1e-4)
    assert by_hand[1] < by_hand[0] and row["lr"] == 0.05
    assert (row["rank"], row["budget"], row["dev_tokens"], row["at_edge"]) == (2, "steps=20", 100, False)


def test_a_rate_that_diverges_has_no_loss_and_no_module(swept, bases):
    made, done, store = swept
    failed = {"lr": 1e30, "budget": "steps=20", "nats_per_token": None, "exact_match": None}
    assert done.chosen[0]["tried"][2] == failed
    ids = [only(c).id for c in plan_sweeps(made, bases["llama"])["phonebook"]]
    assert [store.has_module(identity) for identity in ids] == [True, True, False]


def test_the_chosen_rate_stands_in_the_grid_and_the_study_is_not_changed(swept, bases):
    made, done, _ = swept
    assert [point.config.optimizer.lr for point in done.points["phonebook"]] == [0.05]
    assert not any(point.tried for point in done.points["phonebook"])
    assert {m.config.optimizer.lr for m in make_plan(done, bases["llama"]).modules.values()} == {0.05}
    assert len(made.points["phonebook"][0].tried) == 3 and made.chosen == []


def test_dev_facts_are_none_of_the_study(swept, bases):
    made, _, _ = swept
    dev = {
        record.id for c in plan_sweeps(made, bases["llama"])["phonebook"] for record in only(c).source.records
    }
    own = {
        r.id
        for sources in make_plan(made, bases["llama"]).sources.values()
        for s in sources
        for r in s.records
    }
    assert dev and not dev & own


def test_dev_facts_are_asked_in_the_trained_wording_alone(swept, bases):
    made, _, _ = swept
    for candidate in plan_sweeps(made, bases["llama"])["phonebook"]:
        assert {probe.phrasing for probe in only(candidate).source.probes} == {"trained"}
        assert only(candidate).seed == 0


def test_a_second_run_finds_every_try_in_the_store(swept, bases):
    made, done, store = swept
    outcome = Outcome()
    again = tune(made, store, outcome, Progress(live=False), Local(bases["llama"], store, rows=32))
    assert again.chosen == done.chosen
    assert (outcome.modules_reused, outcome.readings_reused) == (2, 2), (
        "only the diverging one is tried again"
    )


def test_no_rate_that_can_be_trained_ends_the_run(bases, tmp_path):
    lr = {"sweep": [1e30, 2e30], "dev_tokens": 100}
    made = study(**PHONES, **{**SWEPT, "modules__optimizer": {"lr": lr, "batch": 2, "clip": None}})
    with pytest.raises(
        RunFailed,
        match=r"no setting of 1e\+30 for steps=20, 2e\+30 for steps=20 could be trained at rank 2 on phonebook",
    ):
        tuned(made, bases["llama"], tmp_path)


def test_rates_are_swept_by_rank_and_by_source(bases, tmp_path):
    by_rank = {1: {"sweep": [0.01, 0.02], "dev_tokens": 80}, 3: 0.005}
    lr = {"phonebook": by_rank, "counterfact": {"sweep": [0.03], "dev_tokens": 40}}
    made = study(modules__optimizer={"lr": lr, "batch": 2}, seeds=1)
    planned = plan_sweeps(made, bases["llama"])
    tried = {key: [(c.point.config.spec.rank, rate(c)) for c in found] for key, found in planned.items()}
    assert tried == {"phonebook": [(1, 0.01), (1, 0.02)], "counterfact": [(1, 0.03), (3, 0.03)]}
    sizes = {key: {only(c).source.size_tokens for c in found} for key, found in planned.items()}
    assert sizes == {"phonebook": {80}, "counterfact": {40}}
    done = tuned(made, bases["llama"], tmp_path)
    rates = {
        key: {p.config.spec.rank: p.config.optimizer.lr for p in own} for key, own in done.points.items()
    }
    assert rates["phonebook"][1] in (0.01, 0.02) and rates["phonebook"][3] == 0.005
    assert rates["counterfact"] == {1: 0.03, 3: 0.03}
    assert [(row["source"], row["rank"], row["at_edge"]) for row in done.chosen] == [
        ("phonebook", 1, True), ("counterfact", 1, False), ("counterfact", 3, False),
    ]  # fmt: skip


def test_a_study_without_sweeps_comes_back_as_it_is(bases, tmp_path):
    made = study(**PHONES)
    assert tuned(made, bases["llama"], tmp_path) is made and not list((tmp_path / "modules").iterdir())


def test_too_little_left_for_a_dev_split_is_said(bases):
    lr = {"sweep": [0.01], "dev_tokens": 10**6}
    made = study(
        sources={"counterfact": {"name": "counterfact", "sizes": [60]}}, modules__optimizer={"lr": lr}
    )
    with pytest.raises(InputError, match="edits beyond the largest slice"):
        plan_sweeps(made, bases["llama"])


def test_a_dry_run_counts_the_rates_tried(bases, tmp_path):
    made = study(**PHONES, **SWEPT)
    found = dry_run(made, bases["llama"], Store(tmp_path / "store", look=True), rows=16)
    assert (found["sweep_modules"], found["modules"]) == (3, 4) and found["train_seconds"] > 0
    assert not (tmp_path / "store").exists()


def test_a_rate_chosen_twice_is_one_module_and_one_cell(bases, tmp_path):
    """A contrast gives the rate that the sweep of the main grid chooses: its facts are not counted twice."""
    lr = {"sweep": [0.05], "dev_tokens": 100}
    made = study(
        **PHONES, **{**SWEPT, "modules__optimizer": {"lr": lr, "batch": 2, "clip": None}}, seeds=1,
        contrasts=[{"modules.optimizer.lr": 0.05}],
    )  # fmt: skip
    result = execute(
        made, bases["llama"], Store(tmp_path / "store"), tmp_path / "run", progress=Progress(live=False)
    )
    asked = {c["size_tokens"]: c for c in result.summary["cells"] if c["reading"] == "module" and c["probe"] == "trained"}  # fmt: skip
    assert {size: cell["n"] for size, cell in asked.items()} == {s: c["facts"] for s, c in asked.items()}


def test_a_sweep_by_exact_match_takes_the_setting_that_gives_back_most():
    config = ModuleConfig.model_validate(
        {"spec": {"rank": 2}, "budget": {"steps": 3}, "optimizer": {"lr": 0.1, "batch": 2}}
    )
    slow = at_rate_of(config, 0.01)
    tried = [(config, 2.0, 0.5), (slow, 1.0, 0.25), (at_rate_of(config, 0.2), 1.5, 0.5)]
    assert _best("s", Point(config, (), 1, "loss"), tried) == slow
    assert _best("s", Point(config, (), 1, "exact_match"), tried).optimizer.lr == 0.2, "the loss breaks ties"


def at_rate_of(config, lr):
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr": lr})})
