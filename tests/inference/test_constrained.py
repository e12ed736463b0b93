"""Answers held to a schema and answers that are drawn: always of the schema, and the same whatever stands beside them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import random
from functools import cache
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from loramem.base import Base, load_base
from loramem.base.prompts import PromptBuilder
from loramem.core.errors import InputError
from loramem.inference import Generation, Request, generate
from loramem.inference.constrained import Grammar, allowed
from loramem.inference.sampling import Draw, draw
from tiny import FAMILIES, make_tokenizer

CPU = torch.device("cpu")


def record(**properties) -> dict:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


def text(most: int, least: int = 0) -> dict:
    return {"type": "string", "minLength": least, "maxLength": most}


def array(items: dict, most: int, least: int = 0) -> dict:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


SCHEMAS = {
    "pairs": record(items=array(record(question=text(6, 1), answer=text(3)), 2, 1)),
    "score": record(reason=text(5), score={"type": "integer", "minimum": 0, "maximum": 10}),
    "number": {"type": "integer", "minimum": 0, "maximum": 10},
    "enum": {"enum": ["yes", "no", 3, None, ["a", 1.5]]},
    "nested": record(a=record(b=array(record(c={"type": "boolean"}), 2))),
    "unicode": record(größe={"enum": ["groß", "🪨", 'a"b\\\n']}, text=text(9, 3)),
}


@cache
def embedded() -> Base:
    return load_base("embedded", device="cpu", dtype="float32", offline=True)


def asked(base: Base, names=tuple(SCHEMAS), *, seed: int = 0, limit: int = 200) -> list[tuple[dict, Request]]:
    """Under every schema an answer that is greedy and two that are drawn, in a shuffled order."""
    rng, found = random.Random(seed), []
    for number, name in enumerate(names):
        grammar = Grammar(base, SCHEMAS[name])
        for how in (None, Draw(1.0, 1.0, number), Draw(1.5, 0.9, number)):
            prompt = tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(rng.randint(1, 9)))
            found.append((SCHEMAS[name], Request(prompt, None, limit, grammar=grammar, draw=how)))
    rng.shuffle(found)
    return found


def assert_valid(schema: dict, got: Generation) -> None:
    assert not got.truncated
    jsonschema.validate(json.loads(got.text), schema)


# -- what comes out ------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", [*FAMILIES, "embedded"])
def test_every_answer_is_of_its_schema(bases, family):
    base = embedded() if family == "embedded" else bases[family]
    pairs = asked(base)
    told: dict[int, Generation] = {}
    got = generate(base, [one for _, one in pairs], rows=7, on_done=told.__setitem__)
    for (schema, _), one in zip(pairs, got, strict=True):
        assert_valid(schema, one)
        assert one.seconds > 0 and not base.prompts.stop_ids & set(one.ids)
    assert [told[index] for index in range(len(pairs))] == got
    assert len({one.text for one in got}) > len(got) // 2  # the models do say something of their own


def test_greedy_answers_are_the_likeliest_allowed_tokens(base):
    """Against whole rows, read anew for every token, and texts that are tried letter by letter."""
    texts = [json.dumps(list(v)) for n in range(3) for v in itertools.product(["ab", "b"], repeat=n)]
    grammar = Grammar(base, array({"enum": ["ab", "b"]}, 2))
    ordinary = sorted(set(range(len(base.tokenizer))) - set(base.tokenizer.all_special_ids))
    for prompt in ((9,), (7, 8, 30, 12)):
        (got,) = generate(base, [Request(prompt, None, 40, grammar=grammar)])
        said, ids = "", list(prompt)
        while said not in texts:
            with torch.no_grad():
                logits = base.model(input_ids=torch.tensor([ids])).logits[0, -1]
            fits = [t for t in ordinary if begins(said + base.tokenizer.decode([t]), texts)]
            ids.append(max(fits, key=lambda t: float(logits[t])))
            said += base.tokenizer.decode([ids[-1]])
        assert got.text == said and list(got.ids) == ids[len(prompt) :]


def begins(said: str, texts: list[str]) -> bool:
    return any(one.startswith(said) for one in texts)


def test_a_pieces_tokenizer_with_bytes_for_the_rest():
    """Tokenizers with a mark in place of the blank, and bytes for what they have no piece for."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁the",
        "a",
        "b",
        '"',
        '▁"',
        "{",
        '{"',
    ]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    base = SimpleNamespace(prompts=PromptBuilder(tokenizer, 512))
    rng = random.Random(3)
    for name in ("pairs", "unicode"):
        grammar, ids = Grammar(base, SCHEMAS[name]), []
        row = grammar.start()
        while not row.closed:
            ids.append(rng.choice(allowed([row], len(pieces), CPU)[0].nonzero().flatten().tolist()))
            row.take(ids[-1])
        jsonschema.validate(json.loads(grammar.decode(ids)), SCHEMAS[name])
        jsonschema.validate(json.loads(tokenizer.decode(ids)), SCHEMAS[name])


# -- the mask ------------------------------------------------------------------------------------------
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), max_size=4
)  # those two have several spellings
CHOICES = st.lists(WORDS | st.integers(-20, 20) | st.booleans() | st.none(), min_size=1, max_size=4)
SPANS = st.tuples(st.integers(-40, 40), st.integers(0, 12)).filter(
    lambda s: s[0] >= 0 or sum(s) < 0
)  # -0 is 0


def finite(children: st.SearchStrategy) -> st.SearchStrategy:
    """Schemas with all their values: arrays of up to two, and objects."""

    def of_array(child: tuple[dict, list]) -> tuple[dict, list]:
        items, values = child
        return array(items, 2), [list(v) for n in range(3) for v in itertools.product(values, repeat=n)]

    def of_object(fields: dict[str, tuple[dict, list]]) -> tuple[dict, list]:
        rows = itertools.product(*(values for _, values in fields.values()))
        return record(**{k: s for k, (s, _) in fields.items()}), [
            dict(zip(fields, row, strict=True)) for row in rows
        ]

    return children.map(of_array) | st.dictionaries(WORDS, children, max_size=2).map(of_object)


LEAVES = CHOICES.map(lambda values: ({"enum": values}, values)) | SPANS.map(
    lambda span: (
        {"type": "integer", "minimum": span[0], "maximum": sum(span)},
        list(range(span[0], sum(span) + 1)),
    )
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.recursive(LEAVES, finite, max_leaves=3).filter(lambda f: len(f[1]) < 2000), st.integers(0, 99))
def test_a_mask_allows_just_what_can_still_become_valid(schema_and_values, seed):
    """Against all texts there are. Where only one character can follow, the usual tokens of what is to come suffice."""
    schema, values = schema_and_values
    base, rng = embedded(), random.Random(seed)
    whole = sorted({json.dumps(value, ensure_ascii=False).encode() for value in values})
    pieces = [base_bytes(token) for token in range(len(base.tokenizer))]
    row, said = Grammar(base, schema).start(), b""
    while not row.closed:
        open_V = allowed([row], len(pieces), CPU)[0]
        left = [one[len(said) :] for one in whole if one.startswith(said)]
        heads = {one[:n] for one in left for n in range(1, len(one) + 1)}
        fits = {token for token, piece in enumerate(pieces) if piece in heads}
        if b"" in left:
            fits |= base.prompts.stop_ids
        found = set(open_V.nonzero().flatten().tolist())
        assert found and found <= fits
        assert found == fits or (b"" not in left and len({one[0] for one in left}) == 1)
        token = rng.choice(sorted(found))
        row.take(token)
        said += pieces[token]
    assert said in whole


@cache
def base_bytes(token: int) -> bytes:
    """What a token of the embedded base stands for; nothing for special ones."""
    tokenizer = embedded().tokenizer
    if token in tokenizer.all_special_ids:
        return b""
    return bytes(BYTES[letter] for letter in tokenizer.convert_ids_to_tokens(token))


PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(byte): byte for byte in PRINTED} | {
    chr(256 + n): byte for n, byte in enumerate(b for b in range(256) if b not in PRINTED)
}
"""The letter that stands for each byte in a byte-level vocabulary (GPT-2)."""


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.recursive(
        st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda n: text(sum(n), n[0])) | LEAVES.map(lambda f: f[0]),
        lambda s: s.map(lambda one: array(one, 2)) | st.dictionaries(WORDS, s, max_size=2).map(lambda f: record(**f)),
        max_leaves=4,
    ),
    st.sampled_from(FAMILIES), st.integers(0, 99),
)  # fmt: skip
def test_random_allowed_tokens_end_in_valid_json(schema, family, seed):
    rng, base = random.Random(seed), SimpleNamespace(prompts=PromptBuilder(tokenizers(family), 512))
    grammar, ids = Grammar(base, schema), []
    row = grammar.start()
    while not row.closed:
        ids.append(rng.choice(allowed([row], 300, CPU)[0].nonzero().flatten().tolist()))
        row.take(ids[-1])
        assert len(ids) < 1000
    jsonschema.validate(
        json.loads(grammar.decode([t for t in ids if t not in base.prompts.stop_ids])), schema
    )


@cache
def tokenizers(family: str) -> PreTrainedTokenizerFast:
    return make_tokenizer(family)


def test_a_larger_vocabulary_than_the_tokenizers(bases):
    base, size = bases["llama"], len(bases["llama"].tokenizer)
    model = copy.deepcopy(base.model)
    model.resize_token_embeddings(size, pad_to_multiple_of=64, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[size:].normal_(0, 3)  # what is no token is likeliest nearly always
    wide = dataclasses.replace(base, model=model)
    assert model.lm_head.weight.shape[0] % 64 == 0 and model.lm_head.weight.shape[0] > size
    pairs = asked(wide)
    free = generate(wide, [dataclasses.replace(one, grammar=None) for _, one in pairs])
    assert any(token >= size for one in free for token in one.ids)
    for (schema, _), one in zip(pairs, generate(wide, [one for _, one in pairs]), strict=True):
        assert_valid(schema, one)


@pytest.mark.parametrize(
    "schema",
    [{"type": "bad"}, {"not": {}}, {"enum": []}, {"$ref": "#/nope"}, {"type": "string", "pattern": "a("}, text(1, 3)],
)  # fmt: skip
def test_a_schema_that_cannot_be_held_is_refused(bases, schema):
    with pytest.raises(InputError, match="schema: "):
        Grammar(bases["llama"], schema)


def test_a_tokenizer_that_cannot_be_read_is_refused():
    slow = SimpleNamespace(eos_token_id=1, chat_template=None)
    with pytest.raises(InputError, match="fast tokenizers"):
        Grammar(SimpleNamespace(prompts=PromptBuilder(slow, 9)), SCHEMAS["enum"])


def test_a_row_that_took_a_wrong_token_may_only_end(bases):
    base = bases["llama"]
    row = Grammar(base, SCHEMAS["pairs"]).start()
    row.take(base.prompts.tokens("x")[0])
    open_V = allowed([row], 300, CPU)[0]
    assert set(open_V.nonzero().flatten().tolist()) == base.prompts.stop_ids and not row.closed


# -- ends ----------------------------------------------------------------------------------------------
def test_an_answer_ends_with_its_json_and_is_cut_before(base):
    request = asked(base, ["pairs"])[0][1]
    (whole,) = generate(base, [request])
    count = len(whole.ids)
    for limit in (1, count - 1, count, count + 1):
        (got,) = generate(base, [dataclasses.replace(request, max_new_tokens=limit)])
        assert got.truncated == (limit < count) and got.ids == whole.ids[:limit]
    number = dataclasses.replace(request, grammar=Grammar(base, {"const": 1}), max_new_tokens=1)
    assert generate(base, [number])[0] == Generation(
        tuple(base.prompts.tokens("1")), "1", False, len(request.prompt)
    )


def test_a_number_that_may_go_on_is_cut_unless_it_ends(bases):
    base = bases["llama"]
    grammar = Grammar(base, {"type": "integer", "minimum": 10, "maximum": 1010})
    (got,) = generate(base, [Request((9,), None, 2, grammar=grammar)])
    assert got.truncated and len(got.ids) == 2


# -- beside others -------------------------------------------------------------------------------------
def test_answers_are_as_if_asked_alone(base):
    """Held and free, drawn and greedy, whatever the batches; free and greedy ones as they always were."""
    mixed = [one for _, one in asked(base, ["pairs", "enum", "unicode"], limit=60)]
    mixed += [dataclasses.replace(one, grammar=None, max_new_tokens=9) for one in mixed]
    plain = [one for one in mixed if one.grammar is None and one.draw is None]
    alone = [generate(base, [one])[0] for one in mixed]
    for rows in (4, 64):
        assert generate(base, mixed, rows=rows) == alone
        beside = [one for one, request in zip(alone, mixed, strict=True) if request in plain]
        assert generate(base, [Request(one.prompt, None, 9) for one in plain], rows=rows) == beside


def test_answers_after_shared_contexts_are_those_of_whole_prompts(base):
    """Lanes of unequal height: some rows only fill."""
    mixed = [one for _, one in asked(base, ["score", "pairs"], limit=40)]
    prefixes = [(9,) * 12, (8, 7) * 3, (9,) * 12, (9,) * 12, (8, 7) * 3, (30,)]
    shared = [dataclasses.replace(one, prefix=p) for one, p in zip(mixed, prefixes, strict=True)]
    whole = [
        dataclasses.replace(one, prompt=(*p, *one.prompt)) for one, p in zip(mixed, prefixes, strict=True)
    ]
    assert generate(base, shared) == generate(base, whole)


def test_equal_seeds_draw_the_same_and_others_do_not(base):
    def answers(*draws: Draw | None) -> list[tuple[int, ...]]:
        return [
            one.ids for one in generate(base, [Request((9, 30, 12), None, 12, draw=one) for one in draws])
        ]

    one, same, other, hot = answers(Draw(1, 1, 5), Draw(1, 1, 5), Draw(1, 1, 6), Draw(3, 1, 5))
    assert one == same and len({one, other, hot}) == 3
    greedy, zero, narrow, cold = answers(None, Draw(0, 1, 5), Draw(1, 1e-9, 5), Draw(1e-300, 1, 5))
    assert greedy == zero == narrow == cold


# -- drawing -------------------------------------------------------------------------------------------
def drawn(logits: list[float], temperature: float, top_p: float, dtype=torch.float32) -> list[float]:
    """Share of each token among draws at evenly spaced numbers."""
    count = 2000
    numbers_R = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    same_R = torch.ones(count, dtype=torch.float64)
    tokens_R = draw(
        torch.tensor([logits], dtype=dtype).expand(count, -1), same_R * temperature, same_R * top_p, numbers_R
    )
    return (torch.bincount(tokens_R, minlength=len(logits)).double() / count).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature, dtype):
    logits = [0.5, -torch.inf, 2.0, -1.0, 1.5]
    chances = (torch.tensor(logits).double() / temperature).softmax(0).tolist()
    assert drawn(logits, temperature, 1.0, dtype) == pytest.approx(chances, abs=1e-3)


@pytest.mark.parametrize(
    "top_p, kept", [(0.39, [3]), (0.41, [3, 1]), (0.69, [3, 1]), (0.71, [3, 1, 0]), (0.91, [0, 1, 2, 3])]
)
def test_a_nucleus_has_as_few_tokens_as_reach_its_share(top_p, kept):
    chances = [0.2, 0.3, 0.1, 0.4]
    total = sum(chances[token] for token in kept)
    shares = [chance / total if token in kept else 0 for token, chance in enumerate(chances)]
    assert drawn([*torch.tensor(chances).log().tolist()], 1.0, top_p) == pytest.approx(shares, abs=1e-3)


def test_the_last_number_draws_a_token_that_can_be_drawn():
    logits_RV = torch.tensor([[1.0, 0.0, -torch.inf, -torch.inf]]).repeat(2, 1)
    most = torch.tensor([1 - 2**-53, 0.0], dtype=torch.float64)
    assert draw(logits_RV, torch.ones(2).double(), torch.ones(2).double(), most).tolist() == [1, 0]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}]
)
def test_what_cannot_be_drawn_by_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Draw(**wrong)
