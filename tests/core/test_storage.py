"""Which errors end a run, and what is said of them."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from loramem.core.errors import Corrupt, InputError, RunFailed
from loramem.core.storage import BROKEN, CLOSED, FULL, StorageFailed, fatal, storage_errno


@given(st.integers(1, 133))
def test_an_error_of_the_system_is_fatal_if_the_storage_is_gone_and_not_otherwise(number):
    gone = number in (*FULL, *CLOSED, *BROKEN)
    assert (fatal(OSError(number, os.strerror(number))) is not None) == gone
    assert (storage_errno(OSError(number, "x")) == number) == gone


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "x"),
        OSError(errno.ENAMETOOLONG, "x"),
        OSError("no number"),
        ValueError("[Errno 28] in words only"),
        InputError("(os error 28)"),
        Corrupt("a file of the store"),
        RunFailed("a module"),
        SafetensorError("Error while deserializing header"),
        SafetensorError("No such file or directory (os error 2)"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
)
def test_what_fails_alone_does_not_end_a_run(error):
    assert fatal(error) is None


def test_a_library_that_tells_the_number_in_words_only_is_understood():
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    ended = fatal(SafetensorError(said), Path("/store/modules/x"))
    assert isinstance(ended, StorageFailed) and "the disk is full: /store/modules/x" in str(ended)


def test_the_words_of_that_library_are_what_they_were(tmp_path):
    own = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, own[1]))
    try:
        with pytest.raises((SafetensorError, OSError)) as caught:
            save_file({"a": torch.zeros(100_000)}, tmp_path / "weights.safetensors")
        assert "the limit is 5.0 KB, `ulimit -f`" in str(fatal(caught.value, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, own)
    assert storage_errno(caught.value) == errno.EFBIG


def test_the_message_says_what_is_full_how_much_is_free_and_that_work_is_kept(tmp_path, monkeypatch):
    space = namedtuple("space", "total used free")(2 * 10**9, 2 * 10**9 - 4096, 4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space)
    gone = tmp_path / "modules" / "abc" / "weights"
    ended = fatal(OSError(errno.ENOSPC, "No space left on device", str(gone)))
    assert ended is not None and ended.exit_code == 1
    assert str(ended) == (
        f"the disk is full: {gone} (4.1 KB of 2.0 GB free); what was finished is kept. Make room, or choose another place "
        "(--store, --out), and give the same command again"
    )


def test_a_disk_with_room_but_no_room_for_names_says_so(tmp_path, monkeypatch):
    table = namedtuple("table", "f_files f_favail")(1000, 0)
    monkeypatch.setattr(os, "statvfs", lambda path: table)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("space", "total used free")(9, 1, 8))
    assert "it can hold no more files; 8 B of 9 B free" in str(
        fatal(OSError(errno.ENOSPC, "x", str(tmp_path)))
    )


@pytest.mark.parametrize(
    ("number", "words", "advice"),
    [
        (errno.EDQUOT, "the disk quota is used up: /s/x", "Make room"),
        (errno.EFBIG, "no file may grow so large here: /s/x", "Make room"),
        (errno.EROFS, "the file system is read-only: /s/x", "Make it writable"),
        (errno.EACCES, "no permission: /s/x", "Make it writable"),
        (errno.EPERM, "no permission: /s/x", "Make it writable"),
        (errno.EIO, "the storage fails (Input/output error): /s/x", "Mend it"),
        (errno.ESTALE, "the storage fails (Stale file handle): /s/x", "Mend it"),
    ],
)
def test_each_kind_is_told_in_its_own_words(number, words, advice):
    said = str(fatal(OSError(number, os.strerror(number), "/s/x")))
    assert said.startswith(words) and f"what was finished is kept. {advice}, or choose another place" in said


def test_the_place_is_the_one_named_by_the_error_or_by_the_caller_or_none():
    full = OSError(errno.EIO, "x")
    assert ": /given;" in str(fatal(full, Path("/given"))) and "error);" in str(fatal(full))
    assert ": /own;" in str(fatal(OSError(errno.EIO, "x", "/own"), Path("/given")))
    assert ": /own;" in str(fatal(OSError(errno.EIO, "x", b"/own")))


def test_it_survives_a_process_border_and_is_its_own_verdict():
    ended = fatal(OSError(errno.ENOSPC, "x"))
    assert ended is not None and fatal(ended) is ended
    again = pickle.loads(pickle.dumps(ended))
    assert type(again) is StorageFailed and str(again) == str(ended)
