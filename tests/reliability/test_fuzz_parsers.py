"""Every parser on made-up and mutated input: what comes out is a value or an error of ours, and it comes soon.

`make test` tries a few inputs for each target, always the same; `make soak` many. Guided by coverage: `fuzz_guided.py`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reliability.limits import soon
from reliability.targets import TARGETS, attempt

FEW, MANY = 25, 2_000
MOST_SECONDS = 10
"""Of CPU, for one input of some kilobytes; most take a millisecond."""

TOKENS = [
    b'"', b"'", b"{", b"}", b"[", b"]", b":", b",", b"\n", b"\r\n", b"\t", b"\0", b"\\", b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"NaN",
    b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b"null", b"true", b"%", b"$", b"<", b">", b"&", b"*a", b"&a", b"!!x", b"<<", b"~", b"..", b"/", b"@", b"=",
    "\u202e\u200b🪨".encode(), b" " * 300, b"x" * 20_000,
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\u200b", "\ud800", "a", "a" * 5000, "../x", "\0", [], {}, [[]], [None],
    ["a", "a"], {"": 1}, {"a": {"a": {}}}, [{"a": 1}], [1, "a", None], "all", "1", "nan",
]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


# -- input -----------------------------------------------------------------------------------------------------
def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


@st.composite
def changed_value(draw, value: Any) -> Any:
    """A JSON value of which a few parts are others, gone, or there twice."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        new = copy.deepcopy(draw(VALUES))  # what is drawn again must be what it was
        if not path:
            value = new if draw(st.integers(0, 9)) == 0 else value
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        what = draw(st.sampled_from(["other", "other", "gone", "more"]))
        if what == "other":
            parent[path[-1]] = new
        elif what == "gone":
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        else:
            parent[draw(st.text(max_size=4))] = copy.deepcopy(parent[path[-1]])
    return value


@st.composite
def changed_bytes(draw, data: bytes) -> bytes:
    """Bytes of which a few are others, gone, repeated, or followed by something odd."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        part = {
            "token": draw(st.sampled_from(TOKENS)), "bytes": draw(st.binary(max_size=6)), "twice": data[at : at + length] * 2, "gone": b"",
        }[draw(st.sampled_from(["token", "bytes", "twice", "gone"]))]  # fmt: skip
        data = data[:at] + part + data[at + length :]
    return data if draw(st.integers(0, 9)) else data[: draw(st.integers(0, len(data)))]


@st.composite
def inputs(draw, name: str) -> bytes:
    target = TARGETS[name]
    how = draw(st.sampled_from(["anything", "text", "bytes", "bytes", "value", "value"]))
    if how == "anything":
        return draw(st.binary(max_size=60))
    if how == "text":
        return draw(st.text(max_size=60)).encode("utf-8", "surrogatepass")
    seed = draw(st.sampled_from(target.seeds))
    if how == "bytes" or target.form == "bytes":
        return draw(changed_bytes(seed))
    if target.form == "jsonl":
        lines = [json.loads(line) for line in seed.splitlines() if line.strip()]
        return b"\n".join(json.dumps(draw(changed_value(line))).encode() for line in lines[:3])
    return json.dumps(draw(changed_value(json.loads(seed)))).encode()


# -- the tests -------------------------------------------------------------------------------------------------
def fuzz(name: str, examples: int, where: Path) -> None:
    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    @given(inputs(name))
    def try_it(data: bytes) -> None:
        with soon(MOST_SECONDS):
            attempt(name, data, where)

    try_it()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_is_read(name, tmp_path):
    """Seeds are read without an error: else mutations would never come far."""
    target = TARGETS[name]
    assert target.seeds
    for seed in target.seeds:
        target.run(seed, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_ours_come_out(name, tmp_path):
    fuzz(name, FEW, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_ours_come_out_of_many(name, tmp_path):
    fuzz(name, MANY, tmp_path)
