"""A base that writes: replies by ask, in order and told; JSON of the schema; what cannot be asked fails alone."""

from __future__ import annotations

import dataclasses
from functools import cache

import jsonschema
import pytest

from loramem.base import Base, load_base
from loramem.core.errors import InputError
from loramem.inference import Generation
from loramem.synthesis import local
from loramem.synthesis.completing import Answer, Ask, Cached, Failure, Reply, Sampling
from loramem.synthesis.local import Local
from tiny import FAMILIES


def pairs(question: int = 8, answer: int = 4, most: int = 2) -> dict:
    texts = {"question": question, "answer": answer}
    item = {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": length} for name, length in texts.items()},
        "required": ["question", "answer"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item, "minItems": 1, "maxItems": most}},
        "required": ["items"],
        "additionalProperties": False,
    }


GREEDY, WARM = Sampling(temperature=0.0), Sampling(temperature=1.0, seed=3)


@cache
def embedded() -> Base:
    return load_base("embedded", device="cpu", dtype="float32", offline=True)


def asks(count: int, **given) -> list[Ask]:
    return [Ask(f"Write about number {n}.", "Be short.", pairs(), 200, **given) for n in range(count)]


def texts(replies: list[Reply]) -> list[str]:
    return [reply.text if isinstance(reply, Answer) else reply.kind for reply in replies]


@pytest.mark.parametrize("family", [*FAMILIES, "embedded"])
@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_answers_are_of_their_schema_and_told_once(bases, family, sampling):
    base = embedded() if family == "embedded" else bases[family]
    wanted = [*asks(4), Ask("Say something.", max_tokens=12)]
    told: dict[int, Reply] = {}

    def tell(index: int, reply: Reply) -> None:
        assert index not in told
        told[index] = reply

    replies = Local(base, sampling, rows=3).complete(wanted, tell)
    assert [told[index] for index in range(len(wanted))] == replies
    for ask, reply in zip(wanted[:4], replies, strict=False):
        assert isinstance(reply, Answer), reply
        jsonschema.validate(reply.value, ask.schema)
        assert reply.prompt_tokens == len(base.prompts.chat(ask.user, ask.system))
        assert 10 < reply.new_tokens <= 200 and reply.seconds > 0 and not reply.cached and reply.cost is None
    last = replies[-1]
    assert last.kind in ("cut", "invalid") if isinstance(last, Failure) else last.value == last.text


def test_an_answer_depends_on_nothing_that_is_asked_beside_it(base):
    wanted = [*asks(3), *asks(2, sample=1), dataclasses.replace(asks(1)[0], system="")]
    together = texts(Local(base, WARM, rows=4).complete(wanted))
    assert texts(Local(base, WARM).complete(wanted[::-1])) == together[::-1]
    for ask, said in zip(wanted, together, strict=True):
        assert texts(Local(base, WARM).complete([ask])) == [said]
    assert len(set(together)) == len(wanted)  # another prompt, sample or system: another answer
    assert texts(Local(base, Sampling(temperature=1.0, seed=4)).complete(wanted)) != together
    assert texts(Local(base, GREEDY).complete(wanted[:1])) == texts(Local(base, GREEDY).complete(wanted[3:4]))


def test_the_system_text_stands_before_the_users(bases):
    prompt = bases["llama"].tokenizer.decode(
        Local(bases["llama"], GREEDY)._prompt(Ask("Write.", "Be short."))
    )
    assert prompt.endswith(
        "<|start|>user<|stop|>\n\nBe short.\n\nWrite.<|eot|><|start|>assistant<|stop|>\n\n"
    )


def test_what_cannot_be_asked_or_ended_fails_alone(base):
    room = base.context_length - len(base.prompts.chat("x"))
    wanted = [
        asks(1)[0], Ask("word " * 200, max_tokens=9), Ask("x", schema=pairs(), max_tokens=8), Ask("x", max_tokens=room),
        Ask("x", max_tokens=room + 1), Ask("\ud800"),
    ]  # fmt: skip
    replies = Local(base, WARM).complete(wanted)
    kinds = [reply.kind if isinstance(reply, Failure) else None for reply in replies]
    assert (
        kinds[:3] == [None, "too-long", "cut"]
        and kinds[3] != "too-long"
        and kinds[4:] == ["too-long", "error"]
    )
    length = len(base.prompts.chat("word " * 200))
    assert replies[1] == Failure(
        "too-long",
        f"a prompt of {length} tokens and an answer of up to 9 do not fit the base's context of {base.context_length}",
        length,
    )
    assert dataclasses.replace(replies[2], seconds=0.0) == Failure(
        "cut", "longer than 8 tokens", base.context_length - room, 8
    )
    assert Local(base, WARM).complete([]) == []


@pytest.mark.parametrize(
    "said, reply",
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('{"a": "1"}', "not of the schema: a: '1' is not of type 'integer'"),
        ("It is 1.", "not JSON (Expecting value: line 1 column 1 (char 0)): It is 1."),
        (" \n", "the answer is empty"),
        ('{"a": 1, "b": "\\ud800"}', "the answer holds half a character (a lone surrogate)"),
        ('{"a": 1, "b": 1e999}', "Out of range float values are not JSON compliant"),
        ("[" * 5000, None),
    ],
)
def test_an_answer_without_a_grammar_is_read_and_checked(bases, monkeypatch, said, reply):
    def answer(base, requests, *, rows, on_done):
        assert [one.grammar for one in requests] == [None]
        assert '{"type": "object"' in base.tokenizer.decode(requests[0].prompt)
        on_done(0, Generation((9, 9), said, False, 5, 0.25))

    monkeypatch.setattr(local, "generate", answer)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (got,) = Local(bases["llama"], WARM, structured=False).complete([Ask("x", schema=schema, max_tokens=9)])
    if isinstance(reply, dict):
        assert got == Answer(said, reply, 5, 2, 0.25)
    else:
        assert isinstance(got, Failure) and (got.kind, got.new_tokens, got.seconds) == ("invalid", 2, 0.25)
        assert (
            got.reason == reply or reply is None or got.reason.startswith(reply)
        ) and "\n" not in got.reason


def test_a_tiny_model_left_free_writes_no_json(base):
    (got,) = Local(base, WARM, structured=False).complete([dataclasses.replace(asks(1)[0], max_tokens=20)])
    assert isinstance(got, Failure) and got.kind in ("cut", "invalid", "too-long")


def test_schemas_that_cannot_be_held_are_refused_before_anything_is_asked(bases):
    told: list[int] = []
    for schema, error in (
        ({"not": {}}, InputError),
        ({"type": "nothing"}, jsonschema.SchemaError),
    ):
        with pytest.raises(error):
            Local(bases["llama"], WARM).complete(
                [*asks(1), Ask("x", schema=schema, max_tokens=9)], lambda index, _: told.append(index)
            )
    with pytest.raises(InputError, match="top_p"):
        Local(bases["llama"], Sampling(top_p=0.0))
    assert not told


def test_its_name_and_what_decides_its_answers(bases):
    base = bases["llama"]
    one = Local(base, WARM)
    assert one.name == f"local:{base.name}"
    assert one.identity()["model"] == base.fingerprint and one.identity()["dtype"] == "float32"
    others = [Local(base, GREEDY), Local(base, WARM, structured=False), Local(bases["gemma"], WARM)]
    others.append(Local(dataclasses.replace(base, quantised=True), WARM))
    assert all(other.identity() != one.identity() for other in others)
    assert Local(base, WARM, rows=2).identity() == one.identity()


def test_kept_answers_are_not_written_again(bases, tmp_path, monkeypatch):
    first = Cached(Local(bases["qwen3"], WARM), tmp_path).complete(asks(3))
    monkeypatch.setattr(local, "generate", lambda *_, **__: pytest.fail("asked again"))
    again = Cached(Local(bases["qwen3"], WARM), tmp_path).complete(asks(3))
    assert texts(again) == texts(first) and all(isinstance(r, Answer) and r.cached for r in again)


def test_a_stopped_run_keeps_what_had_ended(bases, tmp_path):
    def stop(index: int, reply: Reply) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cached(Local(bases["llama"], WARM), tmp_path).complete(asks(3), stop)
    assert len(list(tmp_path.rglob("*.json"))) == 1
