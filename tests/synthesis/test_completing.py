"""Kept answers: what was answered is not asked again, what was not is; damaged files and repeated prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from loramem.synthesis.completing import Answer, Ask, Cached, Failure, OnReply, Reply, Sampling

SCHEMA = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}


class Scripted:
    """Answers with the prompt in capitals, unless the script says otherwise; the last is told first."""

    name = "scripted"

    def __init__(
        self, script: dict[str, Reply] | None = None, sampling: Sampling | None = None, tells: bool = True
    ):
        self.script, self.sampling, self.tells = script or {}, sampling or Sampling(), tells
        self.asked: list[str] = []

    def identity(self) -> dict:
        return {"model": self.name, "sampling": self.sampling.identity()}

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        self.asked += [ask.user for ask in asks]
        replies = [
            self.script.get(ask.user, Answer(ask.user.upper(), ask.user.upper(), 3, 2, 0.5, 0.1))
            for ask in asks
        ]
        for index in reversed(range(len(asks))):
            if on_reply and self.tells:
                on_reply(index, replies[index])
        return replies


def asks(*prompts: str) -> list[Ask]:
    return [Ask(prompt) for prompt in prompts]


def texts(replies: Sequence[Reply]) -> list[str]:
    return [reply.text if isinstance(reply, Answer) else reply.kind for reply in replies]


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("tells", [True, False])
def test_replies_stand_in_order_and_each_is_told_once(tmp_path, tells):
    told: dict[int, Reply] = {}

    def tell(index: int, reply: Reply) -> None:
        assert index not in told
        told[index] = reply

    Cached(Scripted(), tmp_path).complete(asks("b", "d"))
    replies = Cached(Scripted({"c": Failure("refused", "no")}, tells=tells), tmp_path).complete(
        asks("a", "b", "c", "d"), tell
    )
    assert texts(replies) == ["A", "B", "refused", "D"] and [told[index] for index in range(4)] == replies
    assert [reply.cached for reply in replies if isinstance(reply, Answer)] == [False, True, True]


def test_only_what_has_no_answer_is_asked_again(tmp_path):
    first = Scripted({"b": Failure("timeout", "late", 3)})
    assert texts(Cached(first, tmp_path).complete(asks("a", "b", "c"))) == ["A", "timeout", "C"]
    assert len(files(tmp_path)) == 2
    again = Scripted()
    replies = Cached(again, tmp_path).complete(asks("c", "b", "a"))
    assert again.asked == ["b"] and texts(replies) == ["C", "B", "A"]
    assert replies[0] == Answer("C", "C", 3, 2, 0.5, 0.1, cached=True)
    assert Cached(Scripted(), tmp_path).complete([]) == []


def test_a_run_that_is_killed_keeps_what_it_was_told(tmp_path):
    def killed(index: int, reply: Reply) -> None:
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cached(Scripted(), tmp_path).complete(asks("a", "b", "c"), killed)
    again = Scripted()
    Cached(again, tmp_path).complete(asks("a", "b", "c"))
    assert again.asked == ["a"]  # the last was told first, the second before it killed the run


def test_the_same_prompt_is_asked_and_paid_once(tmp_path):
    scripted = Scripted({"b": Failure("cut", "long", 5, 7, 1.0)})
    replies = Cached(scripted, tmp_path).complete(asks("a", "b", "a", "b"))
    assert scripted.asked == ["a", "b"] and len(files(tmp_path)) == 1
    assert replies[2] == replace(replies[0], cached=True) and not replies[0].cached
    assert replies[1] == Failure("cut", "long", 5, 7, 1.0) and replies[3] == Failure("cut", "long")


def test_whatever_decides_an_answer_has_an_entry_of_its_own(tmp_path):
    ask = Ask("a", "s", SCHEMA, 10, 1)
    others = [replace(ask, **change) for change in (
        {"user": "b"}, {"system": ""}, {"schema": None}, {"schema": SCHEMA | {"title": "t"}}, {"max_tokens": 11}, {"sample": 0},
    )]  # fmt: skip
    samplings = [Sampling(temperature=0.1), Sampling(seed=1), Sampling(top_p=0.5)]
    paths = {Cached(Scripted(), tmp_path).path(other) for other in [ask, *others]}
    paths |= {Cached(Scripted(sampling=sampling), tmp_path).path(ask) for sampling in samplings}
    assert len(paths) == 1 + len(others) + len(samplings)
    assert Cached(Scripted(), tmp_path).path(replace(ask)) in paths


@pytest.mark.parametrize(
    "content", [b"", b'{"text": "A"', b"null", b"[1]", b'"A"', b"{}", b'{"text": "A", "colour": 1}', b"\xff\xfe{}", b"[" * 5000]
)  # fmt: skip
def test_a_damaged_file_is_asked_again_and_mended(tmp_path, content):
    cached = Cached(Scripted(), tmp_path)
    cached.complete(asks("a"))
    path = cached.path(Ask("a"))
    whole = path.read_bytes()
    path.write_bytes(content)
    again = Scripted()
    (reply,) = Cached(again, tmp_path).complete(asks("a"))
    assert again.asked == ["a"] and isinstance(reply, Answer) and not reply.cached
    assert path.read_bytes() == whole


def test_values_come_back_as_they_were(tmp_path):
    value = {"ä": [1, 2.5, None, True, "🪨\n"], "b": {}}
    answer = Answer(json.dumps(value), value, 1, 1, 0.0, None)
    Cached(Scripted({"a": answer}), tmp_path).complete(asks("a"))
    assert Cached(Scripted(), tmp_path).complete(asks("a")) == [replace(answer, cached=True)]
