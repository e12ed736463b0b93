"""Supervision by a model: rounds until all is there, what is left out and counted, and the same through a server that misbehaves."""

from __future__ import annotations

import json
import re
from collections import Counter

import openai  # noqa: F401 - so that the clock of no test counts it
import pytest

from loramem.metrics.text import same
from loramem.sources.types import Document, Probe
from loramem.synthesis.completing import Answer, Ask, Cached, Failure
from loramem.synthesis.endpoint import Endpoint, EndpointConfig
from loramem.synthesis.making import synthesize
from loramem.synthesis.overlap import guard, overlap
from loramem.synthesis.prompts import LONGEST, items_of, items_per_call
from loramem.synthesis.recipes import parse_recipe
from loramem.synthesis.supervision import Made, Supervision
from loramem.synthesis.units import as_units
from loramem.synthesis.writing import BARREN, ModelWriter
from synthesis.scripts import (
    Scribe,
    answer,
    as_value,
    document,
    facts,
    good,
    hall,
    lamps,
    pair,
    told,
    wanted,
)
from synthesis.server import Server, cut, hang, raw, says, status


def write(scribe: Scribe, *documents: Document, recipe: str = "qa:4", exclude=(), **settings) -> Supervision:
    return synthesize(documents, recipe, ModelWriter(scribe, **settings), exclude=exclude)


def account(made: Supervision, unit: str) -> Made:
    (found,) = [one for one in made.made if one.unit == unit]
    return found


def account_of(made: Supervision, unit: str, recipe: str) -> Made:
    (found,) = [one for one in made.made if (one.unit, one.recipe) == (unit, recipe)]
    return found


def no_prompt_twice(scribe: Scribe) -> bool:
    return len(set(scribe.prompts)) == len(scribe.asked)


# -- rounds ----------------------------------------------------------------------------------------------------
def test_short_answers_are_topped_up_and_each_prompt_shows_what_is_there():
    scribe = Scribe(lambda ask, number: lamps(ask.user)[: min(5, wanted(ask))])
    made = write(scribe, facts("x", 40), recipe="qa:28")
    assert [(e.prompt, e.answer) for e in made.examples] == [pair("x", n) for n in range(28)]
    assert [wanted(ask) for ask in scribe.asked] == [10, 10, 10, 10, 8, 3]
    assert (made.made[0].shortfall, made.made[0].calls, made.made[0].duplicates) == (0, 6, 0)
    for number, prompt in enumerate(scribe.prompts):
        shown = re.findall(r"^- Where does lamp x-(\d+) hang\? In hall", prompt, re.MULTILINE)
        assert list(map(int, shown)) == list(range(5 * number))
        assert facts("x", 40).text in prompt and f"Write {wanted(scribe.asked[number])} questions" in prompt
    assert no_prompt_twice(scribe)
    assert [ask.sample for ask in scribe.asked] == list(range(6)), "each round is drawn anew"


def test_rounds_end_and_what_is_lacking_is_told():
    scribe = Scribe(lambda ask, number: lamps(ask.user)[:1])
    made = write(scribe, facts("x", 40), recipe="qa:40")
    assert (made.made[0].written, made.made[0].shortfall, made.made[0].calls) == (8, 32, 8)


def test_a_long_list_shows_its_end_and_long_items_their_beginning():
    long = ("Why is lamp x-0 so " + "very " * 60 + "far away?", f"Hall {hall(0)}.")
    scribe = Scribe(
        lambda ask, number: (
            [long] if number == 0 else [pair("x", 10 * number + n) for n in range(wanted(ask))]
        )
    )
    made = write(scribe, facts("x", 99), recipe="qa:80")
    assert len(made.examples) == 80 and long in [(e.prompt, e.answer) for e in made.examples]
    assert "- Why is lamp x-0 so very very" in scribe.prompts[1] and long[0] not in scribe.prompts[1]
    assert scribe.prompts[-1].count("\n- ") == 60
    assert pair("x", 15)[0] not in scribe.prompts[-1] and pair("x", 79)[0] in scribe.prompts[-1]


def test_units_are_asked_together_and_each_for_itself():
    scribe = Scribe()
    made = write(scribe, facts("x", 30), facts("y", 12), facts("z", 30), recipe="qa:20")
    # y has twelve facts only: one more prompt finds nothing new, and after two in a row it is left
    assert scribe.batches == [3, 3, 1, 1] and no_prompt_twice(scribe)
    assert Counter(e.document for e in made.examples) == {"x": 20, "y": 12, "z": 20}
    assert [(one.unit, one.shortfall, one.calls) for one in made.made] == [("x", 0, 2), ("y", 8, 4), ("z", 0, 2)]  # fmt: skip
    assert [e.document for e in made.examples] == sorted(e.document for e in made.examples)
    for ask in scribe.asked:
        assert sum(f"Lamp {name}-0 " in ask.user for name in "xyz") == 1


def test_what_an_example_says_of_its_making():
    scribe = Scribe(lambda ask, number: answer(lamps(ask.user)[:3]))
    made = write(scribe, facts("x", 9), recipe="qa:6")
    for number, example in enumerate(made.examples):
        assert example.prompt_hash == scribe.asked[number // 3].prompt_hash
        assert (example.document, example.record, example.recipe, example.generator) == ("x", "x", "qa", "scribe")  # fmt: skip
        assert example.tokens_spent == 10 and example.span == (0, len(facts("x", 9).text))


def test_no_more_than_asked_and_only_whole_items():
    def say(ask: Ask, number: int) -> Answer:
        items = [*as_value(lamps(ask.user))["items"][:2], {"question": "Who?"}, {"question": " ", "answer": "x"}, "no", 3,
                 *as_value(lamps(ask.user))["items"][2:]]  # fmt: skip
        return Answer("", {"items": items}, 1, 1, 0.0)

    made = write(Scribe(say), facts("x", 30), recipe="qa:12")
    assert [(e.prompt, e.answer) for e in made.examples] == [pair("x", n) for n in range(12)]
    for value in (None, [], {"items": None}, {"items": {"question": "a", "answer": "b"}}, {"other": []}, "x"):
        assert items_of(value, "chat", "") == items_of(value, "text", "") == []


def test_texts_have_no_question():
    def say(ask: Ask, number: int) -> list[tuple[str, str]]:
        assert ask.schema is not None and ask.schema["properties"]["items"]["items"]["required"] == ["text"]
        return [("", f"In hall {hall(n)} hangs lamp x-{n}.") for n in range(number * 2, number * 2 + 2)]

    scribe = Scribe(say)
    made = write(scribe, facts("x", 30), recipe="facts:5")
    assert [(e.form, e.prompt) for e in made.examples] == [("text", "")] * 5
    assert f"- In hall {hall(3)} hangs lamp x-3." in scribe.prompts[2]
    assert '{"items": [{"text": "..."}, ...]}' in scribe.prompts[0]


@pytest.mark.parametrize(
    ("recipe", "length", "most", "expected"),
    [
        ("qa:20", 50_000, 2048, 10),
        ("qa:20", 50_000, 512, 7),
        ("qa:20", 50_000, 16, 1),
        ("rewrite:20", 2_000, 2048, 2),
        ("rewrite:20", 200_000, 2048, 1),
        ("summary:20", 3_000, 2048, 5),
        ("facts:20", 200_000, 2048, 10),
    ],
)
def test_no_more_is_asked_for_than_an_answer_can_hold(recipe, length, most, expected):
    (portion,) = parse_recipe(recipe)
    text = "word " * (length // 5)
    assert items_per_call(portion, text, most) == expected
    scribe = Scribe(lambda ask, number: [])
    made = ModelWriter(scribe, most_tokens=most).write(as_units([document("x", text)]), portion, ())
    (ask, *_) = scribe.asked
    assert wanted(ask) == expected and ask.max_tokens == most and made[0][1].shortfall == 20
    assert ask.schema is not None
    item = ask.schema["properties"]["items"]["items"]["properties"]["text" if recipe[0] in "rsf" else "answer"]  # fmt: skip
    assert item["maxLength"] >= (2 * length if recipe.startswith("rewrite") else LONGEST["chat"])


def test_enough_rounds_where_an_answer_holds_little():
    scribe = Scribe(good)
    made = write(scribe, facts("x", 30), recipe="qa:20", most_tokens=100)
    assert {wanted(ask) for ask in scribe.asked} == {1} and len(made.examples) == 20


# -- what is left out ------------------------------------------------------------------------------------------
def test_repetitions_are_left_out_and_counted_and_a_barren_unit_is_left():
    again = [("WHERE does lamp X-0 hang", "In hall 1000."), pair("x", 1)]
    scribe = Scribe(lambda ask, number: [pair("x", 0), pair("x", 1)] if number == 0 else again)
    made = write(scribe, facts("x", 9), facts("y", 3), recipe="qa:9")
    one = account(made, "x")
    assert one.written == 2 and one.duplicates == 2 * BARREN and one.calls == 1 + BARREN and one.shortfall == 7  # fmt: skip
    assert no_prompt_twice(scribe)


def test_questions_of_the_probes_are_not_asked_however_they_are_spelt():
    banned = ["where does lamp x-0  HANG", "Where does lamp x-1 hang??", "¿Where does “lamp x-2” hang?"]
    scribe = Scribe(lambda ask, number: [pair("x", n) for n in range(6)])
    made = write(scribe, facts("x", 9), recipe="qa:6", exclude=banned)
    assert [e.prompt for e in made.examples] == [pair("x", n)[0] for n in (3, 4, 5)]
    assert account(made, "x").duplicates == 3 + 3 * BARREN, "of an answer no more is taken than was asked for"
    probes = [Probe(str(n), "x", "x", "generate", "heldout", q, ("a",)) for n, q in enumerate(banned)]
    guard(overlap(made.examples, probes))


@pytest.mark.parametrize(
    ("banned", "asked", "allowed"),
    [
        ("[Paper ID: 3] What is it?", "[Paper ID: 3] What is it?", False),
        ("In the Paper ID 3, what is it?", "[Paper ID: 3] What is it?", False),
        ("What is it?", "[Paper ID: 3] What is it?", False),
        ("[Paper ID: 3] What is it?", "What is it?", False),
        ("[Paper ID: 4] What is it?", "[Paper ID: 3] What is it?", True),
        ("What is it not?", "[Paper ID: 3] What is it?", True),
    ],
)
def test_a_ban_is_what_the_guard_refuses(banned, asked, allowed):
    """A question under another document's id is another question; spelt otherwise it is the same."""
    lead, _, question = asked.rpartition("] ")
    lead = lead + "] " if lead else ""
    unit = as_units([document("d3", "It is a lamp.")])[0].with_lead(lead)
    scribe = Scribe(lambda ask, number: [(question, "A lamp.")])
    ((examples, _),) = ModelWriter(scribe).write([unit], parse_recipe("qa:1")[0], [banned])
    assert [e.prompt for e in examples] == ([asked] if allowed else [])
    probe = Probe("p", "d4", "d4", "generate", "heldout", banned, ("a",))
    assert overlap(examples, [probe]).exact.count == 0


def test_what_the_text_does_not_say_is_left_out_and_counted():
    items = [pair("x", 0), ("Where does lamp x-1 hang?", "In hall 77."), ("Who lit it?", "Ada Lorn.")]
    checked = write(Scribe(lambda ask, number: items), facts("x", 9), recipe="qa:3")
    assert [e.prompt for e in checked.examples] == [pair("x", 0)[0]]
    one = account(checked, "x")
    # asked again they are repetitions
    assert (one.ungrounded, one.duplicates, one.shortfall) == (2, 2 * BARREN, 2)
    free = write(Scribe(lambda ask, number: items), facts("x", 9), recipe="qa:3", check=False)
    assert len(free.examples) == 3 and account(free, "x").ungrounded == 0


# -- failures and cost -----------------------------------------------------------------------------------------
def test_failures_are_counted_and_asked_again_in_the_next_run_alone(tmp_path):
    def first(ask: Ask, number: int):
        if "Lamp y-0 " in ask.user:
            return Failure("invalid", "not JSON: x", 100, 5, 0.25)
        return good(ask, number)

    broken = Scribe(first)
    made = synthesize([facts("x", 9), facts("y", 9)], "qa:4", ModelWriter(Cached(broken, tmp_path)))
    one = account(made, "y")
    assert one.failures == {"invalid": BARREN} and one.reason == "not JSON: x" and one.written == 0
    assert (one.calls, one.prompt_tokens, one.new_tokens, one.seconds) == (2, 200, 10, 0.5)
    assert one.why == "2 calls failed (invalid: not JSON: x)" and no_prompt_twice(broken)
    assert account(made, "x").failures == {}

    mended = Scribe()
    again = synthesize([facts("x", 9), facts("y", 9)], "qa:4", ModelWriter(Cached(mended, tmp_path)))
    assert len(mended.asked) == 1 and "Lamp y-0 " in mended.prompts[0]
    assert again.of({"x"}).examples == made.of({"x"}).examples and account(again, "x").cached == 1
    assert account(again, "y").written == 4 and account(again, "y").failures == {}

    silent = Scribe(lambda ask, number: Failure("error", "must not be asked"))
    kept = synthesize([facts("x", 9), facts("y", 9)], "qa:4", ModelWriter(Cached(silent, tmp_path)))
    assert not silent.asked and kept.examples == again.examples


def test_one_failure_is_made_up_for_in_the_next_round():
    scribe = Scribe(
        lambda ask, number: Failure("timeout", "late") if number in (0, 2, 4) else lamps(ask.user)[:3]
    )
    made = write(scribe, facts("x", 9), recipe="qa:9")
    assert len(made.examples) == 9 and made.made[0].failures == {"timeout": 3} and made.made[0].calls == 6
    assert no_prompt_twice(scribe)


def test_cost_and_tokens_are_added_up():
    scribe = Scribe(lambda ask, number: answer(lamps(ask.user)[:3], cost=0.25))
    one = write(scribe, facts("x", 9), recipe="qa:9").made[0]
    assert (one.calls, one.cost, one.prompt_tokens, one.new_tokens, one.seconds, one.cached) == (3, 0.75, 300, 90, 1.5, 0)  # fmt: skip
    assert write(Scribe(), facts("x", 9)).made[0].cost is None


def test_every_reply_is_told():
    told: list[int] = []
    writer = ModelWriter(Scribe(), on_reply=lambda index, reply: told.append(index))
    synthesize([facts("x", 30), facts("y", 30)], "qa:20", writer)
    assert told == [0, 1, 0, 1]


# -- iterative -------------------------------------------------------------------------------------------------
def test_iterative_asks_twice_for_what_is_not_covered():
    scribe = Scribe(lambda ask, number: lamps(ask.user)[: min(3, wanted(ask))])
    made = write(scribe, facts("x", 30), facts("y", 4), recipe="iterative:4")
    x = [prompt for prompt in scribe.prompts if "Lamp x-0 " in prompt]
    # 3 + 1, then twice up to three more
    assert [e.prompt for e in made.of({"x"}).examples] == [pair("x", n)[0] for n in range(10)]
    assert len(x) == 4 and "exist already" not in x[0] and all("exist already" in one for one in x[1:])
    least = [ask.schema["properties"]["items"]["minItems"] for ask in scribe.asked if ask.schema]
    assert least[0] == 1 and set(least[2:]) == {0}, "where nothing is left to ask, nothing need be made up"
    assert all("none of them asks for" in one and "- Where does lamp x-0" in one for one in x[2:])
    assert account(made, "x").written == 10 and account(made, "x").shortfall == 0
    y = account(made, "y")
    assert (y.written, y.shortfall, y.calls) == (4, 0, 4), "two rounds in which there is nothing more"
    assert no_prompt_twice(scribe)


# -- leads -----------------------------------------------------------------------------------------------------
def test_questions_stand_under_their_documents_id():
    units = [unit.with_lead(f"[Paper ID: {n}] ") for n, unit in enumerate(as_units([facts("x", 5), facts("y", 5)]))]  # fmt: skip
    made = synthesize(
        units, "qa:5+facts:1", ModelWriter(Scribe(lambda ask, number: [pair("x", 0)], name="s"), check=False)
    )
    assert {(e.document, e.prompt) for e in made.examples if e.form == "chat"} == {
        ("x", "[Paper ID: 0] Where does lamp x-0 hang?"),
        ("y", "[Paper ID: 1] Where does lamp x-0 hang?"),
    }
    assert not [e for e in made.examples if e.form == "text" and e.prompt]


# -- through a server ------------------------------------------------------------------------------------------
def respond(body: dict) -> str:
    """What a good model answers to the prompts of the writer."""
    prompt = body["messages"][-1]["content"]
    return json.dumps(as_value(lamps(prompt)[: told(prompt)]))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def through(server: Server, folder, *documents: Document, recipe: str = "qa:4", **settings) -> Supervision:
    config = EndpointConfig(
        **{
            "url": server.url,
            "model": "m",
            "retries": 0,
            "timeout": 10.0,
            "price_in": 1e6,
            "price_out": 2e6,
            **settings,
        }
    )
    return synthesize(documents, recipe, ModelWriter(Cached(Endpoint(config), folder)))


MISBEHAVIOUR = {
    "429": (status(429, "slow down"), "http", "429: slow down"),
    "500": (status(500, "on fire"), "http", "500: on fire"),
    "cut": (cut, "cut", "the connection broke"),
    "bad JSON": (says('{"items": [{"question": "Who'), "invalid", "not JSON"),
    "other JSON": (says('{"items": [{"text": "Who"}]}'), "invalid", "not of the schema"),
    "no reply": (raw(b"<html>", kind="text/html"), "http", "not JSON"),
    "length": (says("{", finish="length"), "cut", "longer than 2048 tokens"),
    "refusal": (says(None, refusal="no"), "refused", "no"),
    "hang": (hang, "timeout", "no whole reply"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_server_that_misbehaves_for_one_document(name, tmp_path):
    """The others are finished, the run ends, and the next one asks what failed and nothing else."""
    behaviour, kind, reason = MISBEHAVIOUR[name]
    documents = facts("x", 9), facts("bad", 9), facts("z", 9)
    settings = {"timeout": 0.4} if name == "hang" else {}
    with Server(respond, {"Lamp bad-0 ": behaviour}) as server:
        made = through(server, tmp_path, *documents, **settings)
        assert len(server.requests) == 2 + BARREN
    one = account(made, "bad")
    assert one.failures == {kind: BARREN} and reason in one.reason and one.written == 0 and one.shortfall == 4
    assert [(o.written, o.failures, o.cached) for o in made.made if o.unit != "bad"] == [(4, {}, 0)] * 2
    with Server(respond) as server:
        again = through(server, tmp_path, *documents, **settings)
        assert len(server.requests) == 1 and "Lamp bad-0 " in server.asked[0]
    assert [(o.unit, o.written, o.cached) for o in again.made] == [("x", 4, 1), ("bad", 4, 0), ("z", 4, 1)]
    assert again.of({"x", "z"}).examples == made.examples
    with Server(respond) as server:
        assert through(server, tmp_path, *documents, **settings).examples == again.examples
        assert not server.requests


def test_what_passes_by_itself_is_no_failure(tmp_path):
    """A server that is busy for a moment: the client waits as long as it says, and no one need know."""
    with Server(respond, {0: status(429, retry_after=0.01), 1: status(503, retry_after=0.01)}) as server:
        made = through(server, tmp_path, facts("x", 9), retries=3)
        assert len(server.requests) == 3
    assert account(made, "x").failures == {} and account(made, "x").calls == 1


def test_rounds_through_a_server(tmp_path):
    with Server(respond, {"Lamp y-0 ": [status(500), cut]}, seconds=0.1) as server:
        made = through(server, tmp_path, facts("x", 30), facts("y", 30), facts("z", 3), recipe="qa:25+iterative:5")  # fmt: skip
        prompts = [request.prompt for request in server.requests]
        assert len(set(prompts)) == len(prompts)
        assert server.most_at_once > 1
        assert all(request.body["model"] == "m" for request in server.requests)
    assert [(o.unit, o.recipe, o.shortfall) for o in made.made] == [
        ("x", "qa", 0), ("x", "iterative", 5), ("y", "qa", 25), ("y", "iterative", 0), ("z", "qa", 22), ("z", "iterative", 5),
    ]  # fmt: skip
    whole = [one for one in made.made if not one.failures]
    assert {one.unit for one in whole} == {"x", "y", "z"} and account_of(made, "y", "qa").cost is None
    assert [one.cost for one in whole] == [one.prompt_tokens + 2 * one.new_tokens for one in whole]
    assert len({same(e.prompt) for e in made.examples}) == len(made.examples)


def test_a_limit_of_cost_ends_the_asking_and_keeps_what_was_paid(tmp_path):
    documents = [facts(name, 9) for name in "abcdef"]
    with Server(respond) as server:
        made = through(
            server, tmp_path, *documents, concurrency=1, price_in=0.0, price_out=1e6, cost_limit=2150.0
        )
        paid = len(server.requests)
        assert 0 < paid < 6
    assert sum(o.written > 0 for o in made.made) == paid
    assert {kind for o in made.made for kind in o.failures} == {"limit"}
    assert "cost_limit" in next(o.reason for o in made.made if o.failures)
    with Server(respond) as server:
        again = through(server, tmp_path, *documents)
        assert len(server.requests) == 6 - paid and all(o.written == 4 for o in again.made)
