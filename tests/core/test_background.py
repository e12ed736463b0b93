"""Work beside the caller: in order, bounded, told in the caller's thread, and finished whatever becomes of the block."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramem.core.background import Background


def failing(number: int) -> None:
    raise ValueError(number)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=20), st.integers(1, 4))
def test_calls_are_made_in_order_and_each_is_reported(outcomes, most):
    done: list[int] = []
    told: list[tuple[int, str]] = []
    with Background(most) as work:
        for number, fails in enumerate(outcomes):

            def call(number=number, fails=fails):
                done.append(number)
                if fails:
                    failing(number)

            work.run(call, lambda error, number=number: told.append((number, repr(error))))
    assert done == list(range(len(outcomes)))
    assert told == [(n, f"ValueError({n})" if fails else "None") for n, fails in enumerate(outcomes)]


def test_work_is_done_in_one_other_thread_and_told_in_the_callers():
    where: list[int] = []
    told: list[int] = []
    gate, after = threading.Event(), threading.Event()
    with Background() as work:
        work.run(gate.wait, lambda _: None)
        work.run(after.set, lambda _: None)
        early = after.wait(0.05)
        gate.set()  # before anything is asserted: leaving the block waits for it
        for _ in range(5):
            work.run(
                lambda: where.append(threading.get_ident()), lambda _: told.append(threading.get_ident())
            )
        work.run(partial(failing, 1), lambda _: told.append(threading.get_ident()))
    assert not early, "one call after another"
    assert len(where) == 5 and len(set(where)) == 1 and where[0] != threading.get_ident()
    assert told == [threading.get_ident()] * 6


def test_no_more_calls_wait_than_are_allowed():
    gate = threading.Event()
    told: list[str] = []
    with Background(2) as work:
        work.run(gate.wait, lambda _: told.append("first"))
        work.run(lambda: None, lambda _: told.append("second"))
        work.collect()
        early = gate.is_set(), list(told)
        threading.Timer(0.1, gate.set).start()
        work.run(lambda: None, lambda _: told.append("third"))
        assert gate.is_set() and told[0] == "first", "the third waited for room"
    assert early == (False, []), "collecting waits for nothing, and there was room for two"
    assert told == ["first", "second", "third"]


def test_what_is_done_is_told_at_the_next_collect():
    ready = threading.Event()
    told: list[object] = []
    with Background() as work:
        work.run(ready.set, told.append)
        work.run(lambda: None, told.append)
        ready.wait()
        for _ in range(1000):
            work.collect()
            if len(told) == 2:
                break
            threading.Event().wait(0.001)
        assert told == [None, None]
    assert told == [None, None], "nothing is told twice"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_block_left_by_an_exception_finishes_what_was_handed_in(error):
    gate = threading.Event()
    done: list[int] = []
    told: list[str] = []
    with pytest.raises(error), Background() as work:
        work.run(gate.wait, lambda found: told.append(repr(found)))
        for number in range(3):
            work.run(partial(done.append, number), lambda found: told.append(repr(found)))
        work.run(partial(failing, 7), lambda found: told.append(repr(found)))
        threading.Timer(0.05, gate.set).start()
        raise error
    assert done == [0, 1, 2] and told == ["None"] * 4 + ["ValueError(7)"]
