"""Paths that users name, places that are written to, and how much of what was given a message quotes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from loramem.core.errors import LONGEST, Faults, InputError, nearest
from loramem.core.files import damage_in, read_text
from loramem.core.paths import check_file, check_new_folder, make_folder, user_path
from loramem.core.shown import blank, quoted, shortened


def test_a_home_folder_is_written_out_and_nothing_need_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a/b") == tmp_path / "a/b"
    assert user_path("a/b.md") == Path("a/b.md")
    (tmp_path / "file").write_text("x")
    assert user_path(tmp_path / "file" / "below") == tmp_path / "file" / "below"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("~nobody-has-this-name/a", "nobody of that name"), ("a\0b", "no name that a file can have"), ("a\ud800", "no name that a file can have"),
        ("a" * 5000, "too long"), ("loop/x", "symbolic links"),
    ],
)  # fmt: skip
def test_what_no_path_can_be_is_told(given, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=says) as caught:
        user_path(given, "store")
    assert str(caught.value).startswith("store '") and len(str(caught.value)) < 400


def test_places_that_cannot_be_written_are_refused_and_left_as_they_were(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for check, path, says in (
        (check_file, tmp_path / "full", "is a folder; name a file in it"),
        (check_file, tmp_path / "file" / "x", "no folder that can be written to"),
        (check_file, Path("/proc/x.csv"), "no folder that can be written to"),
        (check_new_folder, tmp_path / "full", "not an empty folder"),
        (check_new_folder, tmp_path / "file", "not an empty folder"),
        (check_new_folder, Path("/proc/x"), "no folder that can be written to"),
        (make_folder, tmp_path / "file" / "x", "Not a directory"),
    ):
        with pytest.raises(InputError, match=says):
            check(path, "--out")
    check_file(tmp_path / "new" / "x.csv", "--out")
    check_new_folder(tmp_path / "new", "--to")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "x"]


def test_a_device_is_no_file():
    with pytest.raises(InputError, match="cannot be read .a device"):
        read_text(Path("/dev/zero"))


# -- messages --------------------------------------------------------------------------------------------------
def test_a_message_stays_short_and_keeps_its_ends():
    text = str(InputError("begins " + "x" * 10**6 + " ends"))
    assert len(text) == LONGEST and text.startswith("begins xx") and text.endswith("xx ends")


def test_no_half_of_a_secret_is_left_where_a_message_is_cut(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "geheimnis-0123456789")
    for length in range(1100, 1300, 7):
        text = str(InputError("x " * (length // 2) + "geheimnis-0123456789" + " y" * 1000))
        assert "geheim" not in text and "456789" not in text


def test_of_many_faults_as_many_are_told_as_fit():
    error = Faults([f"fault {number}: {'x' * 1000}" for number in range(1000)])
    assert len(str(error)) <= LONGEST and str(error).endswith("- ... and 996 more")
    assert len(error.faults) == 1000 and pickle.loads(pickle.dumps(error)).faults == error.faults


def test_of_many_names_those_that_come_near_are_told():
    names = [f"source-{number}" for number in range(1000)]
    told = nearest("sorce-123", names)
    assert told.startswith("allowed: source-123, ") and told.endswith(
        ", ... (1,000 in all). Did you mean 'source-123'?"
    )
    assert len(nearest("x" * 10**6, names)) < 200


def test_what_was_given_is_quoted_whatever_it_is():
    assert quoted("four") == "'four'" and quoted(None) == "None"
    assert quoted(16**5000) == "a number of 20001 bits"
    assert len(quoted("x" * 10**6)) == 200 and len(shortened("abc" * 100, 20)) == 20


def test_what_nobody_sees_is_blank():
    for text in ("", " \t\n", "\u3000", "\u200b\u200d", "\ufe0f", "\x00\x1b", "\u2066\u2069", "\ufeff"):
        assert blank(text), repr(text)
    for text in ("a", " . ", "\u200da", "🙂", "́", "م"):
        assert not blank(text), repr(text)


def test_damage_is_named_with_its_file_and_keeps_its_cause(tmp_path):
    with (
        pytest.raises(
            InputError, match=r"x.json: damaged, or written by another version \(KeyError: 'a'\)"
        ) as caught,
        damage_in(tmp_path / "x.json"),
    ):
        {}["a"]  # noqa: B018
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(InputError, match="^mine$"), damage_in(tmp_path / "x.json"):
        raise InputError("mine")
