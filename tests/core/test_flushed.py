"""A marker never stands without its data, not even after a power cut: the order in which things reach the disk."""

from __future__ import annotations

import errno
import os

import pytest

from loramem.core import files
from loramem.core.files import new_folder, write_json, write_text


@pytest.fixture
def order(monkeypatch) -> list[tuple[str, str]]:
    """(what, name) of every flush and rename, as they happen."""
    found: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def flushed(handle: int) -> None:
        found.append(("flush", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def renamed(old, new) -> None:
        found.append(("rename", os.path.basename(new)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    return found


def test_a_folder_is_on_the_disk_before_its_marker_and_the_marker_before_its_name(order, tmp_path):
    def marker():
        assert not order, "files of a folder are flushed together, when all are written"
        return {"a": 1}

    with new_folder(tmp_path / "thing", marker="done.json", marker_value=marker) as folder:
        (folder / "weights").write_bytes(b"w" * 10_000)  # as a library writes it
        write_text(folder / "text.txt", "t")
        (folder / "snapshots" / "3").mkdir(parents=True)
        (folder / "snapshots" / "3" / "deep").write_bytes(b"d")
        work = folder.name
    assert order[-1] == ("rename", "thing")
    assert sorted(order[:-3]) == sorted(
        ("flush", name) for name in ("weights", "text.txt", work, "snapshots", "3", "deep")
    )
    assert sorted(order[-3:-1]) == sorted([("flush", "done.json"), ("flush", work)])


def test_a_file_on_its_own_is_flushed_at_once(order, tmp_path):
    write_json(tmp_path / "alone.json", {})
    assert [what for what, _ in order] == ["flush"]


def test_a_failing_disk_is_told_and_nothing_is_named(monkeypatch, tmp_path):
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", broken)
    with (
        pytest.raises(OSError, match="thing") as caught,
        new_folder(tmp_path / "thing", marker="m", marker_value=dict) as folder,
    ):
        (folder / "weights").write_bytes(b"w")
    assert caught.value.errno == errno.EIO and not list(tmp_path.iterdir())


def test_a_file_system_that_flushes_no_folders_is_good_enough(monkeypatch, tmp_path):
    fsync = os.fsync

    def files_only(handle: int) -> None:
        if os.path.isdir(os.readlink(f"/proc/self/fd/{handle}")):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    with new_folder(tmp_path / "thing", marker="m", marker_value=dict) as folder:
        (folder / "weights").write_bytes(b"w")
    assert (tmp_path / "thing" / "m").exists()


def test_a_stale_view_of_a_marker_does_not_undo_another_machines_folder(monkeypatch, tmp_path):
    """As on NFS: the name is looked up in an old cache, while the folder's list is what the server has now."""
    theirs = tmp_path / "thing"
    theirs.mkdir()
    (theirs / "m").write_text('"theirs"')
    exists = files.Path.exists
    monkeypatch.setattr(files.Path, "exists", lambda path: path != theirs / "m" and exists(path))
    with new_folder(theirs, marker="m", marker_value=lambda: "ours"):
        pass
    assert (theirs / "m").read_text() == '"theirs"' and [path.name for path in tmp_path.iterdir()] == [
        "thing"
    ]
