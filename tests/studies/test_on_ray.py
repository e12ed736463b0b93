"""Workers of a Ray cluster: the same modules and answers as here, also when workers die."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from loramem.core.errors import InputError
from loramem.modules.store import Store
from loramem.studies.executors import Local
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.ray_worker import Fleet, Worker
from loramem.studies.run import execute
from loramem.studies.work import Advanced, Failed, Finished, Said
from tinystudy import PHONES, study

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from loramem.studies import on_ray  # noqa: E402
from loramem.studies.on_ray import Cluster, sized  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """A Ray of its own with room for two workers."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    made = Cluster(Fleet(workers=2, device="cpu", dtype="float32", offline=True))
    made.ray = ray
    yield made
    ray.shutdown()


@pytest.fixture(scope="module")
def llama(checkpoints):
    return str(checkpoints["llama"])


@pytest.fixture
def planned(bases):
    """Eight modules: two sizes, two ranks, two seeds; long enough for a worker to die over them."""
    made = study(**PHONES, modules__budget={"steps": 30})
    return list(make_plan(made, bases["llama"]).modules.values())


class Book:
    """Keeps what is told, and does something at the first event of a kind."""

    def __init__(self, at: type | None = None, then=lambda event: None):
        self.at, self.then = at, then
        self.events: list = []

    def __call__(self, event) -> None:
        self.events.append(event)
        if self.at is not None and isinstance(event, self.at):
            self.at = None
            self.then(event)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def weights(store: Store, identity: str) -> dict[str, torch.Tensor]:
    return store.module(identity).load()[1]


def test_two_workers_give_what_this_process_gives(cluster, llama, bases, tmp_path):
    """A whole study with controls, a merged reading and answers from a context."""
    made = study(
        pool="study",
        readings=["closed", "module", "random-module", "icl", {"reading": "merged", "router": "oracle", "top_k": 1, "rule": "cat"}],
    )  # fmt: skip
    quiet = Progress(live=False)
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    crew = cluster.crew(llama, there, rows=16)
    assert not crew.base.computes and crew.base.parameters == bases["llama"].parameters
    local = execute(
        made, Local(replace(bases["llama"], name=llama), here, rows=16), here, tmp_path / "a", progress=quiet
    )
    remote = execute(made, crew, there, tmp_path / "b", progress=quiet)
    assert not local.failures and not remote.failures
    assert {one.id for one in here.modules()} == {one.id for one in there.modules()}
    for module in here.modules():
        for name, tensor in weights(here, module.id).items():
            torch.testing.assert_close(weights(there, module.id)[name], tensor, atol=1e-5, rtol=1e-4)
    a, b = (pd.read_parquet(tmp_path / run / "results.parquet") for run in "ab")
    pd.testing.assert_frame_equal(a, b, rtol=1e-3)
    assert len({row["module"] for row in remote.info["training"]}) == len(local.info["training"])
    assert remote.info["environment"]["executor"] == "ray: 2 workers of 1 CPU"
    assert (
        remote.info["environment"]["base"]["device"] == "cpu"
    )  # where it was computed, not where it was planned
    again = execute(made, cluster.crew(llama, there, rows=16), there, tmp_path / "c", progress=quiet)
    assert again.info["reused"]["modules"] > 0 and again.summary["cells"] == remote.summary["cells"]


def test_a_killed_worker_costs_what_it_had_not_finished(cluster, llama, planned, tmp_path):
    """Killed over its first module: the rest of its pack is trained by others, and no module twice. A module whose own loss
    is not finite fails by name."""
    rate = planned[0].job.optimizer.model_copy(update={"lr": 1e30, "clip": None})
    planned[0] = blown = replace(planned[0], job=replace(planned[0].job, optimizer=rate))
    store = Store(tmp_path)
    crew = cluster.crew(llama, store, rows=2)
    pids = [int(ray.get(seat.actor.about.remote())["pid"]) for seat in crew.seats]
    assert len(set(pids)) == 2
    book = Book(Advanced, lambda event: os.kill(pids[0], signal.SIGKILL))
    crew.train(planned, book)
    assert crew.deaths == 1
    sound = planned[1:]
    assert Counter(event.key for event in book.of(Finished)) == Counter(module.id for module in sound)
    assert [event.key for event in book.of(Failed)] == [blown.id] and "not finite" in book.of(Failed)[0].error
    assert any("died" in event.text and "made again" in event.text for event in book.of(Said))
    rows = sum(module.job.steps * module.job.optimizer.batch for module in sound)
    counted = sum(event.amount for event in book.of(Advanced))
    assert rows <= counted <= rows + blown.job.steps * blown.job.optimizer.batch
    assert {module.id for module in store.modules()} == {module.id for module in sound}


class Deadly(Worker):
    """Dies over one module, whoever trains it and beside what."""

    def train(self, modules):
        if POISON in {
            module.id[:8] for module in modules if module.seed == 1 and module.config.spec.rank == 3
        }:
            os._exit(1)
        yield from super().train(modules)


POISON = "?"


@pytest.mark.slow
def test_what_kills_every_worker_is_given_up_by_name_and_the_rest_is_trained(
    cluster, llama, planned, tmp_path, monkeypatch
):
    chosen = next(module for module in planned if module.seed == 1 and module.config.spec.rank == 3)
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "POISON", chosen.id[:8])
    monkeypatch.setattr(on_ray, "Worker", Deadly)
    ray.cloudpickle.register_pickle_by_value(module)  # workers do not know the tests
    try:
        crew = cluster.crew(llama, Store(tmp_path), rows=2)
        book = Book()
        crew.train(planned, book)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
    assert crew.deaths == on_ray.DEATHS
    assert [(event.key, "3 workers died" in event.error) for event in book.of(Failed)] == [(chosen.id, True)]
    assert {one.id for one in Store(tmp_path).modules()} == {one.id for one in planned} - {chosen.id}


def test_a_base_that_workers_cannot_load_is_bad_input(cluster, llama, tmp_path):
    with pytest.raises(InputError, match="no config.json"):
        cluster.crew(str(tmp_path), Store(tmp_path / "store"))


def test_workers_are_as_many_as_the_cluster_holds():
    def held(*nodes):
        return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])

    big = {"CPU": 16.0, "GPU": 8.0, "memory": 64 * 2.0**30}
    assert sized(held(big), Fleet()) == (Fleet(gpus=1.0), 8)
    assert sized(held(big), Fleet(device="cpu", cpus=4)) == (Fleet(device="cpu", cpus=4, gpus=0.0), 4)
    assert sized(held(big, big), Fleet(gpus=2, memory=32)) == (Fleet(gpus=2, memory=32), 4)
    assert sized(held(big, {"CPU": 2.0}), Fleet(workers=3)) == (Fleet(workers=3, gpus=1.0), 3)
    for fleet in (Fleet(workers=9), Fleet(gpus=16), Fleet(memory=65)):
        with pytest.raises(InputError, match="do not fit this cluster, which holds"):
            sized(held(big), fleet)


@pytest.mark.parametrize(
    "wrong",
    [{"address": "host"}, {"address": "http://host:1"}, {"workers": 0}, {"gpus": -1.0}, {"cpus": float("nan")}, {"memory": 0.0}],
)  # fmt: skip
def test_a_fleet_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        Fleet(**wrong)
