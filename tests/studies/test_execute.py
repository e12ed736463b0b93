"""Training of a study's modules: saved beside it, one by one; what cannot be trained or saved is told, the rest is kept."""

from __future__ import annotations

import shutil
import threading

import pytest

from loramem.core.files import read_json, read_jsonl, read_marker
from loramem.modules import peft_format, targets
from loramem.modules.bank import Bank
from loramem.modules.layer import BankedLinear
from loramem.modules.store import MODULE_MARKER, Store
from loramem.studies import work
from loramem.studies.execute import Outcome, read_missing, train_missing
from loramem.studies.executors import Local
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from tinystudy import PHONES, study


@pytest.fixture
def planned(bases):
    """Eight modules: two sizes, two ranks, two seeds."""
    return list(make_plan(study(**PHONES), bases["llama"]).modules.values())


def train(modules, base, folder, *, log=None) -> tuple[Store, Outcome]:
    store, outcome = Store(folder), Outcome()
    train_missing(modules, store, outcome, Progress(log, live=False), Local(base, store, rows=4))
    return store, outcome


def test_modules_are_saved_beside_training_in_the_order_they_end(bases, planned, tmp_path, monkeypatch):
    """With four rows two modules train at a time: the first are in the store before the last have begun."""
    saved: list[tuple[str, int]] = []
    finished: list[str] = []
    kept, kept_train = work.save_trained, work.train_modules

    def save(store, done, *arguments, **options):
        saved.append((done.key, threading.get_ident()))
        kept(store, done, *arguments, **options)

    def watched(base, jobs, *, on_finish, **options):
        def finish(done):
            finished.append(done.key)
            on_finish(done)

        return kept_train(base, jobs, on_finish=finish, **options)

    monkeypatch.setattr(work, "save_trained", save)
    monkeypatch.setattr(work, "train_modules", watched)
    store, outcome = train(planned, bases["llama"], tmp_path)
    assert len(planned) == 8 and [key for key, _ in saved] == finished
    threads = {thread for _, thread in saved}
    assert len(threads) == 1 and threading.get_ident() not in threads
    assert {module.id for module in store.modules()} == {module.id for module in planned}
    assert not outcome.failed_modules
    assert outcome.ledger.as_dict()["train"]["modules"] == 8


def test_a_module_that_cannot_be_saved_is_told_and_the_others_are_kept(bases, planned, tmp_path, monkeypatch):
    bad = planned[3].id
    kept = work.save_trained

    def save(store, done, *arguments, **options):
        if done.key == bad:
            raise OSError("no space left on device")
        kept(store, done, *arguments, **options)

    monkeypatch.setattr(work, "save_trained", save)
    log = tmp_path / "log.jsonl"
    store, outcome = train(planned, bases["llama"], tmp_path / "store", log=log)
    assert outcome.failed_modules == {bad: "OSError: no space left on device"}
    assert {module.id for module in store.modules()} == {module.id for module in planned} - {bad}
    assert any(bad[:12] in str(row) and "no space left" in str(row) for row in read_jsonl(log))
    monkeypatch.undo()
    before = {module.id: read_marker(module.folder / MODULE_MARKER) for module in store.modules()}
    _, again = train(planned, bases["llama"], tmp_path / "store")
    assert again.modules_reused == 7 and not again.failed_modules and store.has_module(bad)
    assert all(read_marker(store.module(i).folder / MODULE_MARKER) == marker for i, marker in before.items())


def test_what_was_trained_is_saved_when_training_breaks(bases, planned, tmp_path, monkeypatch):
    """As when the user ends the run: whatever was handed over before is in the store."""
    kept = work.train_modules
    finished: list[str] = []

    def broken(base, jobs, *, on_finish, **options):
        def finish(done):
            finished.append(done.key)
            on_finish(done)
            if len(finished) == 3:
                raise KeyboardInterrupt

        kept(base, jobs, on_finish=finish, **options)

    monkeypatch.setattr(work, "train_modules", broken)
    with pytest.raises(KeyboardInterrupt):
        train(planned, bases["llama"], tmp_path)
    assert {module.id for module in Store(tmp_path).modules()} == set(finished) and len(finished) == 3


def test_what_is_saved_does_not_depend_on_when_it_is(bases, planned, tmp_path, monkeypatch):
    """The saver is held in the midst of its work until training is over and the model has its own layers back."""
    model, amidst, over = bases["llama"].model, threading.Event(), threading.Event()
    kept_detach, kept_is = Bank.detach, targets.is_linear

    def detach(self):
        amidst.wait(0.3)
        kept_detach(self)
        over.set()

    def slow(module):
        if threading.current_thread() is not threading.main_thread():
            inside = [one.layer for one in model.modules() if isinstance(one, BankedLinear)]
            if any(module is layer for layer in inside):
                amidst.set()
                over.wait(10)
        return kept_is(module)

    monkeypatch.setattr(Bank, "detach", detach)
    monkeypatch.setattr(targets, "is_linear", slow)
    store, _ = train(planned[:1], bases["llama"], tmp_path)
    config = read_json(store.module(planned[0].id).folder / peft_format.CONFIG)
    assert sorted(config["target_modules"]) == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_a_damaged_module_fails_its_own_readings_and_no_other(bases, tmp_path):
    """The eight are read in one call; the seven others are answered as beside a whole one."""
    base = bases["llama"]
    plan = make_plan(study(**PHONES, readings=["closed", "module"]), base)
    whole, _ = train(plan.modules.values(), base, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
    hurt = Store(tmp_path / "hurt")
    bad = next(iter(plan.modules))
    weights = hurt.module(bad).folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])

    def read(store: Store) -> Outcome:
        outcome = Outcome()
        read_missing(plan.cells, base, store, outcome, Progress(live=False), Local(base, store))
        return outcome

    tasks = {task.identity(base): task for cell in plan.cells for task in cell.tasks}
    of_bad = {identity for identity, task in tasks.items() if task.module == bad}
    assert not read(whole).failed_readings and of_bad and len({t.module for t in tasks.values()}) == 9
    failed = read(hurt).failed_readings
    assert failed.keys() == of_bad and all(bad[:12] in error for error in failed.values())
    for identity in tasks.keys() - of_bad:
        rows = hurt.predictions(identity), whole.predictions(identity)
        assert [row["prediction"] for row in rows[0]] == [row["prediction"] for row in rows[1]]
