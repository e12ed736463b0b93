"""Trackers: what they are told, when they may send, and what they never see. The packages are stood in for."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from loramem.core.errors import InputError, UnknownName
from loramem.studies.tracking import TRACKERS, tracker


class Run:
    def __init__(self):
        self.told: list[tuple] = []
        self.finished = 0

    def log(self, values, step=None):
        self.told.append((step, values))

    def finish(self):
        self.finished += 1


class Package:
    """Has what both packages have; remembers how it was asked to begin, and the environment then."""

    def __init__(self, *, fails: Exception | None = None):
        self.run, self.fails = Run(), fails
        self.asked: dict = {}
        self.seen: dict = {}

    def init(self, **asked):
        if self.fails:
            raise self.fails
        self.asked, self.seen = asked, dict(os.environ)
        return self.run

    def finish(self):
        self.run.finish()

    Settings = SimpleNamespace


@pytest.fixture
def package(monkeypatch):
    def use(name: str, **options) -> Package:
        monkeypatch.setitem(sys.modules, name, Package(**options))
        return sys.modules[name]

    return use


@pytest.mark.parametrize("name", list(TRACKERS))
def test_numbers_arrive_by_step_and_the_run_is_closed(package, name):
    fake = package(name)
    made = tracker(name, "loramem", "q02-quick", config={"study": "q02", "seeds": 3})
    made.log(0, {"train/done": 1.0})
    made.log(1, {})
    made.log(2, {"module/loss": 0.5})
    made.finish()
    assert (fake.asked["project"], fake.asked["name"]) == ("loramem", "q02-quick")
    assert fake.asked["config"] == {"study": "q02", "seeds": 3}
    assert fake.run.told == [(0, {"train/done": 1.0}), (2, {"module/loss": 0.5})] and fake.run.finished == 1


@pytest.mark.parametrize("name", list(TRACKERS))
def test_secrets_are_left_out_of_the_settings(package, name, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-0123456789")
    fake = package(name)
    config = {"api_key": "abc", "base": "x", "note": "with sesame-0123456789", "url": "https://me:pw@host/v1"}
    tracker(name, "p", "r", config=config)
    assert fake.asked["config"] == {"base": "x", "note": "with ***", "url": "https://***@host/v1"}


@pytest.mark.parametrize(
    ("key", "offline", "mode"),
    [
        (None, False, "offline"),
        ("  ", False, "offline"),
        ("k" * 40, False, "online"),
        ("k" * 40, True, "offline"),
    ],
)
def test_wandb_sends_only_with_a_key_and_with_the_network(package, monkeypatch, tmp_path, key, offline, mode):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    fake = package("wandb")
    tracker("wandb", "p", "r", offline=offline, folder=tmp_path)
    assert fake.asked["mode"] == mode and fake.asked["dir"] == str(tmp_path)
    assert fake.asked["settings"].console == "off" and fake.asked["settings"].disable_code


@pytest.mark.parametrize("offline", [False, True])
def test_trackio_goes_to_a_server_only_where_the_network_may_be_used(package, monkeypatch, offline):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    fake = package("trackio")
    tracker("trackio", "p", "r", offline=offline)
    assert ("TRACKIO_SPACE_ID" in fake.seen) == (not offline)
    assert os.environ["TRACKIO_SPACE_ID"] == "me/space", "it is put back"


@pytest.mark.parametrize(("name", "extra"), [("trackio", "track"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        tracker(name, "p", "r")
    assert f"pip install 'loramem[{extra}]'" in str(caught.value)


def test_an_unknown_tracker_is_told_the_known_ones():
    with pytest.raises(
        UnknownName, match=r"unknown tracker 'wanb'; allowed: trackio, wandb. Did you mean 'wandb'"
    ):
        tracker("wanb", "p", "r")


def test_a_tracker_that_does_not_begin_says_why_before_anything_is_spent(package):
    package("wandb", fails=RuntimeError("api_key not configured\nlong traceback"))
    with pytest.raises(
        InputError, match="track wandb: it does not begin: RuntimeError: api_key not configured$"
    ):
        tracker("wandb", "p", "r")
