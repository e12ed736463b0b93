"""Identity, atomic files, registry, errors: what everything else stands on."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.config import Config, parse
from loramem.core.errors import Corrupt, Faults, InputError, LoramemError, RunFailed, UnknownName
from loramem.core.files import (
    TEMPORARY,
    append_jsonl,
    clear_temporary,
    host,
    inside,
    new_folder,
    read_json,
    read_jsonl,
    read_log,
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


def test_leftovers_of_other_hosts_and_older_versions_are_cleared_by_their_age(tmp_path):
    names = ("old", "elsewhere.0a1b2c3d-1-x")
    for name in names:
        for age in ("aged", "fresh"):
            folder = tmp_path / age / f"{TEMPORARY}{name}"
            folder.mkdir(parents=True)
            (folder / "part").write_text("x")
        os.utime(tmp_path / "aged" / f"{TEMPORARY}{name}", (1, 1))
    assert clear_temporary(tmp_path) == 2
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == sorted(
        TEMPORARY + n for n in names
    )
    assert not list((tmp_path / "aged").iterdir())


LEAVES = """
import sys, os
from pathlib import Path
from loramem.core.files import new_file, new_folder

root = Path(sys.argv[1])
with new_folder(root / "a" / "folder", marker="m", marker_value=dict) as work, new_file(root / "file") as temporary:
    (work / "part").write_text("x")
    print(work, temporary, sep="\\n", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), 9)
"""


def test_what_a_process_of_this_host_writes_stays_as_long_as_it_lives_and_goes_as_soon_as_it_is_dead(
    tmp_path,
):
    writer = subprocess.Popen(
        [sys.executable, "-c", LEAVES, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": "src"},
    )  # fmt: skip
    assert writer.stdin is not None and writer.stdout is not None
    left = [Path(writer.stdout.readline().strip()) for _ in range(2)]
    assert all(path.exists() and f"{host()}-{writer.pid}-" in path.name for path in left)
    for path in left:
        os.utime(path, (1, 1))
    assert clear_temporary(tmp_path) == 0 and all(path.exists() for path in left)
    writer.stdin.close()
    while (
        Path(f"/proc/{writer.pid}/stat").exists() and writer.returncode is None
    ):  # dead, and not waited for yet
        if Path(f"/proc/{writer.pid}/stat").read_text().rpartition(") ")[2][0] == "Z":
            break
    assert clear_temporary(tmp_path) == 2 and not any(path.exists() for path in left)
    assert writer.wait() == -9


def test_a_link_among_the_leftovers_is_removed_and_not_what_it_leads_to(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    link = tmp_path / "store" / f"{TEMPORARY}{host()}-{int(dead.stdout)}-x"
    link.parent.mkdir()
    link.symlink_to(kept)
    assert clear_temporary(tmp_path / "store") == 1 and not link.is_symlink() and (kept / "file").exists()


def test_a_whole_folder_that_appears_between_a_look_and_a_rename_is_kept_or_replaced_by_its_equal(
    tmp_path, monkeypatch
):
    """Two processes meet a torn folder: the second must not remove what the first has put there."""
    target, rename, seen = tmp_path / "thing", os.rename, []
    target.mkdir()
    (target / "half").write_text("x")

    def slow(source, to):
        if Path(to) == target and not seen:  # another process is faster
            seen.append(source)
            os.rename = rename
            with new_folder(target, marker="m", marker_value=lambda: 1) as work:
                (work / "who").write_text("first")
        rename(source, to)

    monkeypatch.setattr(os, "rename", slow)
    with new_folder(target, marker="m", marker_value=lambda: 1) as work:
        (work / "who").write_text("second")
    assert seen and read_json(target / "m") == 1 and (target / "who").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("end", ['{"a": 1}\n', '{"a": 1}\n{"b": "é', '{"b": "\ud83d'])
def test_a_log_goes_on_after_a_torn_line_and_its_readers_skip_it(tmp_path, end):
    log = tmp_path / "log.jsonl"
    log.write_bytes(end.encode("utf-8", "surrogatepass")[: -1 if end.endswith("é") else None])
    append_jsonl(log, {"c": 2})
    append_jsonl(log, {"d": "half \ud800"})
    rows = read_log(log)
    assert rows[-2]["c"] == 2 and "half" in rows[-1]["d"] and all("b" not in row for row in rows)
    assert len(rows) == 2 + end.startswith('{"a"')


def test_a_failing_storage_is_named_by_what_was_being_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(
            errno.ENOSPC, "No space left on device"
        )  # as a file that is written does: it names none

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_json(tmp_path / "x.json", {})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "x.json")
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "thing", marker="m", marker_value=dict):
        pass
    assert caught.value.filename == str(tmp_path / "thing")
    assert list(tmp_path.iterdir()) == []


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
