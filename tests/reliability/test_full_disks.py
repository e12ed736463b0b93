"""A disk that fills, is read-only or breaks ends a run at once, with one message; what was finished is kept, and it goes on later."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reliability.comparing import check_same, check_whole, files, stamps
from reliability.processes import PATIENCE, Process
from reliability.small_study import Place, Undisturbed, Watch, reach

PAGE = 4096
PLENTY = 2**28
Mount = Callable[[Path, int], None]


def mounted(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["mount", *words], capture_output=True, text=True, timeout=60, check=False)


def remount(folder: Path, options: str) -> bool:
    return mounted("-o", f"remount,{options}", str(folder)).returncode == 0


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Makes a folder a disk of so many bytes."""
    made: list[Path] = []

    def make(folder: Path, size: int) -> None:
        folder.mkdir(parents=True)
        try:
            done = mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
            why = done.stderr.strip()
        except FileNotFoundError:
            why = "no such command"
        if why:
            pytest.skip(f"a small file system cannot be mounted here: {why}")
        made.append(folder)

    yield make
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)


def pages(paths: list[Path]) -> int:
    """Bytes that files take on a disk."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in paths)


def below(plain: Undisturbed, *folders: str) -> list[Path]:
    """What a run puts into some folders of the store; scores come last, and are left out."""
    found = [path for folder in folders for path in files(plain.place.store / folder).values()]
    return [path for path in found if path.parent.name != "scores"]


def ended_for_want_of_storage(process: Process, *said: str) -> None:
    """It failed with one message that says so, and did not try everything that was left."""
    assert process.wait() == 1, process.output + process.errors
    [line] = process.errors.splitlines()
    assert line.startswith("error: ") and all(words in line for words in said), line
    assert "what was finished is kept" in line and "again" in line
    assert "failed" not in process.output and "Traceback" not in process.errors


def goes_on(known, place: Place, kept: dict) -> None:
    """The same command ends in the same results, and does nothing again."""
    process = known.start(place.command(known.setting), place.folder)
    assert process.wait() == 0, process.output + process.errors
    assert kept.items() <= stamps(place).items()
    check_same(place, known.plain.place)


def test_disks_that_fill_or_become_read_only_end_a_run_each_time_and_nothing_is_lost(known, mount, tmp_path):
    """One fault after another on one store; each time the same command has gone further."""
    place, small, plain = Place(tmp_path), Place(tmp_path, "small"), known.plain
    cached = pages(below(plain, "cache/teacher", "cache/overlap"))
    modules, readings = (pages(below(plain, kind)) for kind in ("modules", "readings"))
    mount(place.store, cached + modules // 2)

    # the store fills while modules are saved, then while readings are
    kept: dict = {}
    for kind, room in (("modules", cached + modules // 2), ("readings", cached + modules + readings // 2)):
        assert remount(place.store, f"size={room}")
        process = known.start(place.command(known.setting), tmp_path)
        ended_for_want_of_storage(process, f"the disk is full: {place.store}", " free)", "Make room")
        assert kept.items() < (kept := stamps(place)).items()
        assert 0 < len(place.finished(kind)) < len(plain.place.finished(kind)), kind
        check_whole(place)

    # it becomes read-only
    assert remount(place.store, f"size={PLENTY}")
    process, watch = known.start(place.command(known.setting), tmp_path), Watch(place)
    assert reach(process, watch, "read")
    end = time.monotonic() + PATIENCE
    while not remount(place.store, "ro"):  # refused while a file is being written
        assert time.monotonic() < end and process.poll() is None, process.errors
    ended_for_want_of_storage(process, f"the file system is read-only: {place.store}", "Make it writable")
    assert kept.items() <= (kept := stamps(place)).items()
    assert len(place.finished("readings")) < len(plain.place.finished("readings"))
    assert remount(place.store, "rw")

    # the run folder has no room, first for a log, then for results
    mount(small.out, 2 * PAGE)
    results = [path for name, path in files(plain.place.out).items() if name != "report.html"]
    for room in (2 * PAGE, pages(results)):
        assert remount(small.out, f"size={room}")
        process = known.start(small.command(known.setting), tmp_path)
        ended_for_want_of_storage(process, f"the disk is full: {small.out}", " free)", "Make room")
        assert kept.items() <= (kept := stamps(small)).items()
        check_whole(small)
    assert kept.keys() == stamps(plain.place).keys()
    assert remount(small.out, f"size={PLENTY}")
    goes_on(known, small, kept)


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_ends_a_run_and_nothing_is_lost(known, tmp_path):
    """As with `ulimit -f`, or a file system that holds no large files: first modules are too large, then only the report is."""
    place, plain = Place(tmp_path), known.plain
    weights = next(path for path in below(plain, "modules") if path.name == "adapter_model.safetensors")
    process = known.start(place.command(known.setting), tmp_path, file_bytes=weights.stat().st_size - 1)
    ended_for_want_of_storage(process, "no file may grow so large here", str(place.store), "ulimit -f")
    assert not place.finished("modules") and not place.temporaries()

    own = files(plain.place.out)
    most = 2 * max(
        path.stat().st_size for path in (*below(plain, ""), own["log.jsonl"], own["items.parquet"])
    )
    assert most < own["report.html"].stat().st_size
    process = known.start(place.command(known.setting), tmp_path, file_bytes=most)
    ended_for_want_of_storage(process, "no file may grow so large here", str(place.out))
    kept = stamps(place)
    assert kept.keys() == stamps(plain.place).keys()
    goes_on(known, place, kept)


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_done(known, request, tmp_path):
    place = Place(tmp_path)
    if os.geteuid() == 0:  # whom no mode of a folder keeps out
        request.getfixturevalue("mount")(place.store, PLENTY)
        assert remount(place.store, "ro")
    else:
        place.store.mkdir()
        place.store.chmod(0o555)
    process = known.start(place.command(known.setting), tmp_path)
    assert process.wait() == 2
    [line] = process.errors.splitlines()
    assert line.startswith(f"error: store {place.store}") and not process.output
    assert not place.out.exists() and not list(place.store.iterdir())
