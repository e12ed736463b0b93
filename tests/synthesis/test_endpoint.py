"""An endpoint that answers, refuses, stalls and lies: what each ask is worth, what is kept and paid, what is never told."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import threading
import time
import traceback

import openai  # noqa: F401 - so that the clock of no test counts it
import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.synthesis.completing import Answer, Ask, Cached, Failure, Reply, Sampling
from loramem.synthesis.endpoint import Endpoint, EndpointConfig
from synthesis.server import Server, completion, cut, drip, hang, raw, says, status, words

KEY = "sk-secret-0123456789"
SCHEMA = {
    "type": "object",
    "properties": {"town": {"type": "string"}},
    "required": ["town"],
    "additionalProperties": False,
}
QUICK = 0.01
"""Seconds that a server tells the client to wait before it asks again."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "OPENAI_BASE_URL",
        "OPENAI_CUSTOM_HEADERS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def endpoint(server: Server, **settings) -> Endpoint:
    return Endpoint(
        EndpointConfig(**{"url": server.url, "model": "m", "retries": 0, "timeout": 10.0, **settings})
    )


def asks(*prompts: str, **settings) -> list[Ask]:
    return [Ask(prompt, **settings) for prompt in prompts]


def kinds(replies: list[Reply]) -> list[str]:
    return [reply.kind if isinstance(reply, Failure) else reply.text for reply in replies]


def echo(body: dict) -> str:
    return body["messages"][-1]["content"].upper()


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# -- what is asked and answered --------------------------------------------------------------------------------
def test_replies_stand_in_order_and_are_told_at_once_in_the_callers_thread():
    told: list[tuple[int, Reply, int, int]] = []

    def answer(body: dict) -> str:
        number = int(body["messages"][-1]["content"])
        time.sleep(0.02 * (5 - number))
        return f"answer {number}"

    with Server(answer) as server:
        model = endpoint(server, price_in=1e6, price_out=2e6)
        replies = model.complete(
            asks(*"012345"),
            lambda index, reply: told.append((index, reply, threading.get_ident(), len(told))),
        )
    assert [reply.text for reply in replies if isinstance(reply, Answer)] == [f"answer {n}" for n in range(6)]
    assert sorted(index for index, *_ in told) == list(range(6)) != [index for index, *_ in told]
    assert all(
        replies[index] is reply and thread == threading.get_ident() for index, reply, thread, _ in told
    )
    assert (
        replies[0] == Answer("answer 0", "answer 0", 1, 2, replies[0].seconds, 5.0)
        and 0.1 < replies[0].seconds < 5
    )
    assert model.spent == 30.0


def test_a_reply_is_told_before_the_next_is_there():
    first = threading.Event()
    with Server(lambda _: str(first.wait(5)), {"a": says("x")}) as server:
        replies = endpoint(server, concurrency=2).complete(asks("a", "b"), lambda *_: first.set())
    assert kinds(replies) == ["x", "True"]


def test_what_is_sent():
    with Server() as server:
        ask = Ask("user", "system", None, 77, sample=3)
        endpoint(server, sampling=Sampling(temperature=0.2, top_p=0.9, seed=40)).complete([ask])
        endpoint(server, token_parameter="max_completion_tokens").complete(asks("x"))
        endpoint(server, omit=("temperature", "seed", "max_tokens", "top_p")).complete(asks("x"))
    first, second, third = (request.body for request in server.requests)
    assert first == {
        "messages": [{"role": "system", "content": "system"}, {"role": "user", "content": "user"}],
        "model": "m", "temperature": 0.2, "top_p": 0.9, "seed": 43, "max_tokens": 77,
    }  # fmt: skip
    assert second["max_completion_tokens"] == 1024 and "max_tokens" not in second
    assert set(third) == {"messages", "model"} and third["messages"] == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("structured", ["json_schema", "json_object", "none"])
def test_structured_answers(structured):
    with Server(lambda _: '{"town": "Ålesund"}', {"fenced": says('```json\n{"town": "B"}\n```')}) as server:
        replies = endpoint(server, structured=structured, concurrency=1).complete(
            [
                Ask("where?", schema=SCHEMA),
                Ask("fenced", schema=SCHEMA),
                Ask("free"),
                Ask("open", schema={"type": "object"}),
            ]
        )
    values = [reply.value for reply in replies if isinstance(reply, Answer)]
    assert values == [{"town": "Ålesund"}, {"town": "B"}, '{"town": "Ålesund"}', {"town": "Ålesund"}]
    formats = [request.body.get("response_format") for request in server.requests]
    if structured == "json_schema":
        form = {"name": "answer", "schema": SCHEMA, "strict": True}
        assert formats[0] == {"type": "json_schema", "json_schema": form} and formats[2] is None
        assert formats[3]["json_schema"]["strict"] is False
        assert server.asked == ["where?", "fenced", "free", "open"]
    else:
        assert formats[0] == ({"type": "json_object"} if structured == "json_object" else None)
        assert (
            json.dumps(SCHEMA) in server.asked[0] and "JSON" in server.asked[0] and server.asked[2] == "free"
        )


def test_any_script_and_any_length():
    text = "Ünï — 石 🪨 \u2028" + "long " * 200_000
    with Server(lambda _: text) as server:
        (reply,) = endpoint(server).complete(asks("石 🪨?"))
    assert isinstance(reply, Answer) and reply.text == text and server.asked == ["石 🪨?"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_at_once_and_no_more(concurrency):
    with Server(echo, seconds=0.08) as server:
        endpoint(server, concurrency=concurrency).complete(asks(*"abcdefghi"))
    assert server.most_at_once == concurrency and len(server.requests) == 9


def test_azure():
    with Server() as server:
        config = EndpointConfig(url=server.url.removesuffix("/v1"), model="my-gpt", api_version="2024-10-21")
        assert kinds(Endpoint(config).complete(asks("x"))) == ["yes"]
    (request,) = server.requests
    assert request.path == "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == KEY and "authorization" not in request.headers


def test_where_an_event_loop_runs():
    async def main() -> list[Reply]:
        return endpoint(server).complete(asks("a"))

    with Server(echo) as server:
        assert kinds(asyncio.run(main())) == ["A"]
        model, found = endpoint(server), []
        threads = [threading.Thread(target=lambda t=t: found.append(model.complete(asks(t)))) for t in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(kinds(replies)[0] for replies in found) == ["A", "B"]


# -- failures --------------------------------------------------------------------------------------------------
DEEP = "[" * 100_000
BROKEN = {"choices": [{"message": {"content": "half \ud83d"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason", "tokens"),
    [
        (says("a b c", "length"), "cut", "longer than 9 tokens", 3),
        (says(None, refusal="I had rather\nnot."), "refused", "I had rather not.", 0),
        (says("a b", "content_filter"), "refused", "filter", 2),
        (says("not JSON at all"), "invalid", "not JSON .*: not JSON at all", 4),
        (says('{"town": NaN}'), "invalid", "NaN is no JSON", 2),
        (says('{"town": 7}'), "invalid", "not of the schema: town: 7 is not of type 'string'", 2),
        (says('{"village": "B"}'), "invalid", "not of the schema: ", 2),
        (says('{"town": "A"} and more'), "invalid", "not JSON", 4),
        (says('{"town": "\\ud83d"}'), "invalid", "half a character", 2),
        (says(DEEP), "invalid", "not JSON", 1),
        (says(""), "invalid", "the answer is empty", 0),
        (says(None), "invalid", "the answer is empty", 0),
        (raw(json.dumps(BROKEN).encode()), "invalid", "not JSON", 0),
        (raw(b'{"choices": []}'), "http", "200: no choices", 0),
        (raw(b'{"choices": [], "error": {"code": 502, "message": "upstream is down"}}'), "http", "200: upstream is down", 0),
        (raw(b"[]"), "http", "200: no choices", 0),
        (raw(b'{"choices": [7], "usage": 3}'), "invalid", "empty", 0),
        (raw(b"{"), "http", "200: the reply is not JSON", 0),
        (raw(b"<html>Welcome</html>", kind="text/html"), "http", "200: the reply is not JSON", 0),
        (raw(DEEP.encode()), "http", "200: the reply is not JSON", 0),
        (raw(b"\xff\xfe\x00"), "http", "200: the reply is not JSON", 0),
        (cut, "cut", "the connection broke", 0),
        (status(429, "slow down"), "http", "^429: slow down$", 0),
        (status(500, "a\n  b"), "http", "^500: a b$", 0),
        (raw(b"<html>Bad\nGateway</html>", 502, "text/html"), "http", "^502: <html>Bad Gateway</html>$", 0),
        (raw(b'{"detail": "what?"}', 422), "http", "^422: what\\?$", 0),
        (raw(b"", 503), "http", "^503$", 0),
        (raw(b"x" * 3_000_000, 500), "http", r"^500: x{192}\.\.\.$", 0),
        (status(400, "no", code="content_filter"), "refused", "no", 0),
        (status(403, "flagged", metadata={"reasons": ["x"], "flagged_input": "y"}), "refused", "flagged", 0),
        (status(400, "maximum context length is 9"), "too-long", "400: maximum context length", 0),
        (status(400, "too much", code="context_length_exceeded"), "too-long", "400: too much", 0),
        (status(400, "bad schema", code="invalid_json_schema"), "http", "400: bad schema", 0),
    ],
)  # fmt: skip
def test_each_failure_has_its_kind_and_a_reason(behaviour, kind, reason, tokens, tmp_path):
    with Server(lambda _: '{"town": "A"}', {"bad prompt": behaviour}) as server:
        cached = Cached(endpoint(server), tmp_path)
        bad, good = cached.complete(asks("a bad prompt", "fine", schema=SCHEMA, max_tokens=9))
    assert isinstance(bad, Failure) and isinstance(good, Answer) and good.value == {"town": "A"}
    assert bad.kind == kind
    assert re.search(reason, bad.reason) and len(bad.reason) <= 200 and "\n" not in bad.reason
    assert bad.new_tokens == tokens and bad.prompt_tokens in (0, 3) and bad.seconds > 0
    assert (bad.prompt_tokens == 3) == (behaviour.__qualname__.startswith("says"))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_what_cannot_be_written():
    content = completion_of("half \\ud83d")
    with Server(script={0: raw(content)}) as server:
        (reply,) = endpoint(server).complete(asks("x"))
        (unsendable,) = endpoint(server).complete(asks("\ud83d"))
    assert kinds([reply, unsendable]) == ["invalid", "error"] and len(server.requests) == 1
    endless = '{"n": 1e999}'  # which Python reads as infinity and nobody can write
    with Server(lambda _: endless) as server:
        (huge,) = endpoint(server).complete([Ask("x", schema={"type": "object"})])
    assert kinds([huge]) == ["invalid"] and "JSON" in huge.reason
    assert "half a character" in reply.reason and "half a character" in unsendable.reason


def completion_of(escaped: str) -> bytes:
    return b'{"choices": [{"message": {"content": "%s"}, "finish_reason": "stop"}]}' % escaped.encode()


@pytest.mark.parametrize("behaviour", [hang, drip()])
def test_a_stalling_server_costs_no_more_than_the_time_limit(behaviour):
    with Server(script={"slow": behaviour}) as server:
        start = time.perf_counter()
        replies = endpoint(server, timeout=0.4, retries=3).complete(asks("slow", "a", "slow", "b"))
        seconds = time.perf_counter() - start
    assert kinds(replies) == ["timeout", "yes", "timeout", "yes"] and 0.4 <= seconds < 4
    assert len(server.requests) == 4  # not asked again
    assert 0.4 <= replies[0].seconds < 4


def test_what_passes_is_asked_again_after_the_time_the_server_wants():
    waits = [status(429, retry_after=0.2), status(500, retry_after=QUICK), status(503, retry_after=QUICK)]
    with Server(script={"x": waits}) as server:
        (reply,) = endpoint(server, retries=3).complete(asks("x"))
        assert isinstance(reply, Answer) and reply.seconds >= 0.2 and len(server.requests) == 4
    with Server(script={"x": status(503, retry_after=QUICK)}) as server:
        (failure,) = endpoint(server, retries=2).complete(asks("x"))
        assert kinds([failure]) == ["http"] and len(server.requests) == 3
    with Server(script={0: cut}) as server:
        assert kinds(endpoint(server, retries=1).complete(asks("x"))) == ["yes"] and len(server.requests) == 2


# -- errors of the whole call ----------------------------------------------------------------------------------
HOPELESS = [
    (status(401, "wrong key"), "the key is refused .401: wrong key.", "OPENAI_API_KEY"),
    (status(403, "not yours"), "the key is refused .403: not yours.", "OPENAI_API_KEY"),
    (status(404, "no m here"), "no such model, or not the base URL of an API .404: no m here.", "'m'"),
    (status(429, "pay", code="insufficient_quota"), "nothing is left to spend .429: pay.", "'m'"),
    (status(400, "use another", code="unsupported_parameter"), "see token_parameter and omit .400", "'m'"),
]


@pytest.mark.parametrize(("behaviour", "pattern", "part"), HOPELESS)
def test_what_no_ask_can_survive(behaviour, pattern, part):
    with Server(script={"": behaviour}) as server, pytest.raises(InputError, match=pattern) as caught:
        endpoint(server, concurrency=2).complete(asks(*"abcdefgh"))
    assert part in str(caught.value) and server.url in str(caught.value) and "'m'" in str(caught.value)
    assert len(server.requests) == 2  # what was in flight, and no more


@pytest.mark.parametrize("behaviour", [entry[0] for entry in HOPELESS])
def test_once_something_was_answered_it_is_one_failure(behaviour):
    with Server(echo, {"bad": behaviour}, seconds=0.02) as server:
        model = endpoint(server, concurrency=2)
        first = model.complete(asks("bad", "a", "bad", "b"))  # told at first, answered at the same time
        assert kinds(first) == ["http", "A", "http", "B"]
        assert kinds(model.complete(asks("bad"))) == ["http"]


def test_a_server_that_is_not_there():
    url = f"http://127.0.0.1:{closed_port()}/v1"
    with pytest.raises(InputError, match="cannot be reached") as caught:
        Endpoint(EndpointConfig(url=url, model="m", retries=0)).complete(asks("x", "y"))
    assert url in str(caught.value) and "'m'" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_that_goes_away():
    with Server() as server:
        model = endpoint(server, concurrency=1)
        assert kinds(model.complete(asks("x"))) == ["yes"]
    (gone,) = model.complete(asks("y"))
    assert isinstance(gone, Failure) and gone.kind == "error" and "cannot be reached" in gone.reason


def test_a_schema_that_is_none_is_refused_before_anything_is_asked():
    import jsonschema

    with Server() as server, pytest.raises(jsonschema.SchemaError):
        endpoint(server).complete([Ask("a"), Ask("b", schema={"type": "townish"})])
    assert server.requests == []


# -- what it costs ---------------------------------------------------------------------------------------------
def priced(server: Server, limit: float, **settings) -> Endpoint:
    """A new token costs 1, a prompt nothing."""
    return endpoint(server, price_in=0.0, price_out=1e6, cost_limit=limit, **settings)


def test_the_rest_is_not_asked_where_the_limit_would_be_passed():
    with Server(lambda _: "a b c d") as server:
        model = priced(server, 12.0)
        replies = model.complete(asks(*"abcde", max_tokens=4))
        assert kinds(replies) == ["a b c d"] * 3 + ["limit"] * 2 and len(server.requests) == 3
        assert model.spent == 12.0 and "cost_limit 12" in replies[4].reason and replies[3].seconds == 0
        assert kinds(model.complete(asks("f", max_tokens=4))) == ["limit"]  # of all calls together


def test_what_is_in_flight_counts_as_the_most_it_can_cost():
    with Server(lambda _: "a", seconds=0.08) as server:
        model = priced(server, 12.0)
        replies = model.complete(asks(*"abcdefgh", max_tokens=4))
        assert server.most_at_once == 3  # concurrency is 8
        assert kinds(replies) == ["a"] * 8 and model.spent == 8.0  # but what is left of it is spent
        assert kinds(model.complete(asks("i", max_tokens=5))) == ["limit"]
        assert kinds(model.complete(asks("i", max_tokens=4))) == ["a"]


def test_a_long_prompt_counts():
    with Server() as server:
        model = endpoint(server, price_in=1e6, price_out=0.0, cost_limit=200.0)
        assert kinds(model.complete([Ask("x " * 300)])) == ["limit"] and server.requests == []
        assert kinds(model.complete([Ask("x " * 100)])) == ["yes"] and model.spent == 100.0
        for text in ("word " * 50, "石" * 100, "🪨" * 40, 'a"\n' * 50):  # at the most one token per character
            assert model.config.price_at_most(Ask(text)) >= len(text) / 3


@pytest.mark.parametrize(
    ("behaviour", "spent"),
    [
        (says("a b", "length"), 2.0),
        (hang, 4.0),
        (cut, 4.0),
        (completion_without := raw(completion_of("yes")), 4.0),
        (status(400), 0.0),
    ],
)
def test_what_a_failure_has_cost(behaviour, spent):
    with Server(lambda _: "a", {"bad": behaviour}) as server:
        model = priced(server, 5.0, timeout=0.3, concurrency=1)
        first, *_ = model.complete(asks("bad", max_tokens=4))
        assert model.spent == spent
        if behaviour is completion_without:
            assert isinstance(first, Answer) and first.cost is None and first.new_tokens == 0
        (second,) = model.complete(asks("good", max_tokens=2))
    assert kinds([second]) == (["a"] if spent < 4 else ["limit"])


def test_without_prices_nothing_is_counted():
    with Server() as server:
        model = endpoint(server)
        (reply,) = model.complete(asks("x"))
    assert isinstance(reply, Answer) and reply.cost is None and model.spent == 0


# -- the key ---------------------------------------------------------------------------------------------------
def test_the_key_is_sent_and_never_told(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    said = [f"{'x' * pad} {KEY} {'y' * 300}" for pad in (0, 150, 180, 185, 190)]
    behaviours = [status(400, text) for text in said] + [says(None, refusal=text) for text in said]
    behaviours += [
        raw(f"<p>{KEY}</p>".encode(), 500),
        says(f"no JSON {KEY}"),
        says(json.dumps({"town": [KEY]})),
        hang,
    ]
    script = {f"<{number}>": behaviour for number, behaviour in enumerate(behaviours)}
    with Server(lambda _: '{"town": "A"}', script) as server:
        model = endpoint(server, timeout=0.5)
        replies = Cached(model, tmp_path).complete(
            [Ask(f"<{n}>", schema=SCHEMA) for n in range(len(script) + 1)]
        )
        assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert isinstance(replies[-1], Answer) and all(isinstance(reply, Failure) for reply in replies[:-1])
    with Server(script={"": status(401, f"wrong: {KEY}")}) as server, pytest.raises(InputError) as caught:
        endpoint(server).complete(asks("x"))
    kept = [path.read_text() + str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 1 and "***" in str(caught.value)
    captured = capfd.readouterr()
    shown = [
        repr(replies),
        *kept,
        repr(model),
        str(vars(model)),
        repr(model.config),
        str(model.identity()),
        str(caught.value),
    ]
    shown += [
        repr(caught.value),
        "".join(traceback.format_exception(caught.value)),
        caplog.text,
        captured.out,
        captured.err,
    ]
    assert not [text for text in shown if KEY[:14] in text]


def test_a_server_of_ones_own_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OTHER", " other-key\n")
    with Server() as server:
        endpoint(server).complete(asks("x"))
        endpoint(server, key_env="OTHER").complete(asks("x"))
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer none", "Bearer other-key"]
    model = Endpoint(EndpointConfig(url="https://api.openai.com/v1", model="m"))
    with pytest.raises(InputError, match="needs a key: set the environment variable OPENAI_API_KEY"):
        model.complete(asks("x"))
    assert model.complete([]) == []
    monkeypatch.setenv("OTHER", "schlüssel")
    with Server() as server, pytest.raises(InputError, match="variable OTHER holds characters") as caught:
        endpoint(server, key_env="OTHER").complete(asks("x"))
    assert "schl" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"url": f"https://me:{KEY}@example.org/v1"}, "url: expected"),
        ({"url": f"https://example.org/v1?key={KEY}"}, "url: expected"),
        ({"url": "example.org/v1"}, "url: expected"),
        ({"url": "ftp://example.org"}, "url: expected"),
        ({"url": "http://a..b/v1"}, "url: expected"),
        ({"url": "http://" + "a" * 64 + ".org/v1"}, "url: expected"),
        ({"url": "http://localhost:99999/v1"}, "url: expected"),
        ({"url": "http://local host/v1"}, "url: expected"),
        ({"key_env": KEY}, "key_env: expected"),
        ({"model": " "}, "model: expected"),
        ({"price_in": 1.0}, "give both"),
        ({"cost_limit": 1.0}, "cost_limit needs"),
        (
            {"cost_limit": 1.0, "price_in": 1.0, "price_out": 1.0, "omit": ("max_tokens",)},
            "cost_limit: cannot",
        ),
        ({"omit": ("stop",)}, "omit"),
        ({"api_key": KEY}, "api_key is not to be given: keys and passwords belong in the environment"),
    ],
)
def test_settings_that_cannot_be(settings, pattern):
    with pytest.raises(Faults, match=pattern) as caught:
        parse(EndpointConfig, {"url": "http://localhost:8000/v1", "model": "m", **settings}, "endpoint")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000/v1", "https://a-b.example.org", "http://bücher.example/v1"]
)
def test_addresses(url):
    assert EndpointConfig(url=url, model="m").host


# -- what is kept ----------------------------------------------------------------------------------------------
def test_a_second_run_asks_only_what_failed(tmp_path):
    prompts = asks("a", "bad", "c")
    with Server(echo, {"bad": [status(500)]}) as server:
        assert kinds(Cached(endpoint(server), tmp_path).complete(prompts)) == ["A", "http", "C"]
    with Server(echo) as server:  # at another port
        again = Cached(endpoint(server), tmp_path).complete(prompts)
        assert server.asked == ["bad"] and kinds(again) == ["A", "BAD", "C"]
        assert [reply.cached for reply in again if isinstance(reply, Answer)] == [True, False, True]
        Cached(endpoint(server), tmp_path).complete(prompts)
        assert server.asked == ["bad"]


def test_a_run_that_is_killed_keeps_what_it_paid_for(tmp_path):
    told: list[int] = []

    def killed(index: int, reply: Reply) -> None:
        told.append(index)
        if len(told) == 3:
            time.sleep(0.1)  # meanwhile others are answered
            raise OSError("no space")

    prompts = asks(*"abcdefgh")
    with Server(echo) as server, pytest.raises(OSError, match="no space"):
        Cached(endpoint(server, concurrency=2), tmp_path).complete(prompts, killed)
    kept = [path for path in tmp_path.rglob("*.json")]
    assert 3 < len(kept) <= len(server.requests)
    with Server(echo) as server:
        assert kinds(Cached(endpoint(server), tmp_path).complete(prompts)) == list("ABCDEFGH")
    assert len(server.requests) == 8 - len(kept)


def test_no_more_is_asked_ahead_of_what_is_kept_than_is_asked_at_once(tmp_path):
    """Answers that wait to be written are lost with a process that is killed: they are paid for, and must be few."""
    ahead: list[int] = []

    def slow(index: int, reply: Reply) -> None:
        time.sleep(0.05)  # a disk that is slower than the endpoint
        ahead.append(len(server.requests) - len(ahead))

    with Server(echo) as server:
        Cached(endpoint(server, concurrency=2), tmp_path).complete(asks(*"abcdefgh"), slow)
    assert len(ahead) == 8 and max(ahead) == 2


def test_ctrl_c_leaves_at_once_and_keeps_what_was_answered(tmp_path):
    with Server(echo, {"slow": hang}) as server:
        press = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            Cached(endpoint(server, timeout=60.0), tmp_path).complete(
                asks("a", "slow"), lambda *_: press.start()
            )
        assert time.perf_counter() - start < 4
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_what_decides_an_answer_decides_its_entry(tmp_path):
    base = {"url": "http://localhost:8000/v1", "model": "m"}
    ask = Ask("x", schema=SCHEMA)

    def path(ask: Ask = ask, **settings) -> object:
        return Cached(Endpoint(EndpointConfig(**{**base, **settings})), tmp_path).path(ask)

    others = [
        path(model="n"), path(url="http://elsewhere:8000/v1"), path(sampling=Sampling(temperature=0.0)),
        path(sampling=Sampling(seed=1)), path(structured="none"), path(omit=("seed",)), path(omit=("temperature",)),
        path(Ask("x")), path(Ask("x", schema={"type": "object"})), path(Ask("x", schema=SCHEMA, sample=1)),
    ]  # fmt: skip
    assert len({path(), *others}) == len(others) + 1
    same = {
        "url": "http://localhost:9000/api",
        "concurrency": 1,
        "timeout": 1.0,
        "retries": 0,
        "key_env": "OTHER",
    }
    same |= {"price_in": 1.0, "price_out": 1.0, "cost_limit": 1.0, "token_parameter": "max_completion_tokens"}
    assert path(**same) == path()
    model = Endpoint(EndpointConfig(**base, sampling=Sampling(seed=2)))
    assert model.name == "m"
    assert model.identity() == {
        "model": "m",
        "url": "localhost",
        "sampling": {"seed": 2},
        "structured": "json_schema",
    }


def test_the_server_counts_as_it_says():
    with Server(lambda _: "a b c") as server:
        (reply,) = endpoint(server).complete([Ask("one two", "three")])
    assert (reply.prompt_tokens, reply.new_tokens) == (3, words("a b c"))
    assert json.loads(completion(server.requests[0], "x"))["usage"]["total_tokens"] == 4
