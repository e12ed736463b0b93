"""Identity, atomic files, registry, errors: what everything else stands on."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.config import Config, parse
from loramem.core.errors import Corrupt, Faults, InputError, LoramemError, RunFailed, UnknownName
from loramem.core.files import (
    TEMPORARY,
    clear_temporary,
    inside,
    new_folder,
    read_json,
    read_jsonl,
    read_text,
    write_json,
)
from loramem.core.identity import canonical_json, digest, seed_from
from loramem.core.ledger import Ledger
from loramem.core.registry import Registry

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_identity_ignores_the_order_of_keys_and_keeps_content(value):
    shuffled = dict(reversed(list(value.items())))
    assert digest(value) == digest(shuffled)
    assert json.loads(canonical_json(value)) == value


def test_identity_refuses_nan():
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


def test_seeds_do_not_depend_on_the_process():
    command = "from loramem.core.identity import seed_from; print(seed_from('a', 1, 'é'))"
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONHASHSEED": "7"}
    said = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True
    )
    assert int(said.stdout) == seed_from("a", 1, "é")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "thing"
    with (
        pytest.raises(RuntimeError),
        new_folder(target, marker="done.json", marker_value=lambda: {}) as folder,
    ):
        (folder / "part").write_text("x")
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []
    with new_folder(target, marker="done.json", marker_value=lambda: {"a": 1}) as folder:
        (folder / "part").write_text("x")
        assert not target.exists()
    assert read_json(target / "done.json") == {"a": 1} and (target / "part").read_text() == "x"


def test_the_loser_of_a_race_discards_its_copy(tmp_path):
    target = tmp_path / "thing"
    with new_folder(target, marker="m", marker_value=lambda: "second") as late:
        (late / "who").write_text("late")
        with new_folder(target, marker="m", marker_value=lambda: "first") as early:
            (early / "who").write_text("early")
    assert (target / "who").read_text() == "early" and [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_a_torn_folder_is_replaced(tmp_path):
    target = tmp_path / "thing"
    target.mkdir()
    (target / "half").write_text("x")
    with new_folder(target, marker="m", marker_value=lambda: 1):
        pass
    assert (target / "m").exists() and not (target / "half").exists()


def test_temporary_leftovers_are_cleared_but_not_fresh_ones(tmp_path):
    old, fresh = tmp_path / f"{TEMPORARY}old", tmp_path / f"{TEMPORARY}fresh"
    old.mkdir()
    fresh.mkdir()
    os.utime(old, (1, 1))
    assert clear_temporary(tmp_path) == 1 and fresh.exists() and not old.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ".."])
def test_names_from_data_stay_in_their_folder(tmp_path, name):
    with pytest.raises(InputError, match="leaves its folder"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/b").parent.parent == tmp_path.resolve()


def test_bad_files_are_named(tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café".encode("latin-1"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    for call, pattern in (
        (lambda: read_text(tmp_path / "none"), "no such file"),
        (lambda: read_text(tmp_path), "cannot be read"),
        (lambda: read_text(latin), "not UTF-8 text .byte 3"),
        (lambda: read_jsonl(broken), "broken.jsonl:2: not JSON"),
        (lambda: read_json(broken), "broken.jsonl:2"),
    ):
        with pytest.raises(InputError, match=pattern):
            call()
    with pytest.raises(InputError, match="nested too deeply"):
        (tmp_path / "deep.json").write_text("[" * 100_000)
        read_json(tmp_path / "deep.json")


def test_json_files_hold_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [InputError("a"), UnknownName("b"), Faults(["c", "d"]), RunFailed("e"), Corrupt("f")]
)
def test_errors_survive_a_process_border(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and isinstance(again, LoramemError)


def test_registry_suggests():
    registry = Registry("reading")
    registry.add("closed", 1)
    with pytest.raises(UnknownName, match="unknown reading 'closd'; allowed: closed. Did you mean 'closed'"):
        registry.get("closd")


def test_configs_report_every_fault_at_once():
    class Small(Config):
        rank: int
        name: str = "x"

    with pytest.raises(Faults) as caught:
        parse(Small, {"rank": "no", "nam": 1}, "modules")
    assert len(caught.value.faults) == 2 and "Did you mean 'name'" in str(caught.value)
    assert Small(rank=1).identity() == {"rank": 1}


def test_ledger_adds():
    ledger = Ledger()
    with ledger.timed("read"):
        ledger.add("read", tokens=2)
    assert ledger.as_dict()["read"]["tokens"] == 2 and ledger.as_dict()["read"]["seconds"] > 0


def _race(arguments):
    folder, number = arguments
    with new_folder(folder, marker="m", marker_value=lambda: number) as work:
        (work / "who").write_text(str(number))


def test_processes_racing_for_one_folder_leave_one_whole(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_race, [(tmp_path / "thing", number) for number in range(6)])
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]
    assert (tmp_path / "thing" / "who").read_text() == str(read_json(tmp_path / "thing" / "m"))
