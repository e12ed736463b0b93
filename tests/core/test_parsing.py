"""JSON and YAML from people: what is right is read as the standard readers do; what is taken in silence elsewhere is refused here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import InputError
from loramem.core.parsing import DIGITS, YAML_BYTES, YAML_DEPTH, YAML_NODES, decoded, json_value, yaml_value
from loramem.studies import spec

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def place(line: int | None) -> str:
    return f"f:{line}"


def refused(text: str, *says: str) -> None:
    with pytest.raises(InputError) as caught:
        yaml_value(text, place)
    assert all(part in str(caught.value) for part in says), caught.value


# -- JSON ------------------------------------------------------------------------------------------------------
@given(PLAIN)
def test_json_that_is_right_comes_back(value):
    assert json_value(json.dumps(value), "f") == value
    assert json_value(json.dumps(value, ensure_ascii=False), "f", 3) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,\n "a": 2}', "f: the key 'a' stands twice"), ('[{"b": {"a": 1, "a": 1}}]', "'a' stands twice"), ("[NaN]", "NaN is no JSON value"),
        ("-Infinity", "-Infinity is no JSON value"), ("9" * 5000, "digits"), ('["\\ud83d"]', "half a character"), ('{"\\uDE00": 1}', "half a character"),
        ("[" * 100_000, "nested too deeply"), ('{"a":\n 1,}', "f:2: not JSON"), ("", "f:1: not JSON"), ("[1] [2]", "Extra data"),
    ],
)  # fmt: skip
def test_json_that_is_refused(text, says):
    with pytest.raises(InputError) as caught:
        json_value(text, "f")
    assert says in str(caught.value)


def test_a_line_of_json_is_named_by_its_number():
    with pytest.raises(InputError, match=r"^f:7: not JSON \(Expecting value, column 2\)$"):
        json_value("[", "f", 7)


def test_both_halves_of_a_character_are_one():
    assert json_value('["\\ud83d\\ude42", "\\\\ud83d"]', "f") == ["🙂", "\\ud83d"]


# -- YAML ------------------------------------------------------------------------------------------------------
@given(PLAIN)
def test_yaml_that_is_right_comes_back(value):
    text = yaml.safe_dump(value)
    assert yaml_value(text, place) == yaml.safe_load(text) == value


@pytest.mark.parametrize("name", spec.shipped())
def test_shipped_studies_are_read_as_by_the_safe_loader(name):
    text = spec.find(name)
    assert yaml_value(text, place) == yaml.safe_load(text)


def test_anchors_and_merges_are_allowed_within_bounds():
    text = "a: &a {x: 1, y: 2}\nb: [*a, *a]\nc: {<<: *a, y: 3}\nd: {<<: [*a, {z: 4}]}\n"
    assert yaml_value(text, place) == yaml.safe_load(text)


def test_dates_and_equals_signs_are_texts():
    assert yaml_value("[2001-12-14, 2001-99-99, =, 12:30]", place) == ["2001-12-14", "2001-99-99", "=", 750]


def test_an_empty_text_is_none():
    assert yaml_value("# nothing\n", place) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", ("f:3: the key 'a' stands twice", "line 1")), ("a:\n  b: {c: 1, c: 1}\n", ("f:2: the key 'c' stands twice",)),
        ("? [a]\n: b\n", ("f:1: a key that is a list",)), ("a: !!binary aGk=\n", ("f:1", "the tag 'binary'")), ("a: !me x\n", ("f:1", "'!me'")),
        ("a: &a\n  b: *a\n", ("f:1: an anchor that holds itself",)), ("a: *b\n", ("f:1: not YAML", "undefined alias")),
        ("a: 1\n--- \nb: 2\n", ("f:2: not YAML", "another document")), ("a: b\x07c\n", ("f:1", "'\\x07' is not allowed")), ("a\n\tb: c", ("f:2",)),
        ('a: "\\UFFFFFFFF"\n', ("f:1", "names no character")), ('a: "\\uD800"\n', ("f:1", "half a character")), (f"a: 1\nb: {'1' * (DIGITS + 1)}\n", ("f:2: a number of 1,001 digits",)),
        ("[" * 100_000, ("nested too deeply",)), ("[" * (YAML_DEPTH + 2) + "]" * (YAML_DEPTH + 2), ("f:1", "nested too deeply")),
        ("a: " + "x" * YAML_BYTES, ("1,000,003 bytes; settings have at most 1,000,000",)),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text, says):
    refused(text, *says)


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_what_anchors_blow_up_is_refused_at_once(form):
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 30)]
    began = time.perf_counter()
    refused("\n".join(lines), f"more than {YAML_NODES:,} values, its anchors written out")
    assert time.perf_counter() - began < 5


def test_as_deep_and_as_long_as_is_allowed():
    deep = "[" * YAML_DEPTH + "]" * YAML_DEPTH
    assert yaml_value(deep, place) == json.loads(deep)
    assert yaml_value("1" * DIGITS, place) == int("1" * DIGITS)


# -- text ------------------------------------------------------------------------------------------------------
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff")))
def test_utf_8_comes_back_with_or_without_its_mark(text):
    assert decoded(text.encode(), Path("f")) == decoded(text.encode("utf-8-sig"), Path("f")) == text


@pytest.mark.parametrize("code", ["utf-16", "utf-32", "utf-16-le"])
def test_other_encodings_are_named(code):
    data = "a".encode(code) if code != "utf-16-le" else b"\xff\xfea\0"
    with pytest.raises(InputError, match=rf"f: not UTF-8 but {code[:6].upper()} text; save it as UTF-8"):
        decoded(data, Path("f"))
